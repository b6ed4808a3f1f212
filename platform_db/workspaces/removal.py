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
from uuid import UUID

from platform_db.workspaces.opening import open_workspace
from platform_db.workspaces.scan import MOVED, Directory, Walk
from platform_db.workspaces.stored_files import OWN

# How many names of a directory are handled between two calls of ``pace``.
NAMES = 100

# Where every pattern stands in a directory that is removed as a whole.
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


def remove_matching(
    path: str, owner_id: UUID, pattern: str, *, pace: Callable[[], None] | None = None
) -> Removal:
    """Remove what ``pattern`` names in the workspace at ``path``; a directory goes with all that is in it.

    A pattern that starts at ``/`` or has ``..`` in it names nothing. Mounts are left alone, and so is
    ``.platform-db``, where results lie.

    :param owner_id: whose workspace it is; it has to lie in this user's part of a root.
    :param pattern: such as ``*.tmp``, ``data/*.root`` or ``**/*.log``: ``*`` stays within a name, ``**``
        stands for any directories.
    :param pace: called before each directory is read, and every :data:`NAMES` names in it. What was removed
        before it raises :class:`StopRemoval` is returned.
    :raises MissingWorkspaceError: there is no such workspace.
    :raises WorkspaceError: it may not be touched, or cannot be read; see
        :func:`~platform_db.workspaces.opening.open_workspace`.
    :raises errors.StorageMissing: its root is missing or empty.
    """
    removal = Removal()
    walk = _Remover(open_workspace(path, owner_id), _Pattern(pattern), removal, pace)
    try:
        walk.walk(walk.top)
    except StopRemoval:
        removal.stopped = True
    removal.failed, removal.first_error = walk.failed, walk.first_error or None
    return removal


class _Remover(Walk):
    """The walk through one workspace that removes what the pattern names.

    :param workspace: the workspace's directory, open.
    """

    def __init__(
        self, workspace: int, pattern: _Pattern, removal: Removal, pace: Callable[[], None] | None
    ) -> None:
        super().__init__(pace)
        self.pattern = pattern
        self.removal = removal
        self.mount = _mount_of(workspace)
        self.top = Directory(".", os.fstat(workspace), 0, pattern.start)
        self.top.descriptor = workspace

    def read(self, directory: Directory) -> None:
        """Remove the files that are named in ``directory``, and note which directories are to be entered."""
        self.pace()
        try:
            with os.scandir(directory.descriptor) as entries:
                names = [entry.name for entry in entries if directory is not self.top or entry.name != OWN]
        except OSError as error:
            self.note(error, directory.name)
            return
        for number, name in enumerate(names, 1):
            named, below = directory.states == _ALL, directory.states
            if not named:
                named, below = self.pattern.step(directory.states, name)
            if named or below:
                self._handle(directory, name, named, _ALL if named else below)
            if number % NAMES == 0:
                self.pace()

    def enter(self, directory: Directory, parent: Directory) -> bool:
        """Open ``directory``, unless something is mounted there."""
        if not super().enter(directory, parent):
            return False
        if directory.descriptor is not None and _mount_of(directory.descriptor) == self.mount:
            return True
        directory.close()
        return False

    def leave(self, directory: Directory, parent: Directory) -> None:
        """Remove ``directory`` itself if it is named."""
        if directory.states != _ALL:
            return
        if parent.descriptor is None:
            self.fail(1, MOVED)
            return
        try:
            os.rmdir(directory.name, dir_fd=parent.descriptor)
        except OSError as error:
            self.note(error, directory.name)
        else:
            self._count(directory.size)

    def _handle(self, parent: Directory, name: str, named: bool, states: frozenset[int]) -> None:
        try:
            status = os.stat(name, dir_fd=parent.descriptor, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                parent.waiting.append(Directory(name, status, status.st_blocks * 512, states))
            elif named:
                os.unlink(name, dir_fd=parent.descriptor)
                self._count(status.st_blocks * 512 if status.st_nlink == 1 else 0)
        except OSError as error:
            self.note(error, name)

    def _count(self, size: int) -> None:
        self.removal.files += 1
        self.removal.bytes += size


def _mount_of(descriptor: int) -> int:
    """Return the id of the mount that an open directory is on.

    A bind mount of the same file system has the same device, so only Linux's own number tells it apart.
    """
    try:
        with open(f"/proc/self/fdinfo/{descriptor}") as lines:  # noqa: PTH123 - one for each directory
            for line in lines:
                if line.startswith("mnt_id:"):
                    return int(line.split()[1])
    except OSError:
        pass  # Not Linux, or /proc is not mounted.
    return os.fstat(descriptor).st_dev
