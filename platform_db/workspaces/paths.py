"""Where a workspace is."""

from __future__ import annotations

import os
from uuid import UUID

from platform_db import errors, settings
from platform_db.workspaces.measurement import WorkspaceError, WorkspacePath


def build_workspace_path(
    user_id: UUID | str,
    workflow_id: UUID | str | None = None,
    workspace_root_path: str | None = None,
) -> str:
    """Return ``ROOT/users/USER/workflows/WORKFLOW``, or the directory of all the user's workspaces.

    :param workspace_root_path: ROOT; by default the setting ``PLATFORM_DB_WORKSPACE_ROOT``.
    :raises errors.InvalidIdentifier: an id would lead out of its directory.
    """
    root = settings.get_settings().workspace_root if workspace_root_path is None else workspace_root_path
    path = f"{root.rstrip('/')}/users/{_directory_name(user_id)}/workflows"
    return path if workflow_id is None else f"{path}/{_directory_name(workflow_id)}"


def absolute_workspace_path(path: str) -> str:
    """Return ``path`` itself if it is absolute, else where it is on the shared volume.

    Without ``PLATFORM_DB_SHARED_VOLUME_PATH`` a relative path stays as it is.

    :raises errors.InvalidIdentifier: a relative path would lead out of the shared volume.
    """
    if path.startswith("/"):
        return path
    volume = settings.get_settings().shared_volume_path
    if volume is None:
        return path
    if ".." in path.split("/"):
        raise errors.InvalidIdentifier(f"workspace path {path!r} leads out of the shared volume")
    return f"{volume.rstrip('/')}/{path}"


def resolve(path: WorkspacePath) -> bytes:
    """Return the absolute path as the operating system takes it, whatever encoding its names are in.

    Slashes at the end are dropped: with one, a workspace that is a symbolic link would be followed.

    :raises WorkspaceError: no file can have this path.
    """
    name = os.fsencode(path)
    if b"\0" in name:
        raise WorkspaceError(f"workspace path {path!r} has a NUL character in it")
    if not name.startswith(b"/"):
        try:
            name = os.fsencode(absolute_workspace_path(os.fsdecode(name)))
        except errors.InvalidIdentifier as error:
            raise WorkspaceError(str(error)) from None
    return name.rstrip(b"/") or name[:1]


def _directory_name(identifier: UUID | str) -> str:
    name = str(identifier)
    if name in {"", ".", ".."} or "/" in name or "\0" in name:
        raise errors.InvalidIdentifier(f"{name!r} cannot name a workspace directory")
    return name
