"""Opening a workspace where it has to be the very one that is meant: down from the root, through no link."""

from __future__ import annotations

import errno
import os
from pathlib import PurePosixPath

from platform_db import settings
from platform_db.workspaces.measurement import (
    MissingWorkspaceError,
    WorkspaceError,
    WorkspacePath,
    workspace_error,
)
from platform_db.workspaces.paths import resolve
from platform_db.workspaces.scan import OPEN_DIRECTORY


def open_workspace(path: WorkspacePath) -> int:
    """Return a descriptor of the workspace's directory, for the caller to close.

    The root (``PLATFORM_DB_WORKSPACE_ROOT`` or ``PLATFORM_DB_SHARED_VOLUME_PATH``) is the operator's and may
    be a link. What lies below it is the tenants', so each directory there is opened by itself.

    :raises MissingWorkspaceError: it is gone, though its root is there and holds something.
    :raises WorkspaceError: it does not lie below a root, or lies behind a link, is no directory or cannot be
        read; or its root is missing or empty, as where storage is not mounted.
    """
    name = resolve(path)
    shown = name.decode(errors="backslashreplace")
    root, below = _split(name, shown)
    try:
        directory = os.open(root, OPEN_DIRECTORY & ~os.O_NOFOLLOW)
    except OSError as error:
        raise WorkspaceError(f"workspace root {str(root)!r} cannot be read: {error.strerror}") from None
    try:
        with os.scandir(directory) as entries:
            if next(entries, None) is None:
                raise WorkspaceError(f"workspace root {str(root)!r} is empty: is its storage mounted?")
        for part in below:
            parent, directory = directory, _open(part, directory, name, shown)
            os.close(parent)
    except BaseException:
        os.close(directory)
        raise
    return directory


def _split(name: bytes, shown: str) -> tuple[PurePosixPath, tuple[bytes, ...]]:
    """Return the root that the path lies below, and the names of the directories from there."""
    path = PurePosixPath(os.fsdecode(name))
    if ".." in path.parts:
        raise WorkspaceError(f"workspace path {shown!r} has '..' in it")
    configured = settings.get_settings()
    for root in map(PurePosixPath, filter(None, (configured.workspace_root, configured.shared_volume_path))):
        if root in path.parents and path.is_absolute():
            return root, tuple(map(os.fsencode, path.relative_to(root).parts))
    raise WorkspaceError(f"workspace {shown!r} does not lie below the root of workspaces")


def _open(part: bytes, parent: int, name: bytes, shown: str) -> int:
    try:
        return os.open(part, OPEN_DIRECTORY, dir_fd=parent)
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise MissingWorkspaceError(f"there is no workspace {shown!r}") from None
        if error.errno in {errno.ENOTDIR, errno.ELOOP}:
            raise WorkspaceError(f"workspace {shown!r} is no directory, or lies behind a link") from None
        raise workspace_error(name, error.errno, error.strerror or str(error)) from None
