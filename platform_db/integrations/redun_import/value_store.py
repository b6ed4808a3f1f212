"""redun's value store: files of large values, of which the owner gets a copy."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

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
        if not value_hash.isalnum():  # It would be another path.
            return None
        try:
            return (self.root / _name(value_hash)).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def copy(self, value_hash: str) -> int | None:
        """Give the owner a copy of a value, and return how many bytes it has; None where it has no file.

        A copy is there as a whole or not at all, whenever this is killed.
        """
        size = self.size(value_hash)
        if size is None:
            return None
        copy = self.own / _name(value_hash)
        if copy.is_file() and copy.stat().st_size == size:
            return size
        copy.parent.mkdir(parents=True, exist_ok=True)
        part = copy.with_name(f"{copy.name}.part")
        with (self.root / _name(value_hash)).open("rb") as source, part.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
            file.flush()
            os.fsync(file.fileno())
        part.replace(copy)
        return size


def _name(value_hash: str) -> str:
    return f"{value_hash[:2]}/{value_hash[2:]}"
