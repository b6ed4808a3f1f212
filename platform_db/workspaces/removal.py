"""Removing from a workspace what patterns name: inside it only, whatever its owner has put there.

Everything is reached by file descriptors from the root of workspaces, one name at a time and never through a
symbolic link: neither a link nor a directory that is exchanged for one meanwhile leads out of the workspace.
A link that a pattern names is removed itself; what it points at stays.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from platform_db.workspaces.measurement import WorkspacePath
from platform_db.workspaces.opening import open_workspace
from platform_db.workspaces.scan import EXHAUSTED, OPEN_DIRECTORIES, OPEN_DIRECTORY, VANISHED

# How many names of a directory are handled between two calls of ``pace``.
NAMES = 100

# What stands below every directory that is removed as a whole.
_ALL = frozenset({-1})


class StopRemoval(Exception):
    """Raised by ``pace``: no more is to be removed."""


@dataclass
class Removal:
    """What was removed.

    :param files: how many files, links and directories.
    :param bytes: how much space that freed; a file that has another name as well frees none.
    :param failed: how many that a pattern names could not be removed.
    :param first_error: the first of those, and why.
    :param stopped: whether it was ended before all was removed.
    """

    files: int = 0
    bytes: int = 0
    failed: int = 0
    first_error: str | None = None
    stopped: bool = False


class _Pattern:
    """A shell pattern of a path: ``*`` and ``?`` stay within a name, ``**`` stands for any directories."""

    def __init__(self, pattern: str) -> None:
        self.parts = [part for part in pattern.split("/") if part not in ("", ".")]
        # Nothing that lies in the workspace is called so.
        if pattern.startswith("/") or ".." in self.parts or "\0" in pattern:
            self.parts = []

    @property
    def start(self) -> frozenset[int]:
        """Where the pattern stands in the workspace itself: which of its parts may name something there."""
        return self._skip({0}) if self.parts else frozenset()

    def step(self, states: frozenset[int], name: str) -> tuple[bool, frozenset[int]]:
        """Return whether the pattern names ``name``, and where it stands below it."""
        last, matched, after = len(self.parts) - 1, False, set()
        for state in states:
            if self.parts[state] == "**":
                matched |= state == last
                after.add(state)
            elif fnmatchcase(name, self.parts[state]):
                matched |= state == last
                after.add(state + 1)
        return matched, self._skip({state for state in after if state <= last})

    def _skip(self, states: set[int]) -> frozenset[int]:
        """Let each ``**`` stand for no directory at all, too; at the end it stands for at least one name."""
        reached = set(states)
        for state in states:
            while self.parts[state] == "**" and state + 1 < len(self.parts):
                state += 1
                reached.add(state)
        return frozenset(reached)


def remove_matching(path: WorkspacePath, pattern: str, *, pace: Callable[[], None] | None = None) -> Removal:
    """Remove what ``pattern`` names in the workspace at ``path``; a directory goes with all that is in it.

    A pattern that starts at ``/`` or has ``..`` in it names nothing. Mounts are left alone.

    :param pattern: such as ``*.tmp``, ``data/*.root`` or ``**/*.log``: ``*`` stays within a name, ``**``
        stands for any directories.
    :param pace: called before each directory is read, and every :data:`NAMES` names in it. What was removed
        before it raises :class:`StopRemoval` is returned.
    :raises MissingWorkspaceError: there is no such workspace.
    :raises WorkspaceError: it may not be touched, or cannot be read; see
        :func:`~platform_db.workspaces.opening.open_workspace`.
    """
    removal = Removal()
    walk = _Walk(_Pattern(pattern), removal, pace)
    try:
        walk.run(open_workspace(path))
    except StopRemoval:
        removal.stopped = True
    return removal


class _Directory:
    """A directory on the branch that is being walked.

    :param named: whether it is to be removed itself.
    :param states: where the pattern stands in it.
    """

    __slots__ = ("descriptor", "identity", "name", "named", "size", "states", "waiting")

    def __init__(self, name: str, descriptor: int, named: bool, states: frozenset[int]) -> None:
        status = os.fstat(descriptor)
        self.name = name
        self.descriptor: int | None = descriptor
        self.identity = (status.st_dev, status.st_ino)
        self.size = status.st_blocks * 512
        self.named = named
        self.states = states
        self.waiting: list[tuple[str, bool, frozenset[int]]] = []

    def close(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


class _Walk:
    """One walk through one workspace.

    Only the lowest directories of the branch are open, as in :mod:`platform_db.workspaces.scan`: so there may
    be any number in each other.
    """

    def __init__(self, pattern: _Pattern, removal: Removal, pace: Callable[[], None] | None) -> None:
        self.pattern = pattern
        self.removal = removal
        self.pace = pace or (lambda: None)
        self.branch: list[_Directory] = []
        self.identities: set[tuple[int, int]] = set()

    def run(self, root: int) -> None:
        """Remove what is named in the open directory ``root``, and close it."""
        self.branch = [_Directory(".", root, False, self.pattern.start)]
        self.identities = {self.branch[0].identity}
        try:
            if self.pattern.start:
                self._read(self.branch[0])
            while self.branch:
                if self.branch[-1].waiting:
                    self._enter(*self.branch[-1].waiting.pop())
                else:
                    self._leave(self.branch[-1])
        finally:
            for directory in self.branch:
                directory.close()

    def _read(self, directory: _Directory) -> None:
        """Remove the files that are named in a directory, and note which directories are to be entered."""
        self.pace()
        for number, name in enumerate(self._names(directory), 1):
            # All is named below a directory that is named itself.
            named, below = (
                (True, _ALL) if directory.states == _ALL else self.pattern.step(directory.states, name)
            )
            if named or below:
                self._handle(directory, name, named, below)
            if number % NAMES == 0:
                self.pace()

    def _names(self, directory: _Directory) -> list[str]:
        try:
            with os.scandir(directory.descriptor) as entries:
                return [entry.name for entry in entries]
        except OSError as error:
            self._note(error, directory.name)
            return []

    def _handle(self, parent: _Directory, name: str, named: bool, below: frozenset[int]) -> None:
        try:
            status = os.stat(name, dir_fd=parent.descriptor, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                parent.waiting.append((name, named, _ALL if named else below))
            elif named:
                os.unlink(name, dir_fd=parent.descriptor)
                self._count(status.st_blocks * 512 if status.st_nlink == 1 else 0)
        except OSError as error:
            self._note(error, name)

    def _enter(self, name: str, named: bool, states: frozenset[int]) -> None:
        try:
            descriptor = os.open(name, OPEN_DIRECTORY, dir_fd=self.branch[-1].descriptor)
        except OSError as error:
            self._note(error, name)
            return
        directory = _Directory(name, descriptor, named, states)
        # A mount, which may also show a directory inside itself.
        if directory.identity[0] != self.branch[0].identity[0] or directory.identity in self.identities:
            directory.close()
            return
        self.branch.append(directory)
        self.identities.add(directory.identity)
        if len(self.branch) > OPEN_DIRECTORIES:
            self.branch[-1 - OPEN_DIRECTORIES].close()
        self._read(directory)

    def _leave(self, directory: _Directory) -> None:
        """Go back to the directory above, and remove the one that was left if it is named."""
        parent = self.branch[-2] if len(self.branch) > 1 else None
        if parent is not None:
            self._open_again(parent, directory)
        directory.close()
        self.identities.discard(self.branch.pop().identity)
        if parent is None or not directory.named or parent.descriptor is None:
            return
        try:
            os.rmdir(directory.name, dir_fd=parent.descriptor)
        except OSError as error:
            self._note(error, directory.name)
        else:
            self._count(directory.size)

    def _open_again(self, parent: _Directory, directory: _Directory) -> None:
        """Open ``parent`` again, from the directory in it, if it was closed."""
        if parent.descriptor is None and directory.descriptor is not None:
            try:
                descriptor = os.open("..", OPEN_DIRECTORY, dir_fd=directory.descriptor)
            except OSError as error:
                self._note(error, "..")
            else:
                status = os.fstat(descriptor)
                if (status.st_dev, status.st_ino) == parent.identity:
                    parent.descriptor = descriptor
                else:
                    os.close(descriptor)
        if parent.descriptor is None and (parent.waiting or directory.named):
            self.removal.failed += len(parent.waiting) + directory.named
            self.removal.first_error = self.removal.first_error or "a directory was moved meanwhile"
            parent.waiting.clear()

    def _count(self, size: int) -> None:
        self.removal.files += 1
        self.removal.bytes += size

    def _note(self, error: OSError, name: str) -> None:
        if error.errno in EXHAUSTED:
            raise error
        if error.errno in VANISHED:
            return
        self.removal.failed += 1
        shown = name.encode(errors="surrogateescape")[-100:].decode(errors="backslashreplace")
        self.removal.first_error = self.removal.first_error or f"{error.strerror}: {shown!r}"
