"""Pruning the files of large values whose rows are gone."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import sqlalchemy as sa

from platform_db import errors
from platform_db.database.session import SessionFactory
from platform_db.retention.prune_calls import FETCHED
from platform_db.retention.prune_values import YOUNGEST
from platform_db.workspaces.scan import OPEN_DIRECTORY


def prune_value_files(factory: SessionFactory, root: Path) -> int:
    """Delete the files of values that have no row and are older than a day, and return how many.

    A file is written before its row, and goes after it: what was left by a process that was killed at either
    is found here. No link is followed below the root, which tenants write to.

    :param root: redun's ``value_store_path``. What is not below an owner's id is left alone.
    :raises errors.StorageMissing: there is no such directory.
    """
    if not root.is_dir():
        raise errors.StorageMissing(f"there is no directory {root}", hint="mount redun's value_store_path")
    gone = 0
    with _directory(str(root), follow=True) as top:
        for owner in _names(top):
            with suppress(ValueError, OSError):
                owner_id = uuid.UUID(owner)
                with _directory(owner, top) as own:
                    for shard in _names(own):
                        with suppress(NotADirectoryError), _directory(shard, own) as files:
                            gone += _prune_files(factory, owner_id, shard, files)
    return gone


def _prune_files(factory: SessionFactory, owner_id: uuid.UUID, shard: str, directory: int) -> int:
    gone = 0
    old = [name for name in _names(directory) if _is_old(name, directory)]
    for start in range(0, len(old), FETCHED):
        hashes = [f"{shard}{name}" for name in old[start : start + FETCHED]]
        with factory() as session:
            parameters = {"owner": owner_id, "hashes": hashes}
            without_row = session.connection().execute(_WITHOUT_ROW, parameters).scalars().all()
        for hash_ in without_row:
            name = hash_.removeprefix(shard)
            if _is_old(name, directory):  # Again: who records the value makes it young before the row.
                os.unlink(name, dir_fd=directory)
                gone += 1
    return gone


def _names(directory: int) -> list[str]:
    # What is no name of a value is none of our files, and may be no text.
    return [name for name in os.listdir(directory) if name.isascii() and name.isprintable()]


def _is_old(name: str, directory: int) -> bool:
    try:
        modified = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mtime
    except FileNotFoundError:
        return False
    return modified < time.time() - YOUNGEST.total_seconds()


@contextmanager
def _directory(name: str, parent: int | None = None, *, follow: bool = False) -> Iterator[int]:
    directory = os.open(name, OPEN_DIRECTORY & ~(os.O_NOFOLLOW if follow else 0), dir_fd=parent)
    try:
        yield directory
    finally:
        os.close(directory)


_WITHOUT_ROW = sa.text("""
    SELECT given.name FROM unnest(CAST(:hashes AS text[])) AS given (name)
    WHERE (SELECT true FROM platform.value
           WHERE value.owner_id = CAST(:owner AS uuid) AND value.value_hash = given.name LIMIT 1) IS NULL
    """)
