"""The redun database that is read: one snapshot of it, and never a write."""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from platform_db import errors
from platform_db.database.url import normalise_url
from platform_db.integrations.redun_import.tables import BY_NAME, TABLES, Table
from platform_db.transfer.snapshot import open_snapshot, reading

MAJOR, REVISION = 3, "0bee3d6dba76"
RELEASE = "0.44.1"
"""The version of the database that is moved, with the newest release of redun that has it."""

_OLDER = {
    "806f5dcb11bf": "1.0",
    "647c510a77b1": "2.0",
    "30ffbaee18cd": "2.1",
    "71ec303c90e4": "2.2",
    "d4af139b6f53": "2.3",
    "cd2d53191748": "3.0",
    "cc4f663817b6": "3.1",
    "eb7b95e4e8bf": "3.2",
    "f68b3aaee9cc": "3.3",
    "3b0a6e67cc58": "3.4",
}

NAME = "the redun database"
ROWS_AT_A_TIME = 1000
SECONDS_TO_WAIT = 5.0  # for a transaction that writes to a file of SQLite
JOBS_OF_EXECUTION = "(SELECT count(*) FROM job AS j WHERE j.execution_id = t.id)"


class Source(ABC):
    """A snapshot of a redun database."""

    mark: str
    as_bytes: str
    length: str

    def count(self, table: Table) -> int:
        """Return how many rows a table has."""
        return int(next(self._stream(f'SELECT count(*) FROM "{table.name}"'))[0])

    def rows(self, table: Table, where: str = "", of: Sequence[str] = (), more: str = "") -> Iterator[Any]:
        """Yield the rows of a table: its columns, and of each reference whether what it names exists.

        In place of bytes comes their number.

        :param where: a condition on ``t``; ``{of}`` in it stands for the list of values in ``of``.
        :param more: a further column.
        """
        columns = [self._expression(column, type_) for column, type_ in table.columns.items()]
        for column, name in table.references.items():
            (key,) = BY_NAME[name].key
            columns.append(
                f't."{column}" IS NULL OR EXISTS (SELECT 1 FROM "{name}" AS r WHERE r."{key}" = t."{column}")'
            )
        query = f'SELECT {", ".join([*columns, *([more] if more else [])])} FROM "{table.name}" AS t'
        if where:
            query += f" WHERE {where.format(of=', '.join([self.mark] * len(of)))}"
        return self._stream(query, of)

    def bytes_of(self, hashes: Sequence[str]) -> dict[str, bytes]:
        """Return the bytes of these values."""
        if not hashes:
            return {}
        marks = ", ".join([self.mark] * len(hashes))
        query = f"SELECT value_hash, {self.as_bytes} FROM value AS t WHERE value_hash IN ({marks})"
        return {hash_: bytes(data) for hash_, data in self._stream(query, hashes)}

    def empty_values(self) -> int:
        """Return how many values are empty: their bytes lie in a value store, if there is one."""
        return int(next(self._stream(f"SELECT count(*) FROM value AS t WHERE {self.length} = 0"))[0])

    def require_current(self) -> None:
        """Refuse a database of another version.

        :raises errors.Refused: it is none of redun's.
        :raises errors.SchemaBehind: redun has to migrate it first.
        :raises errors.SchemaAhead: it is newer than what is moved.
        """
        if not (self._has("redun_version") and self._has("alembic_version")):
            raise errors.Refused(
                "there is no redun database: it has no table redun_version",
                hint="--from names what is db_uri in redun.ini, such as sqlite:///.redun/redun.db",
            )
        versions = [
            row[0] for row in self._stream("SELECT version FROM redun_version ORDER BY timestamp DESC")
        ]
        revisions = {row[0] for row in self._stream("SELECT version_num FROM alembic_version")}
        if versions[:1] == [MAJOR] and REVISION in revisions:
            return
        older = [name for revision, name in _OLDER.items() if revision in revisions]
        if older or not revisions:
            found = f"has version {older[-1]}" if older else "was never migrated"
            raise errors.SchemaBehind(
                f"the redun database {found}, and redun {RELEASE} has 3.5",
                hint=f"install redun {RELEASE} beside it and run there: redun db upgrade",
            )
        raise errors.SchemaAhead(
            "the redun database has a version that is unknown here",
            hint=f"what moves is that of redun {RELEASE}",
        )

    @abstractmethod
    def _expression(self, column: str, type_: str) -> str: ...
    @abstractmethod
    def _stream(self, query: str, values: Sequence[str] = ()) -> Iterator[Any]: ...
    @abstractmethod
    def _has(self, table: str) -> bool: ...


class SqliteSource(Source):
    """A database in a file of SQLite."""

    mark = "?"
    as_bytes = "CAST(t.value AS BLOB)"
    length = "length(CAST(t.value AS BLOB))"

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def _expression(self, column: str, type_: str) -> str:
        return self.length if type_ == "bytes" else f't."{column}"'

    def _stream(self, query: str, values: Sequence[str] = ()) -> Iterator[Any]:
        return self.connection.execute(query, tuple(values))

    def _has(self, table: str) -> bool:
        query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
        return next(self._stream(query, (table,)), None) is not None


class PostgresSource(Source):
    """A database on a server of PostgreSQL."""

    mark = "%s"
    as_bytes = "t.value"
    length = "octet_length(t.value)"

    _AS_TEXT = {
        "text": 't."{}"::text',
        "json": 't."{}"::text',
        # What is infinite has no such form, and may not become "no time".
        "time": """coalesce(
            to_char(t."{0}" AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US BC'), t."{0}"::text)""",
    }

    def __init__(self, connection: sa.Connection) -> None:
        self.connection = connection
        self.dbapi: Any = connection.connection.dbapi_connection
        self.numbers = itertools.count()

    def _expression(self, column: str, type_: str) -> str:
        if type_ == "bytes":
            return self.length
        return self._AS_TEXT.get(type_.partition(" ")[0], 't."{}"').format(column)

    def _stream(self, query: str, values: Sequence[str] = ()) -> Iterator[Any]:
        try:
            with reading(NAME), self.dbapi.cursor(name=f"redun_import_{next(self.numbers)}") as cursor:
                cursor.itersize = ROWS_AT_A_TIME
                cursor.execute(query, tuple(values))
                yield from cursor
        except errors.Unreachable:
            self.connection.invalidate()  # Its rollback would be a second error.
            raise

    def _has(self, table: str) -> bool:
        return next(self._stream("SELECT to_regclass(%s)", (table,)))[0] is not None


@contextlib.contextmanager
def open_source(uri: str) -> Iterator[Source]:
    """Give a snapshot of the redun database at ``uri``, which has the version that is moved.

    :raises errors.Unreachable: it cannot be read, or lacks a table or a column.
    :raises errors.Refused: it has another version, or is none of redun's.
    """
    opened = _open_sqlite(uri) if uri.startswith("sqlite") else _open_postgres(uri)
    with opened as source:
        source.require_current()
        for table in TABLES:
            list(source.rows(table, "1 = 0"))  # What it lacks is found before anything is moved.
        yield source


@contextlib.contextmanager
def _open_postgres(uri: str) -> Iterator[Source]:
    url = normalise_url(uri)
    url = url.set(
        username=os.environ.get("REDUN_DB_USERNAME", url.username),
        password=os.environ.get("REDUN_DB_PASSWORD", url.password),
    )
    with open_snapshot(url.render_as_string(hide_password=False), NAME) as connection:
        yield PostgresSource(connection)


@contextlib.contextmanager
def _open_sqlite(uri: str) -> Iterator[Source]:
    try:
        name = sa.make_url(uri).database
    except sa.exc.ArgumentError:
        name = None
    if not name:
        raise errors.InvalidSetting(
            "the URI names no file of SQLite", hint="write it as sqlite:///.redun/redun.db"
        )
    path = Path(name).absolute()
    if not path.is_file():
        beside = path.parent / ".redun" / path.name
        raise errors.Unreachable(
            f"there is no file {path}",
            hint=f"redun reads db_uri from the directory of redun.ini: --from sqlite:///{beside}"
            if beside.is_file()
            else "--from names what is db_uri in redun.ini",
        )
    try:
        connection = sqlite3.connect(
            f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=SECONDS_TO_WAIT
        )
        connection.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
        with contextlib.closing(connection):
            connection.execute("BEGIN")
            yield SqliteSource(connection)
    except sqlite3.Error as error:
        raise errors.Unreachable(f"{path} cannot be read: {error}", hint=_what_to_do(path, error)) from None


def _what_to_do(path: Path, error: sqlite3.Error) -> str:
    if not os.access(path, os.R_OK):
        return "run this as a login that may read it, or let this one: chmod"
    if "locked" in str(error):
        return "end the workflow that writes to it, then run this again: it does the rest"
    journals = [Path(f"{path}{suffix}") for suffix in ("-journal", "-wal")]
    if any(journal.exists() and journal.stat().st_size for journal in journals):
        return (
            "a workflow was killed while it wrote: redun log, run there, puts that right; then run this again"
        )
    return "restore it from a backup, and run this again: it does the rest"
