"""The secret key that an embedded database keeps beside it."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from platform_db import errors
from platform_db.embedded import directory as directories
from platform_db.settings.secret_keys import generate_key


def secret_key(directory: Path | None = None) -> str:
    """Return the secret key of an embedded database, made at the first call.

    :param directory: the directory of the database; the default one if not given.
    :returns: 32 random bytes in base64.
    :raises errors.EmbeddedError: the directory cannot be used, or others can read the key.
    """
    directory = directories.resolved(directory)
    directories.prepare(directory)
    path = directory / directories.SECRET_KEY
    if not path.exists():
        _create(path)
    status = path.stat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise errors.EmbeddedError(
            f"others can read the secret key {path}: rotate it, and chmod 600 the file"
        )
    return path.read_text(encoding="ascii").strip()


def _create(path: Path) -> None:
    """Write a key; of several that do so at once, the first one's stands, and is whole from the start."""
    descriptor, name = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(generate_key() + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(name, path)
    finally:
        Path(name).unlink()
