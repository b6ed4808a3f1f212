"""Which revision a database is at, compared with the code's, and whether this code runs on it.

A revision has a phase: after a ``pre`` one the code before it still runs, after a ``post`` one it does not.
So this code runs on a database that lacks ``post`` revisions alone, and on one that newer ``pre`` revisions
were run on. Which code a newer database still serves, only it can tell: a comment on Alembic's table does.

No model and nothing of Alembic's is imported: a health check asks this every few seconds.
"""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.pool import NullPool

from platform_db import database, errors
from platform_db.database import driver_errors
from platform_db.identifiers import SCHEMA

# Where the revisions are.
FOLDERS = [Path(__file__).parents[1] / "migrations" / "versions"]

VERSION_TABLE = f"{SCHEMA}.alembic_version"


class SchemaState(str, enum.Enum):
    """A database's schema, compared with the code's."""

    current = "current"
    behind = "behind"
    ahead = "ahead"
    never_migrated = "never migrated"


@dataclass(frozen=True)
class SchemaStatus:
    """A schema's state, its revision and the code's newest one, and whether this code runs on it."""

    state: SchemaState
    revision: str | None
    head: str
    usable: bool = False

    def require_usable(self) -> None:
        """Raise the error that says why this code does not run on the schema, unless it does."""
        if not self.usable:
            self.require_current()

    def require_current(self) -> None:
        """Raise the error that says why the schema is not at the code's newest revision, unless it is."""
        if self.state is SchemaState.never_migrated:
            raise errors.NeverMigrated
        at = f"the database is at revision {self.revision}"
        if self.state is SchemaState.behind:
            raise errors.SchemaBehind(f"{at}, the code needs {self.head}")
        if self.state is SchemaState.ahead:
            raise errors.SchemaAhead(f"{at}, which this release does not know; it ends at {self.head}")


def status(connection: Connection) -> SchemaStatus:
    """Return which revision the database is at, compared with the code's."""
    known = revisions()
    head, revision = known[-1], _stored_revision(connection)
    if revision is None:
        return SchemaStatus(SchemaState.never_migrated, None, head)
    if revision == head:
        return SchemaStatus(SchemaState.current, revision, head, usable=True)
    if revision in known:
        return SchemaStatus(SchemaState.behind, revision, head, usable=revision >= needed())
    return SchemaStatus(SchemaState.ahead, revision, head, usable=_serves(connection, revision, head))


def refuse_newer(connection: Connection) -> None:
    """Raise :class:`errors.SchemaAhead` where the database is at a revision that the code does not know."""
    found = status(connection)
    if found.state is SchemaState.ahead:
        found.require_current()


def next_revision() -> str:
    """Return the identifier of the revision that follows the newest one: ``0002`` after ``0001``."""
    return f"{int(revisions()[-1]) + 1:04d}"


def revisions() -> list[str]:
    """Return the identifiers of all revisions, the oldest first.

    They are what the files' names begin with, so that no other module is imported to tell the schema's state.
    """
    return sorted(_files())


def needed() -> str:
    """Return the oldest revision that this code runs on: the newest one that is ``pre``."""
    return next(revision for revision in reversed(revisions()) if phase_of(revision) == "pre")


def oldest_code(revision: str) -> str:
    """Return the newest revision of the oldest code that still runs on a database at ``revision``."""
    earlier = [one for one in revisions() if one <= revision]
    return next((one for one in reversed(earlier) if phase_of(one) == "post"), earlier[0])


def phase_of(revision: str) -> str:
    """Return the phase that a revision's file names."""
    return _phase_in(_files()[revision])


@functools.cache
def _phase_in(file: Path) -> str:
    found = re.search(r'^phase = "(pre|post)"$', file.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise errors.PlatformDBError(f"{file.name} names no phase, pre or post")
    return found[1]


def _files() -> dict[str, Path]:
    return {file.name[:4]: file for folder in FOLDERS for file in folder.glob("[0-9][0-9][0-9][0-9]*.py")}


def serves_comment(revision: str) -> str:
    """Return the statement that stores which code a database at ``revision`` serves."""
    text = f"Revision {revision} serves code from {oldest_code(revision)} on."
    return f"COMMENT ON TABLE {VERSION_TABLE} IS '{text}'"


@contextmanager
def connect(url: URL | str | Engine | None = None, **connect_args: Any) -> Iterator[Connection]:
    """Give a connection of its own, outside any pool.

    :param url: the database, or an engine on it; by default the configured one.
    :raises errors.Unreachable: says why.
    """
    engine = database.create_engine(
        url or database.database_url(), poolclass=NullPool, connect_args=connect_args
    )
    with driver_errors.own_connection_errors(), engine.connect() as connection:
        yield connection


_SERVES = re.compile(r"Revision (\d{4}) serves code from (\d{4}) on\.")


def _serves(connection: Connection, revision: str, head: str) -> bool:
    """Tell whether a newer database says that it serves code whose newest revision is ``head``."""
    comment = connection.scalar(
        sa.text("SELECT obj_description(to_regclass(:name), 'pg_class')"), {"name": VERSION_TABLE}
    )
    found = _SERVES.fullmatch(comment or "")
    return found is not None and found[1] == revision and found[2] <= head


def _stored_revision(connection: Connection) -> str | None:
    if connection.scalar(sa.select(sa.func.to_regclass(VERSION_TABLE))) is None:
        return None
    revision: str | None = connection.scalar(sa.text(f"SELECT version_num FROM {VERSION_TABLE}"))
    return revision
