"""Where a workspace is: its one canonical path, and whether that lies in its owner's part of a root."""

from __future__ import annotations

import os
import posixpath
from uuid import UUID

from platform_db import errors, settings
from platform_db.workspaces.measurement import WorkspaceError, WorkspacePath

# What an index entry has room for.
LONGEST_PATH = 2048


def build_workspace_path(
    user_id: UUID | str, workflow_id: UUID | str | None = None, workspace_root_path: str | None = None
) -> str:
    """Return ``ROOT/users/USER/workflows/WORKFLOW``, or the directory of all the user's workspaces.

    :param workspace_root_path: ROOT; by default the first one of ``PLATFORM_DB_WORKSPACE_ROOT``.
    :raises errors.InvalidIdentifier: an id would lead out of its directory.
    """
    root = settings.get_settings().workspace_root[0] if workspace_root_path is None else workspace_root_path
    path = f"{root.rstrip('/')}/users/{_directory_name(user_id)}/workflows"
    return path if workflow_id is None else f"{path}/{_directory_name(workflow_id)}"


def canonical_workspace_path(path: WorkspacePath) -> str:
    """Return the path in the form that is stored: absolute, without ``.``, ``..``, ``//`` or a last slash.

    Only the text decides: no link is followed. A relative path starts at the shared volume.

    :raises errors.InvalidIdentifier: no workspace can have this path, or it is longer than
        :data:`LONGEST_PATH` bytes in UTF-8.
    """
    name = _canonical(path)
    if len(name) > LONGEST_PATH:
        raise errors.InvalidIdentifier(f"a workspace path of {len(name)} bytes is longer than {LONGEST_PATH}")
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise errors.InvalidIdentifier(f"workspace path {path!r} is not text in UTF-8") from None


def is_managed_workspace(path: WorkspacePath, owner_id: UUID | str) -> bool:
    """Tell whether a workspace lies in its owner's part of a root, below ``ROOT/users/OWNER/``.

    Any other is measured, but its files are never removed.

    :raises errors.InvalidIdentifier: no workspace can have this path.
    """
    return root_of(canonical_workspace_path(path), f"users/{owner_id}/") is not None


def root_of(path: str, part: str = "") -> str | None:
    """Return the root that the canonical ``path`` lies below, or nothing.

    :param part: a directory in the root, ``users/OWNER/`` for instance, that it has to lie below, too.
    """
    return next((root for root in roots() if path.startswith(f"{root.rstrip('/')}/{part}")), None)


def roots() -> tuple[str, ...]:
    """Return the directories below which the platform's workspaces lie."""
    configured = settings.get_settings()
    volume = configured.shared_volume_path
    return configured.workspace_root if volume is None else (*configured.workspace_root, volume)


def other_names(path: str) -> list[str]:
    """Return what the canonical ``path`` may be called as well, itself included.

    Roots can be links or mounts of one directory, so what lies below one of them has a name below each.
    """
    names = {path}
    spellings = {spelling.rstrip("/") for root in roots() for spelling in (root, os.path.realpath(root))}
    for root in spellings:
        if path.startswith(f"{root}/"):
            names.update(f"{other}{path.removeprefix(root)}" for other in spellings)
    return sorted(names)


def resolve(path: WorkspacePath) -> bytes:
    """Return the canonical path as the operating system takes it, whatever encoding its names are in.

    :raises WorkspaceError: no workspace can have this path.
    """
    try:
        return _canonical(path)
    except errors.InvalidIdentifier as error:
        raise WorkspaceError(str(error)) from None


def _canonical(path: WorkspacePath) -> bytes:
    try:
        name = os.fsencode(path)
    except (UnicodeEncodeError, TypeError):
        raise errors.InvalidIdentifier(f"workspace path {path!r} is not text in UTF-8") from None
    if b"\0" in name:
        raise errors.InvalidIdentifier(f"workspace path {path!r} has a NUL character in it")
    above = b""
    if not name.startswith(b"/"):
        volume = settings.get_settings().shared_volume_path
        if volume is None:
            raise errors.InvalidIdentifier(
                f"workspace path {path!r} is relative, and PLATFORM_DB_SHARED_VOLUME_PATH is not set"
            )
        above = os.fsencode(volume.rstrip("/"))
        name = above + b"/" + name
    # normpath keeps two slashes at the start, which POSIX lets a system read in its own way.
    name = b"/" + posixpath.normpath(name).lstrip(b"/")
    if name == b"/":
        raise errors.InvalidIdentifier(f"workspace path {path!r} is the root of the file system")
    if not name.startswith(above + b"/"):
        raise errors.InvalidIdentifier(f"workspace path {path!r} leads out of the shared volume")
    return name


def _directory_name(identifier: UUID | str) -> str:
    name = str(identifier)
    if name in {"", ".", ".."} or "/" in name or "\0" in name:
        raise errors.InvalidIdentifier(f"{name!r} cannot name a workspace directory")
    return name
