"""Recording in batches: what is put within a moment is written by one transaction, in one round trip.

All rows but a few are content-addressed, so a batch that is written again changes nothing: after a lost
connection, after a deadlock, and where another process writes the same rows at the same time.

A batch that the server refuses is looked through for the rows that spoil it. They are put aside, the rest is
stored, and the next flush raises an error that names the methods that recorded them.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import uuid
import weakref
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from platform_db import errors
from platform_db.bounds import require_seconds
from platform_db.database import create_engine
from platform_db.database.distribution import engine_is_distributed, execute_together
from platform_db.database.driver_errors import reason_of
from platform_db.database.engine import ISOLATION, identity_of
from platform_db.database.kept_connection import KeptConnection
from platform_db.database.write_behind import LARGEST_BYTES, LONGEST_PAUSE, SHORTEST_PAUSE, WriteBehind
from platform_db.models.identity import UserOrId, user_id_of
from platform_db.provenance import statements
from platform_db.provenance.batch import Batch, Entry, Refusal
from platform_db.provenance.known import Known
from platform_db.provenance.searching import UNWRITABLE, find_refused, is_refusal
from platform_db.provenance.statements import Row
from platform_db.provenance.tables import TABLES
from platform_db.sessions import is_retryable
from platform_db.tenancy.privileges import Role, role_name

logger = logging.getLogger(__name__)

DELAY = 0.05  # seconds from the first row of a batch to its writing
# A batch of so much is written at once: the server works while the process does, and not only when it waits.
FULL_ROWS, FULL_BYTES = 250, 4 * 1024**2
BUFFER_LIMIT = 64 * 1024**2  # bytes that wait for a server that does not answer; beyond, callers wait, too
PATIENCE = 60.0  # seconds that a flush waits for a server that restarts

ANALYZE_AFTER = 20_000  # rows of one process, after which tables without statistics get some

ATTEMPTS = 10  # of a batch that deadlocks

# One that is closed, and that no one has, is no more; one that is open is its thread's.
_recorders: weakref.WeakValueDictionary[Hashable, Recorder] = weakref.WeakValueDictionary()
_all: weakref.WeakSet[Recorder] = weakref.WeakSet()
_lock = threading.Lock()


def recorder_of(engine: sa.Engine, owner: UserOrId, *, as_tenant: bool = False) -> Recorder:
    """Return this process's recorder of an owner, which all that record for the owner share.

    :param engine: the database; the recorder makes connections of its own, the same way.
    :param as_tenant: whether to work as the role of tenants, which sees the owner's rows alone.
    """
    key = (identity_of(engine), user_id_of(owner), as_tenant)
    with _lock:
        found = _recorders.get(key)
        if found is None:
            found = _recorders[key] = Recorder(engine, owner, as_tenant=as_tenant)
        return found


class Recorder(WriteBehind[Batch]):
    """Collects an owner's rows and writes them, from a thread of its own, soon after the first one.

    It holds no transaction open. At exit it writes what is pending; a process that is killed loses one batch
    or two, each of them whole.

    :param engine: the database; connections are made the same way.
    :param owner: whose rows these are.
    :param as_tenant: whether to work as the role of tenants, which sees the owner's rows alone.
    :param delay: seconds from the first row of a batch to its writing.
    :param buffer_limit: bytes that wait for a server that does not answer; beyond, callers wait, too.
    :param patience: seconds that a flush waits for a server that does not answer.
    """

    def __init__(
        self,
        engine: sa.Engine,
        owner: UserOrId,
        *,
        as_tenant: bool = False,
        delay: float = DELAY,
        buffer_limit: int = BUFFER_LIMIT,
        patience: float = PATIENCE,
    ) -> None:
        self.owner_id: uuid.UUID = user_id_of(owner)
        self.patience = require_seconds(patience, "patience")
        self._owner = str(self.owner_id)
        self.enter = f"SET LOCAL platform.user_id = '{self._owner}';"
        """Statements that begin each transaction of the owner's."""
        if as_tenant:
            self.enter = f"SET LOCAL ROLE {role_name(Role.tenant)};{self.enter}"
        # Each text of statements is a transaction of its own: a batch takes one round trip, and a read one.
        self._engine = create_engine(engine, isolation_level="AUTOCOMMIT")
        self._transactions = self._engine.execution_options(isolation_level=ISOLATION)
        delay = require_seconds(delay, "delay")
        super().__init__(Batch, "rows of provenance", delay=delay, buffer_limit=buffer_limit)
        _all.add(self)

    def _begin(self) -> None:
        super()._begin()
        self.reading = KeptConnection(self._engine, self.enter)
        """A connection that reads the owner's rows, for :mod:`platform_db.provenance.lookups`."""
        self._connection = KeptConnection(self._engine, self.enter)
        self._refused: list[Refusal] = []
        self._known = Known()
        self._written = 0
        self._together = 0  # blocks that put rows together now; of the thread that has the lock

    @contextmanager
    def together(self) -> Iterator[None]:
        """Have what this block puts written by one batch, such as a call and its arguments.

        Others that record wait for the block, and so does the writer: nothing may be flushed in it.
        """
        if self._thread is None:
            self._start()
        with self._lock:
            if not self._together:
                self._wait_for_room()
            self._together += 1
            try:
                yield
            finally:
                self._together -= 1

    def put(self, table: str, key: Any, row: Row, method: str) -> None:
        """Write a row, soon.

        :param table: one of :data:`platform_db.provenance.tables.TABLES`.
        :param key: the row's key beside the owner: a text, or a tuple in the order of the primary key. A row
            of this key that is not written yet is replaced.
        :param row: values by column.
        :param method: what records it, which errors name.
        """
        values = statements.values_of(table, row)
        size = statements.size_of(values)
        if size > LARGEST_BYTES:
            self._put_aside([Refusal(table, key, method, f"a row may have {LARGEST_BYTES} bytes")])
            return
        if self._thread is None:
            self._start()
        with self._lock:
            if not self._together:
                self._wait_for_room()
            self._pending.put(table, key, Entry(values, method), size)
            is_full = self._pending.bytes >= FULL_BYTES or len(self._pending) >= FULL_ROWS
        self._wake(is_full=is_full)

    def pending(self, table: str, key: Any) -> dict[str, Any] | None:
        """Return a row that is not committed yet, None where there is none."""
        with self._lock:
            for batch in (self._pending, self._unwritten):
                entry = None if batch is None else batch.rows.get(table, {}).get(key)
                if entry is not None:
                    return dict(zip(TABLES[table].types, entry.values, strict=True))
        return None

    def known(self, hash_: str | None) -> bool:
        """Tell whether this process has written or read what has this hash, within an hour."""
        return hash_ in self._known

    def remember(self, hash_: str) -> None:
        """Say that what has this hash is stored, or put to be."""
        self._known.add(hash_)

    def flush(self) -> None:
        """Return when all that was put before is on the disk.

        :raises errors.NotRecorded: some of it cannot be stored; the rest is. It is raised once.
        :raises errors.Unreachable: the server does not answer, or takes no writes, and did not within the
            recorder's patience. Nothing is lost, and it is tried again.
        :raises errors.RolesMissing: this login may not record. Nothing is lost, and it is tried again.
        :raises errors.Refused: the rows of a block that records them together cannot be split.
        """
        self._require_no_block()
        give_up_at = time.monotonic() + self.patience
        pause = SHORTEST_PAUSE
        while True:
            try:
                self._write_all()
                break
            except errors.Unreachable as error:
                if time.monotonic() + pause > give_up_at:
                    raise
                self._tell_waiting(error, pause)
                time.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
        with self._lock:
            refused, self._refused = self._refused, []
        if refused:
            raise errors.NotRecorded(refused)

    def close(self) -> None:
        """Flush, end the thread and close the connections; what is put later begins again.

        :raises errors.PlatformDBError: as :meth:`flush` does.
        """
        try:
            super().close()
        finally:
            self._known.forget()
            self._connection.close()
            self.reading.close()
            self._engine.dispose()

    def _close_at_exit(self) -> None:
        self.patience = min(self.patience, LONGEST_PAUSE)
        super()._close_at_exit()

    def _require_no_block(self) -> None:
        if self._lock.acquire(blocking=False):
            try:
                if self._together:  # Another thread's block has the lock.
                    raise errors.Refused("nothing can be flushed within a block that records together")
            finally:
                self._lock.release()

    def _write_unwritten(self, batch: Batch) -> None:
        super()._write_unwritten(batch)
        before, self._written = self._written, self._written + len(batch)
        if before < ANALYZE_AFTER <= self._written:
            self._analyze()

    def _analyze(self) -> None:
        """Give the tables statistics after the first load; where the login may not, autovacuum does later."""
        try:
            self._connection.run(lambda cursor: cursor.execute("SELECT platform.analyze_calls()"))
        except Exception as error:  # The batch is stored, whatever becomes of this.
            logger.info("the tables of calls were not analyzed: %s", reason_of(error))

    def _store(self, batch: Batch) -> None:
        """Store all rows of a batch but those that the server refuses, and those that need these."""
        attempts = 0
        while True:
            attempts += 1
            try:
                self._write(batch)
                return
            except sa.exc.DBAPIError as error:
                if attempts < ATTEMPTS and is_retryable(error):  # such as a deadlock with another program
                    continue
                if not is_refusal(error):
                    raise
                refusal: Exception = error
            except UNWRITABLE as error:
                refusal = error
            if not self._remove_refused(batch) and attempts >= ATTEMPTS:
                # No row is refused alone, such as two that were put under other keys than their own. Kept,
                # they would hold up all that is recorded from now on.
                self._put_aside(batch.refuse(reason_of(refusal)))
                return

    def _write(self, batch: Batch) -> None:
        """Write a batch in one transaction."""
        if batch.bytes > statements.LARGEST_STATEMENT or engine_is_distributed(self._engine):
            parts = statements.insert_all(self._owner, batch.values(), in_parts=True)
            execute_together(self._transactions, self.enter, self._owner, parts)
            return
        statement, parameters = self._statements(batch)
        if parameters:
            self._connection.send(statement, parameters)

    def _statements(self, batch: Batch) -> tuple[str, tuple[str, ...]]:
        """Return statements as one text, which is one transaction and one round trip."""
        parts = list(statements.insert_all(self._owner, batch.values()))
        text = ";".join(statement for statement, _ in parts)
        return text, tuple(value for _, values in parts for value in values)

    def _remove_refused(self, batch: Batch) -> bool:
        """Put the rows aside that spoil a batch, and tell whether there are any.

        :raises sqlalchemy.exc.DBAPIError: the server refused something else than a row, or was lost.
        """
        with self._transactions.connect() as connection:
            connection.exec_driver_sql(self.enter)
            refused = find_refused(connection, self._owner, batch)
            connection.rollback()
        # Under the lock, for readers look into the batch meanwhile.
        with self._lock:
            removed = list(batch.remove(refused))
        self._put_aside(removed)
        return bool(removed)

    def _put_aside(self, refused: list[Refusal]) -> None:
        for table, key, method, reason in refused:
            logger.error("%s: the %s %s was put aside: %s", method, table, key, reason)
        with self._lock:
            self._refused += refused
        if refused:
            self._known.forget()  # It promised these rows.


def _begin_in_child() -> None:
    """Let a forked child begin with nothing pending: what it has are copies of what the parent writes."""
    global _lock
    _lock = threading.Lock()
    for recorder in _all:
        atexit.unregister(recorder._close_at_exit)
        recorder._engine.dispose(close=False)
        recorder._begin()


os.register_at_fork(after_in_child=_begin_in_child)
