"""Files that platform-db itself keeps in a workspace, each written once under a name of its own.

Everything is reached by file descriptors and through no symbolic link, whatever the workspace's owner has put
there.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from uuid import UUID

from platform_db.workspaces.opening import open_workspace

OWN = ".platform-db"
"""The directory in a workspace that is platform-db's own."""

PLACE = (OWN, "results")

_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def _place(path: str, owner_id: UUID, *, create: bool = False) -> Iterator[int]:
    directory = open_workspace(path, owner_id, *PLACE, create=create)
    try:
        yield directory
    finally:
        os.close(directory)


def write_file(path: str, owner_id: UUID, name: UUID, data: bytes) -> None:
    """Write a new file to a managed workspace, in full or not at all, and safely on the disk.

    :param path: the workspace; it is made where it is missing below its root.
    :raises WorkspaceError: it is not managed, or lies behind a link.
    :raises errors.StorageMissing: its root is missing or empty.
    """
    unfinished = f"{name}.tmp"
    with _place(path, owner_id, create=True) as directory:
        descriptor = os.open(
            unfinished, _FLAGS | os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=directory
        )
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.rename(unfinished, str(name), src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(unfinished, dir_fd=directory)
            raise
        os.fsync(directory)


def read_file(path: str, owner_id: UUID, name: UUID, size: int) -> bytes | None:
    """Return what is in a file of a managed workspace; None where it is no file of this size.

    :raises WorkspaceError: the workspace is gone or not managed, or lies behind a link.
    :raises errors.StorageMissing: its root is missing or empty.
    """
    with _place(path, owner_id) as directory:
        try:
            descriptor = os.open(str(name), _FLAGS | os.O_RDONLY | os.O_NONBLOCK, dir_fd=directory)
        except OSError:
            return None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size != size:
                return None
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read(size)
        finally:
            os.close(descriptor)


def remove_file(path: str, owner_id: UUID, name: UUID) -> None:
    """Remove a file from a managed workspace, if it is there.

    :raises WorkspaceError: the workspace is gone or not managed, or lies behind a link.
    :raises errors.StorageMissing: its root is missing or empty.
    """
    with _place(path, owner_id) as directory, suppress(FileNotFoundError):
        os.unlink(str(name), dir_fd=directory)
