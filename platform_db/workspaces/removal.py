"""Removing from a workspace what patterns name: inside it only, whatever its owner has put there.

Everything is reached by file descriptors from the workspace's own directory, one name at a time and never
through a symbolic link: neither a link nor a directory that is exchanged for one meanwhile leads out of it.
A link that a pattern names is removed itself; what it points at stays.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase

from platform_db.workspaces.measurement import WorkspaceError, WorkspacePath, workspace_error
from platform_db.workspaces.paths import resolve
from platform_db.workspaces.scan import EXHAUSTED, OPEN_DIRECTORY, VANISHED

# How deep directories may lie in each other: each that is being emptied is open.
DEEPEST = 200

# What stands below every directory that is removed as a whole.
_ALL = frozenset({-1})


@dataclass
class Removal:
    """What was removed.

    :param files: how many files, links and directories.
    :param bytes: how much space that freed; a file that has another name as well frees none.
    :param failed: how many that a pattern names could not be removed.
    :param first_error: the first of those, and why.
    """

    files: int = 0
    bytes: int = 0
    failed: int = 0
    first_error: str | None = None


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
    :param pace: called before each directory is read.
    :raises MissingWorkspaceError: there is no such workspace.
    :raises WorkspaceError: it is no directory, or cannot be read.
    """
    name = resolve(path)
    if name.count(b"/") < 2:
        raise WorkspaceError(f"{name.decode(errors='backslashreplace')!r} is no workspace: too near the root")
    removal = Removal()
    wanted = _Pattern(pattern)
    try:
        root = os.open(name, OPEN_DIRECTORY)
    except OSError as error:
        if error.errno == errno.ENOTDIR and os.path.lexists(name):
            raise WorkspaceError(
                f"workspace {name.decode(errors='backslashreplace')!r} is no directory"
            ) from None
        raise workspace_error(name, error.errno, error.strerror or str(error)) from None
    try:
        walk = _Walk(wanted, removal, os.fstat(root).st_dev, pace)
        walk.visit(root, wanted.start, 0)
    finally:
        os.close(root)
    return removal


class _Walk:
    """One walk through one workspace."""

    def __init__(
        self, pattern: _Pattern, removal: Removal, device: int, pace: Callable[[], None] | None
    ) -> None:
        self.pattern = pattern
        self.removal = removal
        self.device = device
        self.pace = pace

    def visit(self, directory: int, states: frozenset[int], depth: int) -> None:
        """Remove what is named in the open ``directory``."""
        if not states:
            return
        if self.pace:
            self.pace()
        for name in self._names(directory):
            # All is named below a directory that is named itself.
            matched, below = (True, _ALL) if states == _ALL else self.pattern.step(states, name)
            if matched or below:
                self._handle(directory, name, matched, below, depth)

    def _names(self, directory: int) -> list[str]:
        try:
            with os.scandir(directory) as entries:
                return [entry.name for entry in entries]
        except OSError as error:
            self._note(error, ".")
            return []

    def _handle(self, parent: int, name: str, matched: bool, below: frozenset[int], depth: int) -> None:
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                if status.st_dev != self.device:
                    return
                if depth == DEEPEST:
                    raise OSError(errno.ENAMETOOLONG, "lies too deep")
                with _open(name, parent) as directory:
                    self.visit(directory, _ALL if matched else below, depth + 1)
                if matched:
                    os.rmdir(name, dir_fd=parent)
            elif matched:
                os.unlink(name, dir_fd=parent)
        except OSError as error:
            self._note(error, name)
            return
        if matched:
            self.removal.files += 1
            if stat.S_ISDIR(status.st_mode) or status.st_nlink == 1:
                self.removal.bytes += status.st_blocks * 512

    def _note(self, error: OSError, name: str) -> None:
        if error.errno in EXHAUSTED:
            raise error
        if error.errno in VANISHED:
            return
        self.removal.failed += 1
        shown = name.encode(errors="surrogateescape")[-100:].decode(errors="backslashreplace")
        self.removal.first_error = self.removal.first_error or f"{error.strerror}: {shown!r}"


@contextmanager
def _open(name: str, parent: int) -> Iterator[int]:
    descriptor = os.open(name, OPEN_DIRECTORY, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
