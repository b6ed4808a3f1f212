"""Measuring a directory tree in Python, to the byte as ``du --summarize --block-size=1`` does alone.

Descends by file descriptor, one name at a time: so a symbolic link that takes a directory's place meanwhile
is not followed, and neither the recursion limit nor the longest allowed path bounds the depth. Files are
never opened, only asked for their metadata.

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
# Gone, or no longer a directory: somebody works in the workspace while it is measured. That is no error.
VANISHED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE})
# Our own shortage says nothing about the workspace, so no figure is made from it.
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
MESSAGE_LENGTH = 200


class Directory:
    """A directory on the branch that is being walked."""

    __slots__ = ("descriptor", "identity", "name", "size", "waiting")

    def __init__(self, name: bytes, identity: tuple[int, int], size: int, descriptor: int) -> None:
        self.name = name  # from the workspace, starting with "/"; kept only where names are reported
        self.identity = identity
        self.size = size
        self.descriptor: int | None = descriptor
        self.waiting: list[tuple[bytes, os.stat_result]] = []


class Scan:
    """One walk through one workspace.

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
        self.apparent = apparent
        self.pace = pace
        self.report = report
        self.unreadable = 0
        self.first_error = ""
        self.linked: set[tuple[int, int]] = set()

    def run(self, path: bytes) -> int:
        """Return the bytes of the tree at ``path``; a symbolic link there counts as itself.

        :param path: without a slash at the end, which would follow a link.
        :raises OSError: there is no such path, it is gone by now, or nothing of it can be read.
        """
        status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode):
            size = self._size(status)
            if self.report:
                self.report(b"", size)
            return size
        size = self._walk(os.open(path, OPEN_DIRECTORY), status)
        # Half of a workspace that was removed meanwhile is no figure.
        os.lstat(path)
        return size

    def _walk(self, descriptor: int, status: os.stat_result) -> int:
        branch = [Directory(b"", (status.st_dev, status.st_ino), self._size(status), descriptor)]
        ancestors = {branch[0].identity}
        try:
            self._read(branch[0])
            while True:
                directory = branch[-1]
                if directory.waiting:
                    child = self._enter(directory, ancestors)
                    if child is None:
                        continue
                    branch.append(child)
                    ancestors.add(child.identity)
                    if len(branch) > OPEN_DIRECTORIES:
                        _close(branch[-1 - OPEN_DIRECTORIES])
                    self._read(child)
                    continue
                if self.report:
                    self.report(directory.name, directory.size)
                if len(branch) == 1:
                    return directory.size
                self._leave(directory, branch[-2])
                branch[-2].size += directory.size
                ancestors.discard(directory.identity)
                branch.pop()
        finally:
            for directory in branch:
                _close(directory)

    def _read(self, directory: Directory) -> None:
        """Add what stands directly in ``directory``, and note which directories wait there."""
        if self.pace:
            self.pace()
        total, waiting, apparent, report = 0, directory.waiting, self.apparent, self.report
        try:
            with os.scandir(directory.descriptor) as entries:
                for entry in entries:
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except OSError as error:
                        self._note(error, os.fsencode(entry.name))
                        continue
                    if stat.S_ISDIR(status.st_mode):
                        waiting.append((os.fsencode(entry.name), status))
                        continue
                    if status.st_nlink > 1:
                        identity = (status.st_dev, status.st_ino)
                        if identity in self.linked:
                            continue
                        self.linked.add(identity)
                    size = self._size(status) if apparent else status.st_blocks * 512
                    total += size
                    if report:
                        report(directory.name + b"/" + os.fsencode(entry.name), size)
        except OSError as error:
            self._note(error, directory.name or b"/")
        directory.size += total

    def _enter(self, parent: Directory, ancestors: set[tuple[int, int]]) -> Directory | None:
        """Open the next directory that waits in ``parent``."""
        name, status = parent.waiting.pop()
        identity = (status.st_dev, status.st_ino)
        # A mount can show a directory inside itself; du leaves such a repetition out.
        if identity in ancestors:
            return None
        full_name = parent.name + b"/" + name if self.report else b""
        size = self._size(status)
        try:
            descriptor = os.open(name, OPEN_DIRECTORY, dir_fd=parent.descriptor)
        except OSError as error:
            if self._note(error, name):
                parent.size += size
                if self.report:
                    self.report(full_name, size)
            return None
        return Directory(full_name, identity, size, descriptor)

    def _leave(self, directory: Directory, parent: Directory) -> None:
        """Close ``directory`` and make sure that its parent is open if anything still waits there."""
        if parent.descriptor is None and directory.descriptor is not None:
            try:
                descriptor = os.open("..", OPEN_DIRECTORY, dir_fd=directory.descriptor)
            except OSError as error:
                self._note(error, b"..")
            else:
                status = os.fstat(descriptor)
                if (status.st_dev, status.st_ino) == parent.identity:
                    parent.descriptor = descriptor
                else:
                    os.close(descriptor)
        if parent.descriptor is None and parent.waiting:
            # Somebody moved the branch away; what still waits up there was never seen.
            self.unreadable += len(parent.waiting)
            self.first_error = self.first_error or "a directory was moved while it was read"
            parent.waiting.clear()
        _close(directory)

    def _size(self, status: os.stat_result) -> int:
        if not self.apparent:
            return status.st_blocks * 512
        if stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
            return status.st_size
        return 0

    def _note(self, error: OSError, name: bytes) -> bool:
        """Count what cannot be read; return whether it is there at all."""
        if error.errno in EXHAUSTED:
            raise error
        if error.errno in VANISHED:
            return False
        self.unreadable += 1
        if not self.first_error:
            shown = name[-MESSAGE_LENGTH // 2 :].decode(errors="backslashreplace")
            self.first_error = f"{error.strerror}: {shown!r}"[:MESSAGE_LENGTH]
        return True


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
                answer = f"{scan.run(path)} {scan.unreadable} {scan.first_error}"
            except OSError as error:
                answer = f"!{error.errno} {error.strerror}"
            answers += answer.encode(errors="backslashreplace") + b"\0"
        while answers:
            del answers[: os.write(1, answers)]


def _close(directory: Directory) -> None:
    if directory.descriptor is not None:
        os.close(directory.descriptor)
        directory.descriptor = None


if __name__ == "__main__":
    serve(apparent="--apparent" in sys.argv, gentle="--gentle" in sys.argv)
