"""Measuring a directory tree in Python, to the byte as ``du --summarize --block-size=1`` does alone.

:class:`Walk`, which removing uses too (:mod:`platform_db.workspaces.removal`), descends by file descriptor,
one name at a time: so a symbolic link that takes a directory's place meanwhile is not followed, and neither
the recursion limit nor the longest allowed path bounds the depth. Files are never opened, only asked for
their metadata.

Run as a script, this file is the worker of :mod:`platform_db.workspaces.measure`. It imports nothing but the
quickest-loading part of the standard library, since every worker waits for these imports.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# How many directories of a branch stay open. Those further up are opened again through ".." on the way back.
OPEN_DIRECTORIES = 32
# Gone, or no longer a directory: the workspace is in use while it is read. That is not an error.
VANISHED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE})
# Our own shortage says nothing about the workspace, so no figure is made from it.
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
MESSAGE_LENGTH = 200
MOVED = "a directory was moved meanwhile"


class Directory:
    """A directory of the tree.

    :param size: the bytes that count for it; a scan adds those of all that is in it.
    :param states: for removing, where the pattern stands in it.
    """

    __slots__ = ("descriptor", "identity", "name", "path", "size", "states", "waiting")

    def __init__(
        self, name: str, status: os.stat_result, size: int, states: frozenset[int] = frozenset()
    ) -> None:
        self.name = name
        self.states = states
        self.path = b""  # from the workspace, starting with "/"; kept only where names are reported
        self.identity = (status.st_dev, status.st_ino)
        self.size = size
        self.descriptor: int | None = None
        self.waiting: list[Directory] = []

    def close(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


class Walk:
    """One walk through one tree: reads a directory, walks through those that wait in it, leaves it.

    :param pace: called before each directory is read; it may sleep, or raise to end the walk.
    """

    def __init__(self, pace: Callable[[], None] | None = None) -> None:
        self.pace = pace or (lambda: None)
        self.failed = 0  # how many names could not be read or handled
        self.first_error = ""

    def read(self, directory: Directory) -> None:
        """Handle what stands directly in ``directory``, and note which directories wait there."""
        raise NotImplementedError

    def enter(self, directory: Directory, parent: Directory) -> bool:
        """Open ``directory``; return whether to walk through it."""
        try:
            directory.descriptor = os.open(directory.name, OPEN_DIRECTORY, dir_fd=parent.descriptor)
        except OSError as error:
            self.note(error, directory.name)
            return False
        return True

    def leave(self, directory: Directory, parent: Directory) -> None:
        """Do what is to be done once all in ``directory``, which is closed by now, has been handled."""

    def walk(self, top: Directory) -> None:
        """Walk through the open directory ``top``, and close it."""
        branch, identities = [top], {top.identity}
        try:
            self.read(top)
            while True:
                directory = branch[-1]
                if directory.waiting:
                    child = directory.waiting.pop()
                    # A mount can show a directory inside itself; du leaves such a repetition out.
                    if child.identity in identities or not self.enter(child, directory):
                        continue
                    branch.append(child)
                    identities.add(child.identity)
                    if len(branch) > OPEN_DIRECTORIES:
                        branch[-1 - OPEN_DIRECTORIES].close()
                    self.read(child)
                elif len(branch) == 1:
                    return
                else:
                    identities.discard(branch.pop().identity)
                    self._open_again(branch[-1], directory)
                    directory.close()
                    self.leave(directory, branch[-1])
        finally:
            for directory in branch:
                directory.close()

    def note(self, error: OSError, name: str) -> bool:
        """Count what cannot be read or handled; return whether it is there at all."""
        if error.errno in EXHAUSTED:
            raise error
        if error.errno in VANISHED:
            return False
        shown = os.fsencode(name)[-MESSAGE_LENGTH // 2 :].decode(errors="backslashreplace")
        self.fail(1, f"{error.strerror}: {shown!r}"[:MESSAGE_LENGTH])
        return True

    def fail(self, count: int, reason: str) -> None:
        """Count so many names that could not be read or handled."""
        self.failed += count
        self.first_error = self.first_error or reason

    def _open_again(self, parent: Directory, directory: Directory) -> None:
        """Open ``parent`` again, from the directory in it, if it was closed."""
        if parent.descriptor is not None:
            return
        if directory.descriptor is not None:
            try:
                parent.descriptor = os.open("..", OPEN_DIRECTORY, dir_fd=directory.descriptor)
            except OSError as error:
                self.note(error, "..")
            else:
                status = os.fstat(parent.descriptor)
                if (status.st_dev, status.st_ino) != parent.identity:
                    parent.close()
        if parent.descriptor is None and parent.waiting:
            # The branch was moved away; the directories that still wait there were never read.
            self.fail(len(parent.waiting), MOVED)
            parent.waiting.clear()


class Scan(Walk):
    """One walk through one workspace that adds up its bytes.

    :param apparent: add up the sizes of files and symbolic links, as ``du --apparent-size`` does from
        coreutils 9.2 on; what size a file system shows for a directory or a device means nothing.
    :param pace: called before each directory is read; it may sleep.
    :param report: called with each name and its bytes, for a directory after and including all that is in it.
    """

    def __init__(
        self,
        apparent: bool = False,
        pace: Callable[[], None] | None = None,
        report: Callable[[bytes, int], None] | None = None,
    ) -> None:
        super().__init__(pace)
        self.apparent = apparent
        self.report = report
        self.linked: set[tuple[int, int]] = set()

    def run(self, path: bytes) -> int:
        """Return the bytes of the tree at ``path``; a symbolic link there counts as itself.

        :param path: without a slash at the end, which would follow a link.
        :raises OSError: there is no such path, it is gone by now, or nothing of it can be read.
        """
        status = os.lstat(path)
        top = Directory("/", status, self._size(status))
        if stat.S_ISDIR(status.st_mode):
            top.descriptor = os.open(path, OPEN_DIRECTORY)
            self.walk(top)
            # Half of a workspace that was removed meanwhile is no figure.
            os.lstat(path)
        if self.report:
            self.report(b"", top.size)
        return top.size

    def read(self, directory: Directory) -> None:
        self.pace()
        total, waiting, apparent, report = 0, directory.waiting, self.apparent, self.report
        try:
            with os.scandir(directory.descriptor) as entries:
                for entry in entries:
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except OSError as error:
                        self.note(error, entry.name)
                        continue
                    size = self._size(status) if apparent else status.st_blocks * 512
                    if stat.S_ISDIR(status.st_mode):
                        waiting.append(Directory(entry.name, status, size))
                        continue
                    if status.st_nlink > 1:
                        identity = (status.st_dev, status.st_ino)
                        if identity in self.linked:
                            continue
                        self.linked.add(identity)
                    total += size
                    if report:
                        report(directory.path + b"/" + os.fsencode(entry.name), size)
        except OSError as error:
            self.note(error, directory.name)
        directory.size += total

    def enter(self, directory: Directory, parent: Directory) -> bool:
        """Open ``directory``; one that cannot be read counts without what is in it."""
        if self.report:
            directory.path = parent.path + b"/" + os.fsencode(directory.name)
        failed = self.failed
        entered = super().enter(directory, parent)
        if self.failed > failed:
            self.leave(directory, parent)
        return entered

    def leave(self, directory: Directory, parent: Directory) -> None:
        """Add the bytes of ``directory``, with all that is in it, to its parent's."""
        parent.size += directory.size
        if self.report:
            self.report(directory.path, directory.size)

    def _size(self, status: os.stat_result) -> int:
        if not self.apparent:
            return status.st_blocks * 512
        if stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
            return status.st_size
        return 0


class Pace:
    """Sleeps as long as was worked, so that one process uses at most half of what it could.

    Sleeping starts after a tenth of a second of work: shorter sleeps would mostly measure the timer.
    """

    WORK_SECONDS = 0.1

    def __init__(self) -> None:
        self.started = time.monotonic()

    def __call__(self) -> None:
        worked = time.monotonic() - self.started
        if worked >= self.WORK_SECONDS:
            time.sleep(worked)
            self.started = time.monotonic()


def serve(apparent: bool, gentle: bool) -> None:
    """Measure the NUL-terminated paths of standard input and answer each with a NUL-terminated line.

    An answer is ``BYTES UNREADABLE FIRST-ERROR``, or ``!ERRNO REASON``.
    """
    pace = None
    if gentle:
        # Linux derives the I/O priority from the nice value unless one is set: 19 is the lowest of its class.
        os.nice(19)
        pace = Pace()
    rest = b""
    while chunk := os.read(0, 65536):
        *paths, rest = (rest + chunk).split(b"\0")
        answers = bytearray()
        for path in paths:
            scan = Scan(apparent, pace)
            try:
                answer = f"{scan.run(path)} {scan.failed} {scan.first_error}"
            except OSError as error:
                answer = f"!{error.errno} {error.strerror}"
            answers += answer.encode(errors="backslashreplace") + b"\0"
        while answers:
            del answers[: os.write(1, answers)]


if __name__ == "__main__":
    serve(apparent="--apparent" in sys.argv, gentle="--gentle" in sys.argv)
