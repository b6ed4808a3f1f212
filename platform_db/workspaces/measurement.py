"""What measuring a workspace gives: a figure, or the reason why there is none."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from platform_db.errors import PlatformDBError

WorkspacePath: TypeAlias = "str | bytes | os.PathLike[str]"


@dataclass(frozen=True)
class Measurement:
    """The disk space of one workspace.

    :param bytes: the figure.
    :param method: how it was found.
    :param apparent: whether it adds up file sizes instead of the blocks that they occupy.
    :param unreadable: how many files and directories could not be read; the figure lacks what is in them.
    :param first_error: the first of those, and why.
    """

    bytes: int
    method: Literal["scan", "ceph"]
    apparent: bool = False
    unreadable: int = 0
    first_error: str | None = None


class WorkspaceError(PlatformDBError):
    """The workspace cannot be measured."""

    code: ClassVar[str] = "workspace"


class MissingWorkspaceError(WorkspaceError):
    """There is no such workspace."""

    code: ClassVar[str] = "workspace_missing"
    exit_code: ClassVar[int] = 10
    http_status: ClassVar[int] = 404


# ENOTDIR: a parent of the workspace is a file, so nothing can be there either.
ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR})

Outcome: TypeAlias = "Measurement | WorkspaceError"


def workspace_error(path: bytes, error: OSError) -> WorkspaceError:
    """Return the error for a workspace that the operating system refused."""
    name = path.decode(errors="backslashreplace")
    if error.errno in ABSENT:
        return MissingWorkspaceError(f"there is no workspace {name!r}")
    return WorkspaceError(f"workspace {name!r} cannot be read: {error.strerror or error}")


def refusal(path: bytes) -> WorkspaceError | None:
    """Return why the workspace cannot be measured by any method, or nothing if it can."""
    try:
        if stat.S_ISDIR(os.lstat(path).st_mode):
            os.close(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC))
    except OSError as error:
        return workspace_error(path, error)
    return None
