"""A copy of a database: one pass compares each page of rows, brings what differs, and compares what arrived.

So the first pass, going on after a crash, following what has changed since, and verifying are the same.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import psycopg2
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from platform_db import database, errors, schema
from platform_db.bounds import require_limit
from platform_db.database.driver_errors import own_driver_errors, reason_of
from platform_db.database.session import PlatformSession, SessionFactory
from platform_db.database.sqlstates import CONSTRAINT_CLASS, FOREIGN_KEY_VIOLATION, sqlstate_of
from platform_db.health.secret_keys import missing_keys
from platform_db.lifecycle import importing
from platform_db.transfer.analyzing import analyze
from platform_db.transfer.digests import digests
from platform_db.transfer.former_copy import Former
from platform_db.transfer.layout import Copied, Group, Page, groups
from platform_db.transfer.one_at_a_time import only_one
from platform_db.transfer.piping import pipe
from platform_db.transfer.report import Report
from platform_db.transfer.snapshot import TARGET_SETTINGS, read_only

ROWS_PER_PAGE = 10_000

Progress = Callable[[int, int], None]

Digests = dict[str, tuple[int, str]]


def copy_database(
    source: sa.URL,
    target: sa.URL,
    report: Report,
    *,
    progress: Progress | None = None,
    rows_per_page: int = ROWS_PER_PAGE,
) -> list[str]:
    """Make a database equal to what another holds now: every row, with its times, numbers and secrets.

    All is read in one snapshot, so services may go on working with the source, which is never written. It can
    be killed and run again at any time, and again for what has changed since. Roles and privileges are not
    copied: ``platform-db roles`` makes them.

    :param source: the database to read, by the login of its tables' owner.
    :param target: a migrated database without rows, or a former copy of this source, by its owner's login.
    :param report: takes how many rows each table has, and how many were written and removed.
    :param progress: is told how many rows are done, and of how many.
    :param rows_per_page: how many rows are compared at once, and brought in one transaction.
    :returns: the ids of the secret keys that the copied secrets need and that are not configured here.
    :raises errors.NeverMigrated: one of the two has no schema; other errors tell of another revision.
    :raises errors.Refused: the target holds something else, or services have worked with it.
    :raises errors.RolesMissing: a login has not the rights of the tables' owner.
    :raises errors.AlreadyRunning: another copy or import is going on in the target.
    """
    require_limit(rows_per_page, "number of rows in a page")
    reading = database.create_engine(source, poolclass=NullPool)
    factory = orm.sessionmaker(database.create_engine(target, pool_size=2), class_=PlatformSession)
    try:
        with own_driver_errors(), read_only(reading) as snapshot:
            snapshot.exec_driver_sql("SET LOCAL row_security = off")
            schema.status(snapshot).require_current()
            with only_one(factory):
                with factory() as session, session.begin():
                    schema.status(session.connection()).require_current()
                    with importing(session):  # This login may do it.
                        _require_another(snapshot, session)
                        former = Former.begin(snapshot, session)
                _Copier(snapshot, factory, report, progress, rows_per_page).copy()
                with factory() as session, session.begin():
                    former.end(snapshot, session)
                analyze(factory, (table.name for table in ALL))
                return missing_keys(snapshot)
    finally:
        factory.kw["bind"].dispose()


def _require_another(snapshot: sa.Connection, session: Session) -> None:
    """Refuse to copy a database onto itself, by whatever URL: only there do the two meet in a lock."""
    key = {"key": secrets.randbits(62)}
    session.connection().execute(_LOCK, key)
    if not snapshot.scalar(_TRY_LOCK, key):
        raise errors.Refused("the two databases are the same one", hint="--to names another database")


@dataclass
class _Copier:
    snapshot: sa.Connection
    factory: SessionFactory
    report: Report
    progress: Progress | None
    rows_per_page: int
    done: int = 0
    total: int = 0
    postponed: list[tuple[Group, Page]] = field(default_factory=list)

    def copy(self) -> None:
        counts = " UNION ALL ".join(f"SELECT count(*) FROM platform.{table.name}" for table in ALL)
        self.total = int(
            self.snapshot.exec_driver_sql(f"SELECT sum(count) FROM ({counts}) AS c").scalar_one()
        )
        for group in groups():
            for page in self._pages(group):
                self._bring(group, page)
        # What others still referred to: their rows have gone by now.
        for group, page in reversed(self.postponed):
            self._bring(group, page, again=True)

    def _pages(self, group: Group) -> Iterator[Page]:
        """Yield the pages of a group by the keys of its first table at the source."""
        first = group.tables[0]
        start: Sequence[str] | None = None
        while first.key:
            until = self._next_key(first, Page(start), self.rows_per_page)
            if until is not None and until == start:  # more rows of one key than a page has
                until = self._key_after(first, start)
            yield Page(start, until)
            if until is None:
                return
            start = until
        yield Page()

    def _next_key(self, table: Copied, page: Page, offset: int) -> Sequence[str] | None:
        where, values = page.condition(table.key)
        return self._key(table, where, values, offset)

    def _key_after(self, table: Copied, key: Sequence[str]) -> Sequence[str] | None:
        marks = ", ".join(["%s"] * len(key))
        return self._key(table, f"({', '.join(table.key)}) > ({marks})", list(key), 0)

    def _key(self, table: Copied, where: str, values: list[str], offset: int) -> Sequence[str] | None:
        columns = ", ".join(f"{column}::text" for column in table.key)
        query = (
            f"SELECT {columns} FROM platform.{table.name} WHERE {where}"
            f" ORDER BY {', '.join(f'{table.name}.{column}' for column in table.key)} OFFSET {offset} LIMIT 1"
        )
        found = self.snapshot.exec_driver_sql(query, tuple(values)).one_or_none()
        return None if found is None else tuple(found)

    def _bring(self, group: Group, page: Page, *, again: bool = False) -> None:
        """Make a page of the target equal to that of the source, in one transaction."""
        try:
            with self.factory() as session, session.begin():
                connection = session.connection()
                for setting in TARGET_SETTINGS:
                    connection.exec_driver_sql(f"SET LOCAL {setting}")
                brought = self._bring_tables(connection, group, page, again)
        except (psycopg2.Error, sa.exc.DBAPIError) as error:
            sqlstate = sqlstate_of(error) or ""
            if sqlstate == FOREIGN_KEY_VIOLATION and len(group.tables) > 1 and page != Page():
                self._bring(group, Page(), again=True)  # Rows of one page refer to those of another.
                self._bring(group, page)  # It is the same now, and counts.
                return
            if sqlstate.startswith(CONSTRAINT_CLASS):
                raise errors.Refused(
                    f"a row of {group.tables[0].name} cannot be brought: {reason_of(error)}",
                    hint="rows have exchanged values since the former copy: copy into a new database",
                ) from None
            raise
        for table, rows, written, removed in brought:  # Only now is it true.
            self.report.counts["written"][table.name] += written
            self.report.counts["removed"][table.name] += removed
            if not again:
                self.report.rows[table.name] += rows
                self.done += rows
        if self.progress:
            self.progress(min(self.done, self.total), self.total)

    def _bring_tables(
        self, target: sa.Connection, group: Group, page: Page, again: bool
    ) -> list[tuple[Copied, int, int, int]]:
        """Return how many rows the page of each table has, and how many were written and removed."""
        here, there = (
            {table: _page_digest(side, table, page) for table in group.tables}
            for side in (target, self.snapshot)
        )
        differing = [table for table in group.tables if here[table] != there[table]]
        written, removed = Counter[Copied](), Counter[Copied]()
        if differing:
            is_new = not any(here[table][0] for table in differing)
            # What is removed may take rows of any table with it.
            with _without_triggers(target, group.tables if is_new else ALL):
                late = []
                for table in differing:
                    if is_new:
                        written[table] = self._copy(target, table, page)
                        continue
                    gone, wanted = self._differences(target, table, page)
                    removed[table] = self._remove(target, table, page, gone)
                    written[table] = self._update(target, table, page, wanted) if wanted else 0
                    if removed[table] < len(gone) and not again:
                        late.append(table)
            for table in differing:
                if table in late:
                    self.postponed.append((Group((table,)), page))
                elif _page_digest(target, table, page) != there[table]:
                    raise errors.Refused(f"what arrived in {table.name} is not what was sent")
        return [(table, there[table][0], written[table], removed[table]) for table in group.tables]

    def _differences(self, target: sa.Connection, table: Copied, page: Page) -> tuple[list[str], list[str]]:
        """Return the keys of the target's rows that have gone, and of the source's that differ."""
        here, there = (_digests(side, table, page) for side in (target, self.snapshot))
        return (
            [key for key in here if key not in there],
            [key for key in there if here.get(key) != there[key]],
        )

    def _remove(self, target: sa.Connection, table: Copied, page: Page, keys: list[str]) -> int:
        """Remove rows, all or none where others refer to them, and return how many."""
        if not keys:
            return 0
        where, values = _of_keys(table, page, keys)
        try:
            with target.begin_nested():
                statement = f"DELETE FROM platform.{table.name} WHERE {where}"
                return target.exec_driver_sql(statement, values).rowcount
        except sa.exc.DBAPIError as error:
            if sqlstate_of(error) != FOREIGN_KEY_VIOLATION:
                raise
            return 0

    def _copy(self, target: sa.Connection, table: Copied, page: Page) -> int:
        where, values = page.condition(table.key)
        return self._pipe(target, table, where, tuple(values), f"platform.{table.name}")

    def _update(self, target: sa.Connection, table: Copied, page: Page, keys: list[str]) -> int:
        """Bring rows of which others are there already, and may be referred to."""
        into, columns = f"platform.{table.name}", ", ".join(table.columns)
        where, values = _of_keys(table, page, keys)
        target.exec_driver_sql(f"CREATE TEMP TABLE brought (LIKE {into}) ON COMMIT DROP")
        self._pipe(target, table, where, values, "brought")
        changes = ", ".join(f"{c} = excluded.{c}" for c in table.columns if c not in table.primary_key)
        change = f"UPDATE SET {changes}" if changes else "NOTHING"
        written = target.exec_driver_sql(
            f"INSERT INTO {into} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM brought"
            f" ON CONFLICT ({', '.join(table.primary_key)}) DO {change}"
        ).rowcount
        target.exec_driver_sql("DROP TABLE brought")
        return written

    def _pipe(
        self, target: sa.Connection, table: Copied, where: str, values: tuple[Any, ...], into: str
    ) -> int:
        columns = ", ".join(table.columns)
        with _cursor(self.snapshot) as source, _cursor(target) as cursor:
            query = source.mogrify(
                f"SELECT {columns} FROM platform.{table.name} WHERE {where}", values
            ).decode()
            write = partial(source.copy_expert, f"COPY ({query}) TO STDOUT (FORMAT binary)")
            pipe(write, cursor, f"COPY {into} ({columns}) FROM STDIN (FORMAT binary)")
            return int(cursor.rowcount)


ALL = tuple(table for group in groups() for table in group.tables)


@contextmanager
def _without_triggers(connection: sa.Connection, tables: Sequence[Copied]) -> Iterator[None]:
    """Let no trigger of ours act on these tables within this block: what they computed is copied, too.

    The transaction that a crash ends takes it back. Foreign keys are the server's own, and are checked.
    """

    def alter(verb: str) -> None:
        statements = (f"ALTER TABLE platform.{table.name} {verb} TRIGGER USER" for table in tables)
        connection.exec_driver_sql("; ".join(statements))

    alter("DISABLE")
    connection.exec_driver_sql("SET CONSTRAINTS ALL DEFERRED")
    yield
    connection.exec_driver_sql("SET CONSTRAINTS ALL IMMEDIATE")
    alter("ENABLE")


def _of_keys(table: Copied, page: Page, keys: list[str]) -> tuple[str, tuple[Any, ...]]:
    where, values = page.condition(table.key)
    return f"{where} AND {_row(table.primary_key)} = ANY(%s)", (*values, keys)


def _row(columns: Sequence[str]) -> str:
    return f"ROW({', '.join(columns)})::text"


def _page_digest(side: sa.Connection, table: Copied, page: Page) -> tuple[int, str]:
    return next(iter(_digests(side, table, page, key="'page'").values()), (0, ""))


def _digests(side: sa.Connection, table: Copied, page: Page, key: str | None = None) -> Digests:
    where, values = page.condition(table.key)
    rows = f"platform.{table.name} WHERE {where}"
    query = digests(key or _row(table.primary_key), rows, ", ".join(table.columns))
    return {key: (rows, digest) for key, rows, digest in side.exec_driver_sql(query, tuple(values))}


def _cursor(connection: sa.Connection) -> Any:
    driver: Any = connection.connection.dbapi_connection
    return driver.cursor()


_LOCK = sa.text("SELECT pg_advisory_xact_lock(:key)")
_TRY_LOCK = sa.text("SELECT pg_try_advisory_xact_lock(:key)")
