"""One pass: check everything, then move page by page what differs, and compare what has arrived."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import psycopg2
import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors, settings
from platform_db.bounds import require_limit
from platform_db.database.driver_errors import own_driver_errors, reason_of
from platform_db.database.session import SessionFactory
from platform_db.database.sqlstates import is_refused_value
from platform_db.integrations.reana import beside_runs, checks, runs, users
from platform_db.integrations.reana.audits import Audits
from platform_db.integrations.reana.decisions import Decisions
from platform_db.integrations.reana.expressions import Mapping
from platform_db.integrations.reana.resources import create_resources, find_resources
from platform_db.integrations.reana.secrets import Tokens
from platform_db.integrations.reana.source import Source, open_source
from platform_db.integrations.reana.table import FIRST_KEY, Page, Table
from platform_db.lifecycle import importing
from platform_db.models import UserResource
from platform_db.quota import update_users_cpu_quota, update_users_disk_quota
from platform_db.transfer.analyzing import analyze
from platform_db.transfer.one_at_a_time import only_one
from platform_db.transfer.piping import pipe
from platform_db.transfer.report import Report
from platform_db.transfer.snapshot import TARGET_SETTINGS

KEYS_PER_PAGE = 2000

Progress = Callable[[int, int], None]

Digests = dict[str, tuple[int, str]]
"""The number of rows and their digest, by key."""


Wanted = Callable[[], list[Digests]]
"""Gives the digests of a page's rows at the source, table by table."""


class Moved(Protocol):
    """A table that is moved: by SQL alone (:class:`Sql`), or with the help of Python where secrets are."""

    @property
    def name(self) -> str: ...
    @property
    def kept(self) -> bool: ...
    def notes(self, source: Source) -> Iterator[tuple[str, str, str]]: ...
    def source_digests(self, source: Source, page: Page) -> Digests: ...
    def target_digests(self, session: Session, page: Page) -> Digests: ...
    def delete(self, session: Session, keys: list[str]) -> int: ...
    def copy(self, source: Source, session: Session, keys: list[str]) -> int: ...


@dataclass(frozen=True)
class Options:
    """How to move.

    :param old_key: REANA's secret key.
    :param decisions: the file of the operator's decisions.
    :param zone: the time zone of REANA's containers.
    :param keys_per_page: how many runs, users and so on are moved in one transaction.
    """

    old_key: str = field(repr=False)
    decisions: Path | None = None
    zone: str = "UTC"
    keys_per_page: int = KEYS_PER_PAGE


@dataclass(frozen=True)
class Group:
    """Tables that share their keys.

    :param source: the source's table that has the keys.
    :param pages: how many pages of other groups make one of this.
    """

    source: str
    tables: list[Moved]
    pages: int = 1


def import_reana(
    uri: str,
    factory: SessionFactory,
    options: Options,
    report: Report,
    *,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> None:
    """Bring the target to what a live REANA database holds now.

    It can be killed and run again at any time, and again for what has changed since. The source is never
    written.

    :param uri: the URL of REANA's database.
    :param factory: makes sessions on the target, as the tables' owner.
    :param report: takes what was moved, and what was not moved as it was.
    :param dry_run: check everything, and write nothing.
    :param progress: is told how many keys are done, and of how many.
    :raises errors.Refused: something has to be decided, or services work with the target.
    :raises errors.SecretKeyError: a key is missing, or REANA's is another one.
    :raises errors.AlreadyRunning: another import is going on.
    """
    require_limit(options.keys_per_page, "number of keys in a page")
    with own_driver_errors(), open_source(uri) as source, only_one(factory):
        tokens, decisions = Tokens(options.old_key), Decisions.read(options.decisions)
        decisions.ask(source)
        with factory() as session, session.begin(), importing(session):
            checks.require_zone(session, options.zone)
            checks.require_unused(session)
            mapping = Mapping(
                options.zone,
                settings.get_settings().workspace_root[0].rstrip("/"),
                decisions.emails,
                decisions.owners,
                *find_resources(source, session),
            )
        groups = groups_of(source, mapping, tokens)
        for group in groups:
            for table in group.tables:
                for id_, outcome, reason in table.notes(source):
                    report.note(table.name, id_, outcome, reason)
        decisions.require(options.decisions)
        if not dry_run:
            with factory() as session, session.begin(), importing(session):
                create_resources(source, session, mapping.resources)
        _Mover(source, factory, options.keys_per_page, report, progress, dry_run).move(groups)
    if not dry_run:
        _sum(factory, dict.fromkeys(table.name for group in groups for table in group.tables))


def groups_of(source: Source, mapping: Mapping, tokens: Tokens) -> list[Group]:
    """Return what is moved, in the order of its references."""

    def sql(*tables: Table) -> list[Moved]:
        return [Sql(table) for table in tables]

    groups = [
        Group("user_", [*sql(*users.user_tables(mapping)), tokens]),
        Group("workflow", sql(*runs.run_tables(mapping, has_sharing=source.has_sharing))),
        # Doubles are found among all of them: a page of these costs the same whatever its size.
        Group("job_cache", sql(*beside_runs.cache_tables(mapping)), pages=25),
        Group("interactive_session", sql(*beside_runs.session_tables(mapping))),
        Group("audit_log", [Audits()]),
    ]
    if source.has_sharing:
        groups.append(Group("service", sql(*beside_runs.service_tables(mapping))))
    return groups


@dataclass(frozen=True)
class Sql:
    """A table whose rows SQL alone maps."""

    table: Table

    @property
    def name(self) -> str:
        return self.table.name

    @property
    def kept(self) -> bool:
        return self.table.kept

    def notes(self, source: Source) -> Iterator[tuple[str, str, str]]:
        """Yield the id, the outcome and the reason for what the report says."""
        if query := self.table.notes():
            yield from source.stream(query)

    def source_digests(self, source: Source, page: Page) -> Digests:
        """Return what the source's rows are mapped to."""
        return {key: (rows, digest) for key, rows, digest in source.rows(self.table.source_digests(page))}

    def target_digests(self, session: Session, page: Page) -> Digests:
        """Return what is stored."""
        found = session.connection().exec_driver_sql(self.table.target_digests(page))
        return {key: (rows, digest) for key, rows, digest in found}

    def delete(self, session: Session, keys: list[str]) -> int:
        """Delete the rows of these keys."""
        for owned in self.table.owned:
            statement = f"DELETE FROM platform.{owned} WHERE owner_id = ANY(%(keys)s::uuid[])"
            session.connection().exec_driver_sql(statement, {"keys": keys})
        if self.name == "log_chunk":
            session.connection().exec_driver_sql(runs.FORGET_SIZES, {"keys": keys})
        return session.connection().exec_driver_sql(self.table.deleted(), {"keys": keys}).rowcount

    def copy(self, source: Source, session: Session, keys: list[str]) -> int:
        """Copy the rows of these keys from the source, and return how many."""
        with _cursor(session) as cursor:
            into, columns = f"platform.{self.name}", ", ".join(self.table.columns)
            query = cursor.mogrify(self.table.copied(), {"keys": keys}).decode()
            write = partial(source.copy, query)
            if self.table.kept:
                cursor.execute(f"CREATE TEMP TABLE brought (LIKE {into}) ON COMMIT DROP")
                pipe(write, cursor, f"COPY brought ({columns}) FROM STDIN (FORMAT binary)")
                if self.table.parked:
                    parked = f"UPDATE {into} SET {self.table.parked} = id_ WHERE id_ = ANY(%(keys)s::uuid[])"
                    cursor.execute(parked, {"keys": keys})
                changes = ", ".join(f"{column} = excluded.{column}" for column in self.table.columns)
                cursor.execute(
                    f"INSERT INTO {into} ({columns}) SELECT {columns} FROM brought"
                    f" ON CONFLICT (id_) DO UPDATE SET {changes}"
                )
            else:
                pipe(write, cursor, f"COPY {into} ({columns}) FROM STDIN (FORMAT binary)")
            rows: int = cursor.rowcount
            if self.name == "log_chunk":
                cursor.execute(runs.SIZES.format(target=self.table.target), {"keys": keys})
            return rows


def _cursor(session: Session) -> Any:
    dbapi: Any = session.connection().connection.dbapi_connection
    return dbapi.cursor()


@dataclass
class _Mover:
    """Moves groups page by page, each page in a transaction of its own."""

    source: Source
    factory: SessionFactory
    keys_per_page: int
    report: Report
    progress: Progress | None
    dry_run: bool

    def move(self, groups: list[Group]) -> None:
        counts = [self.source.rows(f"SELECT count(*) FROM __reana.{group.source}")[0][0] for group in groups]
        done = 0
        with self.source.beside() as beside, ThreadPoolExecutor(1) as reader:
            for group, count in zip(groups, counts, strict=True):
                size = self.keys_per_page * group.pages
                refused: list[Page] = []
                for page, wanted in self._read_ahead(group, size, beside, reader):
                    refused += self._move(group, page, size, wanted.result)
                    done += min(count, size)
                    count -= min(count, size)
                    if self.progress:
                        self.progress(done, sum(counts))
                self._retry(group, refused)

    def _read_ahead(
        self, group: Group, size: int, beside: Source, reader: Executor
    ) -> Iterator[tuple[Page, Future[list[Digests]]]]:
        """Yield a group's pages. While the target takes one, the source reads the one after it."""
        start: str | None = FIRST_KEY
        before = None
        while start is not None:
            page = self._page(group, start, None, size)
            read = reader.submit(_source_digests, group, beside, page)
            if before:
                yield before
            before, start = (page, read), page.until
        if before:
            yield before

    def _page(self, group: Group, start: str, until: str | None, size: int) -> Page:
        """Return the page of so many keys from this one on."""
        before = f"AND id_ < '{until}'" if until else ""
        next_keys = self.source.rows(
            f"SELECT id_ FROM __reana.{group.source} WHERE id_ >= '{start}' {before}"
            f" ORDER BY id_ OFFSET {size} LIMIT 1"
        )
        return Page(start, str(next_keys[0].id_) if next_keys else until)

    def _move(self, group: Group, page: Page, size: int, wanted: Wanted | None = None) -> list[Page]:
        """Move a page; where a row of it is refused, move its halves: it keeps back no other.

        :param wanted: gives the digests of its rows at the source, where they were read before.
        :returns: the pages of one key that were refused.
        """
        if self._try(group, page, wanted) is None:
            return []
        if size == 1:
            return [page]
        half = self._page(group, page.start, page.until, size // 2)
        refused = self._move(group, half, size // 2)
        if half.until != page.until:
            refused += self._move(group, Page(str(half.until), page.until), size - size // 2)
        return refused

    def _retry(self, group: Group, refused: list[Page]) -> None:
        """Move refused pages again: what was in their way may have gone after them."""
        while refused:
            reasons = [(page, self._try(group, page)) for page in refused]
            still = [page for page, reason in reasons if reason is not None]
            if len(still) == len(refused):
                for page, reason in reasons:
                    self._fail(group, page, str(reason))
                return
            refused = still

    def _try(self, group: Group, page: Page, wanted: Wanted | None = None) -> str | None:
        """Move a page, and return why a row of it was refused, if one was."""
        try:
            with self.source.attempt():
                digests = wanted() if wanted else _source_digests(group, self.source, page)
                if self.dry_run:
                    for table, rows in zip(group.tables, digests, strict=True):
                        self._count(table, rows)
                else:
                    self._bring(group, page, digests)
        except (psycopg2.Error, sa.exc.DBAPIError, errors.Refused) as error:
            if not _is_of_rows(error):
                raise
            return reason_of(error)
        return None

    def _bring(self, group: Group, page: Page, digests: list[Digests]) -> None:
        steps = []
        with self.factory() as session, session.begin(), importing(session):
            for setting in TARGET_SETTINGS:
                session.connection().exec_driver_sql(f"SET LOCAL {setting}")
            checks.require_unused(session)
            for table, wanted in zip(group.tables, digests, strict=True):
                steps.append((table, wanted, *self._bring_table(session, table, page, wanted)))
        for table, wanted, written, removed, new, gone in steps:  # Only now is it true.
            self._count(table, wanted)
            self.report.counts["written"][table.name] += written
            self.report.counts["removed"][table.name] += removed
            for outcome, keys in (("removed", gone), ("written", new)):
                for key in keys:
                    self.report.note(table.name, key, outcome, rows=0)

    def _bring_table(self, session: Session, table: Moved, page: Page, wanted: Digests) -> tuple[Any, ...]:
        stored = table.target_digests(session, page)
        changed = [key for key in stored if stored[key] != wanted.get(key)]
        gone = [key for key in changed if not (table.kept and key in wanted)]
        new = [key for key in wanted if stored.get(key) != wanted[key]]
        removed = table.delete(session, gone) if gone else 0
        written = table.copy(self.source, session, new) if new else 0
        if new:
            arrived = table.target_digests(session, page)
            if any(arrived.get(key) != wanted[key] for key in new):
                raise _NotArrived(f"what arrived in {table.name} is not what was sent")
        return written, removed, new, gone if removed else []

    def _count(self, table: Moved, digests: Digests) -> None:
        self.report.rows[table.name] += sum(rows for rows, _ in digests.values())

    def _fail(self, group: Group, page: Page, reason: str) -> None:
        keys = self.source.rows(
            f"SELECT id_ FROM __reana.{group.source} WHERE {page.condition('id_')} ORDER BY id_"
        )
        for row in keys:
            self.report.note(group.tables[0].name, str(row.id_), "refused", reason)


def _source_digests(group: Group, source: Source, page: Page) -> list[Digests]:
    with source.attempt():
        return [table.source_digests(source, page) for table in group.tables]


class _NotArrived(errors.Refused):
    """What arrived is not what was sent."""


def _is_of_rows(error: Exception) -> bool:
    """Tell whether a row is at fault, and not that services work with the target."""
    return is_refused_value(error) or (
        isinstance(error, errors.Refused) and not isinstance(error, checks.InUse)
    )


def _sum(factory: SessionFactory, tables: Iterable[str]) -> None:
    """Compute what follows from what was moved, and tell the planner of it."""
    with factory() as session, session.begin():
        UserResource.create_defaults(session)
        # Not the cronjobs' functions: their lease would outlive an import that is killed.
        update_users_cpu_quota(session)
        update_users_disk_quota(session)
    analyze(factory, tables)
