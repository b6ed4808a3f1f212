"""redun's value store: files of large values, of which the owner gets a copy."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from platform_db import errors


class ValueStore:
    """The files below redun's ``value_store_path``, and the owner's copies of them below ``<path>/<owner>``.

    :raises errors.InvalidArgument: there is no such directory here.
    """

    def __init__(self, path: str, owner_id: uuid.UUID) -> None:
        if "://" in path:
            own = f"{path.rstrip('/')}/{owner_id}/"
            raise errors.InvalidArgument(
                f"{path} is no directory of this machine",
                hint=f"copy its files to {own} by the tool of your storage, then give --no-value-store",
            )
        self.root = Path(path)
        if not self.root.is_dir():
            raise errors.InvalidArgument(
                f"there is no directory {path}",
                hint="--value-store names what is value_store_path in redun.ini",
            )
        self.own = self.root / str(owner_id)

    def size(self, value_hash: str) -> int | None:
        """Return how many bytes a value has; None where it has no file."""
        with self._open(value_hash) as file:
            return None if file is None else os.fstat(file.fileno()).st_size

    def copy(self, value_hash: str) -> int | None:
        """Give the owner a copy of a value, and return how many bytes it has; None where it has no file.

        A copy is there as a whole or not at all, whenever this is killed.
        """
        with self._open(value_hash) as source:
            if source is None:
                return None
            size = os.fstat(source.fileno()).st_size
            shard, name = value_hash[:2], value_hash[2:]
            with _directory(self.root, self.own.name, shard, create=True) as directory:
                if _size_of(name, directory) == size:
                    os.utime(name, dir_fd=directory, follow_symlinks=False)  # Pruning leaves it for a day.
                    return size
                part = f"{name}.part"
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(part, dir_fd=directory)
                new = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=directory)
                with os.fdopen(new, "wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(part, name, src_dir_fd=directory, dst_dir_fd=directory)
            return size

    @contextlib.contextmanager
    def _open(self, value_hash: str) -> Iterator[BinaryIO | None]:
        """Give a value's file; None where there is none.

        Who ran the workflows wrote this store, and who imports may read more than they: no link is followed.
        """
        with contextlib.ExitStack() as stack:
            if not value_hash.isalnum():  # It would be another path.
                yield None
                return
            try:
                directory = stack.enter_context(_directory(self.root, value_hash[:2]))
                # A pipe would wait for its writer.
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
                file = stack.enter_context(os.fdopen(os.open(value_hash[2:], flags, dir_fd=directory), "rb"))
            except OSError as error:
                if error.errno not in _NO_FILE:
                    raise
                yield None
                return
            yield file if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else None


_NO_FILE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.ENAMETOOLONG, errno.ENXIO}


@contextlib.contextmanager
def _directory(root: Path, *below: str, create: bool = False) -> Iterator[int]:
    """Give the descriptor of a directory below a root, which may be a link itself."""
    flags = os.O_RDONLY | os.O_DIRECTORY
    directory = os.open(root, flags)
    try:
        for name in below:
            if create:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, dir_fd=directory)
            parent = directory
            directory = os.open(name, flags | os.O_NOFOLLOW, dir_fd=parent)
            os.close(parent)
        yield directory
    finally:
        os.close(directory)


def _size_of(name: str, directory: int) -> int | None:
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None
