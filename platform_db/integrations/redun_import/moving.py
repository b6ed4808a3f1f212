"""One pass: read each row, move what is not here yet, and compare what has arrived."""

from __future__ import annotations

import itertools
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.bounds import require_limit
from platform_db.database.driver_errors import own_driver_errors, reason_of
from platform_db.database.session import SessionFactory
from platform_db.integrations.redun_import.reading import BadRow, Row, batches, id_of, read
from platform_db.integrations.redun_import.source import JOBS_OF_EXECUTION, Source, open_source
from platform_db.integrations.redun_import.tables import (
    ALONE_AFTER,
    ALONE_BEFORE,
    EXECUTION,
    JOB,
    TABLES,
    VALUE,
    Table,
)
from platform_db.integrations.redun_import.target import NotArrived, Target, is_refused
from platform_db.integrations.redun_import.value_store import ValueStore
from platform_db.lifecycle import importing
from platform_db.models.types import is_text
from platform_db.sessions import run_transaction
from platform_db.transfer.analyzing import analyze
from platform_db.transfer.one_at_a_time import only_one
from platform_db.transfer.report import Report

ROWS_PER_BATCH = 5000
BYTES_PER_BATCH = 8 * 1024**2
NAMES_PER_QUERY = 500
ATTEMPTS = 3

Progress = Callable[[int, int], None]

Part = tuple[Table, Callable[[], Iterable[Row]]]
"""A table with what gives the rows that are moved; it is asked again where a transaction is tried again."""


def import_redun(
    uri: str,
    factory: SessionFactory,
    owner_id: uuid.UUID,
    report: Report,
    *,
    value_store: str | None = None,
    no_value_store: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
    batch: int = ROWS_PER_BATCH,
) -> None:
    """Add all that a redun database holds to what an owner has.

    It can be killed and run again at any time, and again for what has come since. The source is never
    written.

    :param uri: the URL of redun's database, of SQLite or PostgreSQL.
    :param factory: makes sessions on the target, as the tables' owner.
    :param owner_id: whose rows they are to be.
    :param report: takes what was moved, and what was not moved as it was.
    :param value_store: redun's ``value_store_path``, where it has one: a directory.
    :param no_value_store: take empty values as they are.
    :param dry_run: check everything, and write nothing.
    :param progress: is told how many rows are done, and of how many.
    :param batch: how many rows are moved in one transaction.
    :raises errors.Refused: the value store is not named, or the owner's quota is used up.
    :raises errors.SchemaBehind: the database has an older version than the one that is moved.
    :raises errors.SchemaAhead: it has a newer one.
    :raises errors.AlreadyRunning: another import is going on.
    :raises errors.RolesMissing: the login has not the rights of the tables' owner.
    """
    require_limit(batch, "number of rows in a batch")
    store = None if value_store is None else ValueStore(value_store, owner_id)
    with own_driver_errors(), open_source(uri) as source, only_one(factory):
        with factory() as session, session.begin(), importing(session):
            pass  # This login may do it.
        if store is None and not no_value_store and (empty := source.empty_values()):
            raise errors.Refused(
                f"{empty} values are empty: their bytes lie in redun's value store",
                hint="give --value-store PATH, which is value_store_path in redun.ini, or --no-value-store",
            )
        _Mover(source, factory, owner_id, report, store, dry_run, progress, batch).move()
        if not dry_run:
            analyze(factory, (table.target for table in TABLES))


class _Again(Exception):
    """Rows were refused, on which others of this transaction may depend."""


class _Unknown(errors.Refused):
    """Rows are refused together, and none alone: they may need rows of another transaction."""

    hint = "run this again; where it ends so again, correct these rows in redun's database"

    def __init__(self, table: Table, error: Exception) -> None:
        super().__init__(f"rows of {table.name} are refused together, and none alone: {reason_of(error)}")


class _Mover:
    """Moves table after table, batch by batch, each in a transaction of its own.

    What was refused is remembered: rows that refer to it are refused, too.
    """

    def __init__(
        self,
        source: Source,
        factory: SessionFactory,
        owner_id: uuid.UUID,
        report: Report,
        store: ValueStore | None,
        dry_run: bool,
        progress: Progress | None,
        batch: int,
    ) -> None:
        self.source, self.factory, self.owner_id, self.report = source, factory, owner_id, report
        self.store, self.dry_run, self.progress, self.batch = store, dry_run, progress, batch
        self.refused: defaultdict[str, set[str]] = defaultdict(set)
        self.counts = {table.name: source.count(table) for table in TABLES}
        self.done = 0

    def move(self) -> None:
        self._move_values()
        for table in ALONE_BEFORE:
            self._move_table(table)
        self._move_executions()
        for table in ALONE_AFTER:
            self._move_table(table)
        for name, count in self.counts.items():
            unread = count - self.report.rows[name] - len(self.refused[name])
            if unread > 0:
                reason = "they have no key of their own, or the row that they belong to cannot be read"
                self.report.note(name, "", "refused", reason, rows=unread)

    def _move_table(self, table: Table) -> None:
        for rows in batches(self._read(table, self.source.rows(table)), self.batch, BYTES_PER_BATCH):
            self._bring([(table, partial(self._unrefused, table, rows))])

    def _move_values(self) -> None:
        """Move values: what is here already is found by its length, and its bytes are not read again."""
        at_most = min(self.batch, NAMES_PER_QUERY)
        for rows in batches(self._read(VALUE, self.source.rows(VALUE)), at_most, BYTES_PER_BATCH):
            sizes = self._copy_stored(rows)
            if self.dry_run:
                unread = [row._replace(data=b"") for row in rows]
                self._bring([(VALUE, partial(self._unrefused, VALUE, unread))])
                continue
            new, differing = self._transaction(partial(self._new_values, rows=rows, sizes=sizes))
            for id_ in differing:
                self.report.note(VALUE.name, id_, "left out", _DIFFERS)
            data = self.source.bytes_of(new)
            whole = [
                row.with_data(data[row.id], sizes.get(row.id, row.size)) for row in rows if row.id in data
            ]
            self._count({VALUE.name: len(rows) - len(whole)})
            if whole:
                self._bring([(VALUE, partial(self._unrefused, VALUE, whole))])

    def _copy_stored(self, rows: list[Row]) -> dict[str, int]:
        """Copy the files of values whose bytes lie in the value store, and return their sizes."""
        sizes = {}
        for row in rows:
            if row.size == 0 and self.store is not None:
                size = self.store.size(row.id) if self.dry_run else self.store.copy(row.id)
                if size is None:
                    reason = "its bytes are not in the value store: it moves without them"
                    self.report.note(VALUE.name, row.id, "left out", reason)
                else:
                    sizes[row.id] = size
        return sizes

    def _new_values(
        self, session: Session, rows: list[Row], sizes: dict[str, int]
    ) -> tuple[list[str], list[str]]:
        target = Target(session, self.owner_id)
        target.bring(VALUE, rows)
        target.keep_values()
        differing = target.drop_stored(VALUE, by_length=True)
        if sizes:
            target.set_sizes(sizes)
        return target.brought(VALUE), differing

    def _move_executions(self) -> None:
        """Move executions with their jobs: they refer to each other, and jobs to their parents."""
        orphans = "NOT EXISTS (SELECT 1 FROM execution AS e WHERE e.id = t.execution_id)"
        for _ in self._read(JOB, self.source.rows(JOB, orphans)):
            pass  # Each of them is refused.
        waiting: list[list[Any]] = []
        for raws in self._executions():
            try:
                self._bring_executions(raws)
            except _Unknown:
                waiting += [[raw] for raw in raws]
        self._retry(waiting)

    def _retry(self, waiting: list[list[Any]]) -> None:
        """Move executions again that refer to jobs of others, until no more of them can be moved."""
        while waiting:
            still, reason = [], ""
            for raws in waiting:
                try:
                    self._bring_executions(raws)
                except _Unknown as error:
                    still.append(raws)
                    reason = str(error)
            if len(still) == len(waiting):
                for raws in still:
                    self._refuse(EXECUTION, id_of(EXECUTION, raws[0]), reason)
                    self._bring_executions(raws)
                return
            waiting = still

    def _executions(self) -> Iterator[list[Any]]:
        """Yield executions, with so many jobs together; one with more comes alone."""
        raws: list[Any] = []
        jobs = 0
        for raw in self.source.rows(EXECUTION, more=JOBS_OF_EXECUTION):
            if raws and (jobs + raw[-1] > self.batch or len(raws) == min(self.batch, NAMES_PER_QUERY)):
                yield raws
                raws, jobs = [], 0
            raws.append(raw)
            jobs += raw[-1]
        if raws:
            yield raws

    def _bring_executions(self, raws: list[Any]) -> None:
        ids = [raw[0] for raw in raws if isinstance(raw[0], str) and is_text(raw[0])]

        def jobs() -> Iterator[Row]:
            return self._read(JOB, self.source.rows(JOB, "t.execution_id IN ({of})", ids))

        self._bring([(EXECUTION, partial(self._read, EXECUTION, raws)), (JOB, jobs)])

    def _read(self, table: Table, raws: Iterable[Sequence[Any]]) -> Iterator[Row]:
        """Yield the rows that can be stored, and refuse the others."""
        for raw in raws:
            try:
                row = read(table, raw)
                for (column, name), exists in zip(table.references.items(), row.references, strict=True):
                    if not exists:
                        raise BadRow(f"its {column} names no {name} that there is")
                    if row.values[column] in self.refused[name]:
                        raise BadRow(f"its {column} names a {name} that is not moved")
            except BadRow as error:
                self._refuse(table, id_of(table, raw), str(error))
            else:
                if row.id not in self.refused[table.name]:
                    yield row

    def _unrefused(self, table: Table, rows: list[Row]) -> Iterator[Row]:
        return (row for row in rows if row.id not in self.refused[table.name])

    def _refuse(self, table: Table, id_: str, reason: str) -> None:
        if id_ not in self.refused[table.name]:
            self.refused[table.name].add(id_)
            self.report.note(table.name, id_, "refused", reason)

    def _refusals(self) -> int:
        return sum(map(len, self.refused.values()))

    def _bring(self, parts: list[Part]) -> None:
        """Move these rows in one transaction, but for those that are refused."""
        attempts = 0
        while True:
            try:
                read, written, left_out = self._transaction(partial(self._store, parts=parts))
                break
            except _Again:
                continue
            except NotArrived:  # Another writer may have stored the same key a moment before.
                attempts += 1
                if attempts == ATTEMPTS:
                    raise
        for name, count in written.items():  # Only now is it true.
            self.report.counts["written"][name] += count
        for name, id_, reason in left_out:
            self.report.note(name, id_, "left out", reason)
        self._count(read)

    def _count(self, read: dict[str, int]) -> None:
        for name, count in read.items():
            self.report.rows[name] += count
            self.done += count
        if self.progress:
            self.progress(self.done, sum(self.counts.values()))

    def _transaction(self, work: Callable[[Session], Any]) -> Any:
        return run_transaction(work, factory=self.factory)

    def _store(
        self, session: Session, parts: list[Part]
    ) -> tuple[Counter[str], Counter[str], list[tuple[str, str, str]]]:
        before = self._refusals()
        target = Target(session, self.owner_id, trial=self.dry_run)
        read: Counter[str] = Counter()
        left_out: list[tuple[str, str, str]] = []
        for table, rows in parts:
            for batch in itertools.chain(batches(rows(), self.batch, 2 * BYTES_PER_BATCH), [[]]):
                target.bring(table, batch)
                read[table.name] += len(batch)
            left_out += [(table.name, id_, _DOUBLE) for id_ in target.drop_doubles(table)]
            differing = target.drop_stored(table, by_length=self.dry_run)
            left_out += [(table.name, id_, _DIFFERS) for id_ in differing]
        self._require_no_more(before)
        written = Counter({table.name: self._insert(session, target, table) for table, _ in parts})
        if self.dry_run:
            return read, Counter(), left_out
        try:
            target.check_references()
        except sa.exc.DBAPIError as error:
            if is_refused(error):
                raise _Unknown(parts[-1][0], error) from None
            raise
        for table, _ in parts:
            left_out += [(table.name, id_, _CHANGED) for id_ in target.outdated(table)]
        return read, written, left_out

    def _insert(self, session: Session, target: Target, table: Table) -> int:
        try:
            with session.begin_nested():
                return target.store(table)
        except (errors.Refused, sa.exc.DBAPIError) as error:
            if not is_refused(error):
                raise
            culprits = target.culprits(table)
            if not culprits:
                raise _Unknown(table, error) from None
            for id_, reason in culprits.items():
                self._refuse(table, id_, reason)
            raise _Again from None

    def _require_no_more(self, before: int) -> None:
        if self._refusals() > before:
            raise _Again


_DOUBLE = "a row before it has the same key: that one moves"
_DIFFERS = "another one of this key is here: that one stays"
_CHANGED = "what is here has changed since: it stays"
