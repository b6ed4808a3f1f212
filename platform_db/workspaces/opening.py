"""Opening roots and workspaces safely: a root must exist, and no link is followed below it."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from uuid import UUID

from platform_db import errors
from platform_db.workspaces.measurement import MissingWorkspaceError, WorkspaceError, workspace_error
from platform_db.workspaces.paths import resolve, root_of
from platform_db.workspaces.scan import OPEN_DIRECTORY


def require_storage(path: str) -> None:
    """Make sure that the root that the canonical ``path`` lies below is there, if it lies below one.

    So a workspace that is missing was removed, and is not on storage that is not mounted.

    :raises errors.StorageMissing: the root is missing or empty.
    """
    if (root := root_of(path)) is not None:
        require_root(root)


def require_root(root: str) -> None:
    """Make sure that a root is there and holds something.

    :raises errors.StorageMissing: it is missing or empty.
    """
    os.close(_open_root(root))


def open_workspace(path: str, owner_id: UUID, *below: str, create: bool = False) -> int:
    """Return a descriptor of a managed workspace's directory, for the caller to close.

    The root is the operator's and may be a link. What lies below it is the tenants', so each directory there
    is opened by itself.

    :param below: names that lead from the workspace to a directory in it, which is meant.
    :param create: make the directories that are missing below the root.
    :raises MissingWorkspaceError: it is gone, though its root is there and holds something.
    :raises WorkspaceError: it does not lie in its owner's part of a root, or lies behind a link, is no
        directory or cannot be read.
    :raises errors.StorageMissing: its root is missing or empty, as where storage is not mounted.
    """
    shown = os.fsdecode(resolve(path))
    root = root_of(shown, f"users/{owner_id}/")
    if root is None:
        raise WorkspaceError(
            f"workspace {shown!r} is not managed: it does not lie below ROOT/users/{owner_id} of any root"
        )
    directory = _open_root(root)
    try:
        for part in (*shown.removeprefix(root).strip("/").split("/"), *below):
            parent, directory = directory, _open(part, directory, shown, create=create)
            os.close(parent)
    except BaseException:
        os.close(directory)
        raise
    return directory


def _open_root(root: str) -> int:
    try:
        directory = os.open(root, OPEN_DIRECTORY & ~os.O_NOFOLLOW)
    except OSError as error:
        raise errors.StorageMissing(f"workspace root {root!r} cannot be read: {error.strerror}") from None
    with os.scandir(directory) as entries:
        if next(entries, None) is not None:
            return directory
    os.close(directory)
    raise errors.StorageMissing(f"workspace root {root!r} is empty: is its storage mounted?")


def _open(part: str, parent: int, shown: str, *, create: bool) -> int:
    try:
        if create:
            with suppress(FileExistsError):
                os.mkdir(part, dir_fd=parent)
        return os.open(part, OPEN_DIRECTORY, dir_fd=parent)
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise MissingWorkspaceError(f"there is no workspace {shown!r}") from None
        if error.errno in {errno.ENOTDIR, errno.ELOOP}:
            raise WorkspaceError(f"workspace {shown!r} is no directory, or lies behind a link") from None
        raise workspace_error(os.fsencode(shown), error) from None
