"""Which revision a database is at, compared with the code's.

No model and nothing of Alembic's is imported: a health check asks this every few seconds.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.pool import NullPool

from platform_db import database, errors
from platform_db.database import driver_errors
from platform_db.identifiers import SCHEMA


class SchemaState(str, enum.Enum):
    """A database's schema, compared with the code's."""

    current = "current"
    behind = "behind"
    ahead = "ahead"
    never_migrated = "never migrated"


@dataclass(frozen=True)
class SchemaStatus:
    """A schema's state, its revision and the code's newest one."""

    state: SchemaState
    revision: str | None
    head: str

    def require_current(self) -> None:
        """Raise the error that says why the schema cannot be used, unless it is current."""
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
        return SchemaStatus(SchemaState.current, revision, head)
    return SchemaStatus(SchemaState.behind if revision in known else SchemaState.ahead, revision, head)


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
    folder = files("platform_db.migrations.versions")
    return sorted(name[:4] for name in (path.name for path in folder.iterdir()) if name[:4].isdigit())


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


def _stored_revision(connection: Connection) -> str | None:
    table = f"{SCHEMA}.alembic_version"
    if connection.scalar(sa.select(sa.func.to_regclass(table))) is None:
        return None
    revision: str | None = connection.scalar(sa.text(f"SELECT version_num FROM {table}"))
    return revision
