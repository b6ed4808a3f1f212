"""The REANA database that is read: one snapshot of it, and never a write."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg2.extras
import sqlalchemy as sa

from platform_db import errors
from platform_db.transfer.snapshot import open_snapshot, read_only

SUPPORTED = {
    "eb5309f3d8ee": "0.9.5",
    "3da4dd5d0b75": "0.95.0a8",
}
"""The revisions that are moved, with the releases of reana-db that end at them."""

# Between the two, and after: the databases of pre-releases.
_BETWEEN = ("86435bb00714", "2e82f33ee37d", "3d0994430da7")
_NEWER = {"a6c2120d5b2b": "0.95.0a13"}


@dataclass(frozen=True)
class Source:
    """A snapshot of a REANA database.

    :param release: the release of reana-db whose schema it has.
    """

    connection: sa.Connection
    release: str

    @property
    def has_sharing(self) -> bool:
        """Whether it has the tables of shares and services, which the stable release lacks."""
        return self.release != "0.9.5"

    def rows(self, query: str, **values: Any) -> list[Any]:
        """Return the rows of a query."""
        with self._cursor() as cursor:
            cursor.execute(query, values)
            return list(cursor.fetchall())

    def stream(self, query: str, size: int = 5000) -> Iterator[Any]:
        """Yield the rows of a query; only so many are in memory at once."""
        with self._cursor(name="reana_import") as cursor:
            cursor.itersize = size
            cursor.execute(query)
            yield from cursor

    def copy(self, query: str, file: Any) -> None:
        """Write the rows of a query to a file, in PostgreSQL's binary format."""
        with self._cursor() as cursor:
            cursor.copy_expert(f"COPY ({query}) TO STDOUT (FORMAT binary)", file)

    @contextlib.contextmanager
    def beside(self) -> Iterator[Source]:
        """Give the same snapshot on a connection of its own, for another thread."""
        ((snapshot,),) = self.rows("SELECT pg_export_snapshot()")
        with read_only(self.connection.engine) as connection:
            connection.exec_driver_sql(f"SET TRANSACTION SNAPSHOT '{snapshot}'")
            yield Source(connection, self.release)

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """Keep the snapshot when a statement of this block fails."""
        with self.connection.begin_nested():
            yield

    def _cursor(self, **options: Any) -> Any:
        dbapi: Any = self.connection.connection.dbapi_connection
        return dbapi.cursor(cursor_factory=psycopg2.extras.NamedTupleCursor, **options)


@contextlib.contextmanager
def open_source(uri: str) -> Iterator[Source]:
    """Give a snapshot of the database at ``uri`` in a read-only transaction.

    :raises errors.Unreachable: it cannot be reached.
    :raises errors.SchemaBehind: it has an older revision than those that are moved.
    :raises errors.SchemaAhead: it has a newer one.
    """
    with open_snapshot(uri, "the REANA database") as connection:
        yield Source(connection, _release(connection))


def _release(connection: sa.Connection) -> str:
    if connection.scalar(sa.text("SHOW server_encoding")) != "UTF8":
        raise errors.Refused("the REANA database is not encoded in UTF-8", hint="dump it, and restore it so")
    if connection.scalar(sa.text("SELECT to_regclass('__reana.alembic_version')")) is None:
        raise errors.Refused(
            "there is no REANA database: the schema __reana has no alembic_version",
            hint="--from names REANA's own database; where its tables are there, run: reana-db alembic init",
        )
    found = set(connection.scalars(sa.text("SELECT version_num FROM __reana.alembic_version")))
    (revision,) = found if len(found) == 1 else ("none",)
    if revision in SUPPORTED:
        return SUPPORTED[revision]
    if revision in _NEWER:
        raise errors.SchemaAhead(
            f"the REANA database is at revision {revision}, of reana-db {_NEWER[revision]}",
            hint=f"what moves is {' and '.join(SUPPORTED.values())}",
        )
    steps = "0.95.0a8" if revision in _BETWEEN else "0.9.5 or 0.95.0a8"
    raise errors.SchemaBehind(
        f"the REANA database is at revision {revision}, which is none of reana-db "
        f"{' or '.join(SUPPORTED.values())}",
        hint=f"install reana-db {steps} beside it and run: reana-db alembic upgrade",
    )
