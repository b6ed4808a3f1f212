"""Writing records in batches: what is added within a moment goes in one transaction.

A batch stays readable until it is committed. One that meets a lost connection is written again, with the same
result, until it succeeds. One that the server refuses is halved until the record that spoils it stands alone:
that one is put aside, and all others are stored. So are records beyond the owner's "database storage".
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, NamedTuple

import psycopg2
import sqlalchemy as sa

from platform_db import errors
from platform_db.database import sqlstates
from platform_db.database.distribution import engine_is_distributed, execute_together
from platform_db.database.driver_errors import reason_of
from platform_db.database.kept_connection import KeptConnection
from platform_db.database.write_behind import LARGEST_BYTES, WriteBehind
from platform_db.sessions import is_retryable
from platform_db.tasks import statements
from platform_db.tasks.encoding import TIMES, Encoded, merge
from platform_db.tasks.statements import History

logger = logging.getLogger(__name__)

# From so many on, COPY's lower costs outweigh its further round trips.
COPIED_RECORDS = 64

FULL_RECORDS = 2000
FULL_BYTES = 8 * 1024**2


class Batch:
    """Records that are new, and changes of records that are stored, by their ids."""

    def __init__(self) -> None:
        self.new: dict[str, Encoded] = {}
        self.changed: dict[str, Encoded] = {}
        self.bytes = 0
        self.begun = time.monotonic()

    def __len__(self) -> int:
        return len(self.new) + len(self.changed)

    def add(self, msg_id: str, encoded: Encoded) -> None:
        self.changed.pop(msg_id, None)
        self.new[msg_id] = encoded
        self.bytes += encoded.size

    def change(self, msg_id: str, changes: Encoded) -> None:
        held = self.new if msg_id in self.new else self.changed
        held[msg_id] = merge(held[msg_id], changes) if msg_id in held else changes
        self.bytes += changes.size

    def size(self) -> int:
        """Return the bytes of its values; of those that were changed again, of the last ones alone."""
        return sum(encoded.size for held in (self.new, self.changed) for encoded in held.values())

    def halves(self) -> Iterable[Batch]:
        items = [(True, *item) for item in self.new.items()] + [(False, *i) for i in self.changed.items()]
        for part in (items[: len(items) // 2], items[len(items) // 2 :]):
            half = Batch()
            for is_new, msg_id, encoded in part:
                (half.add if is_new else half.change)(msg_id, encoded)
            yield half


class Pending(NamedTuple):
    """What of a record is not committed yet: all of it, or changes of it."""

    record: Encoded | None
    changes: Encoded | None


class BatchWriter(WriteBehind[Batch]):
    """Collects records and writes them, from a thread of its own, ``delay`` seconds after the first one.

    :param engine: commits each text of statements; several of them in one text are one transaction.
    :param enter: statements that begin each of its transactions.
    :param delay: seconds; with 0 each call writes by itself.
    :param buffer_limit: bytes that may wait for a server that does not answer; beyond, callers wait, too.
    :param stored: is called with each batch that was committed.
    :param refused: is called with the id of each record that the server refused, and its reason.
    """

    def __init__(
        self,
        engine: sa.Engine,
        history: History,
        *,
        enter: str,
        delay: float,
        buffer_limit: int,
        stored: Callable[[Batch], None],
        refused: Callable[[str, str], None],
    ) -> None:
        self.history = history
        self.stored, self.refused = stored, refused
        self._engine = engine
        self._connection = KeptConnection(engine, enter)
        self._copies: bool | None = None
        super().__init__(Batch, "task records", delay=delay, buffer_limit=buffer_limit)
        self._process = os.getpid()

    def add(self, msg_id: str, encoded: Encoded) -> None:
        """Store a record, soon."""
        self._put(Batch.add, msg_id, encoded)

    def change(self, msg_id: str, changes: Encoded) -> None:
        """Change a record that is pending or stored, soon."""
        self._put(Batch.change, msg_id, changes)

    def pending(self, msg_id: str) -> Pending:
        """Return what of a record is not committed yet."""
        record = changes = None
        with self._lock:
            for batch in filter(None, (self._unwritten, self._pending)):
                if msg_id in batch.new:
                    record, changes = batch.new[msg_id], None
                elif msg_id in batch.changed:
                    more = batch.changed[msg_id]
                    changes = more if changes is None else merge(changes, more)
        return Pending(record, changes)

    def close(self) -> None:
        """Write all that was added before, and end the thread; the next record starts another."""
        if os.getpid() == self._process:  # What a forked child has are copies of what the parent writes.
            super().close()
            self._connection.close()

    def _put(self, put: Callable[[Batch, str, Encoded], None], msg_id: str, encoded: Encoded) -> None:
        if os.getpid() != self._process:  # The thread has stayed with the parent.
            raise errors.Refused("a task store writes in the process that made it: make one after a fork")
        if not self.delay:
            self.flush()  # What is left is written first, or raises.
        elif self._thread is None:
            self._start()
        with self._lock:
            if self.delay:
                self._wait_for_room()
            if not self._pending:
                self._pending.begun = time.monotonic()
            put(self._pending, msg_id, encoded)
            is_full = len(self._pending) >= FULL_RECORDS or self._pending.bytes >= FULL_BYTES
        if self.delay:
            self._wake(is_full=is_full)
        else:
            self.flush()

    def _store(self, batch: Batch, attempts: int = 5) -> None:
        """Store all records of a batch but those that the server refuses."""
        if batch.size() > LARGEST_BYTES:
            self._divide(batch, f"a record may have {LARGEST_BYTES} bytes")
            return
        try:
            self._write(batch)
        except errors.QuotaExceeded as error:
            self._store_within(batch, error)
        except sa.exc.DBAPIError as error:
            if is_retryable(error) and attempts > 1:  # such as a deadlock with another scheduler
                self._store(batch, attempts - 1)
                return
            if not sqlstates.is_refused_value(error):
                raise
            self._divide(batch, reason_of(error))
        else:
            self.stored(batch)

    def _store_within(self, batch: Batch, refusal: errors.QuotaExceeded) -> None:
        """Store what the owner's quota has room for."""
        fitting = Batch()
        if not batch.changed:  # Otherwise what was used may hold this batch's own new records.
            room = refusal.limit - refusal.used - refusal.reserved
            for msg_id, encoded in batch.new.items():
                if encoded.size > room:  # It is not tried alone: each attempt is a transaction.
                    self.refused(msg_id, str(refusal))
                else:
                    fitting.add(msg_id, encoded)
        if batch.changed or len(fitting) == len(batch):
            self._divide(batch, str(refusal))
        elif fitting:
            self._store(fitting)

    def _divide(self, batch: Batch, reason: str) -> None:
        """Store the halves of a batch that was refused; a single record is put aside.

        The times of a refused change are stored all the same: they take no room, and a task that completed
        counts as completed.
        """
        if len(batch) > 1:
            for half in batch.halves():
                self._store(half)
            return
        ((msg_id, encoded),) = {**batch.new, **batch.changed}.items()
        self.refused(msg_id, reason)
        times = {name: value for name, value in encoded.values.items() if name in TIMES}
        if batch.changed and 0 < len(times) < len(encoded.values):
            only = Batch()
            only.change(msg_id, Encoded(times, 0))
            self._store(only)

    def _write(self, batch: Batch) -> None:
        """Write a batch in one transaction."""
        if engine_is_distributed(self._engine):
            parts = self._parts(batch, with_new=True)
            execute_together(self._engine, self._connection.enter, self.history.owner_id, parts)
            return
        if len(batch.new) >= COPIED_RECORDS and self._may_copy():
            # A record may be there already or be refused, or the connection be lost: below it is found which.
            with suppress(psycopg2.Error):
                self._connection.run(lambda cursor: self._copy(cursor, batch))
                return
        self._connection.send(*self._statements(batch, with_new=True))

    def _copy(self, cursor: Any, batch: Batch) -> None:
        """Write a batch. ``COPY`` takes half the time of ``INSERT``, but refuses records that are there."""
        text, values = self._statements(batch, with_new=False) if batch.changed else ("", ())
        enter = self._connection.enter
        if text or enter:
            cursor.execute(f"BEGIN;{enter}")
        cursor.copy_expert(statements.COPY, statements.copied(self.history, batch.new))
        if text or enter:
            cursor.execute(f"{text};COMMIT", values)

    def _statements(self, batch: Batch, *, with_new: bool) -> tuple[str, tuple[str, ...]]:
        """Return statements as one text, which is one transaction and one round trip."""
        parts = self._parts(batch, with_new=with_new)
        text = ";".join(statement for statement, _ in parts)
        return text, tuple(value for _, values in parts for value in values)

    def _parts(self, batch: Batch, *, with_new: bool) -> list[tuple[str, Any]]:
        parts: list[tuple[str, Any]] = [self.history.lock_totals]
        if with_new and batch.new:
            parts.append(statements.insert(self.history, batch.new))
        return [*parts, *statements.update(self.history, batch.changed)]

    def _may_copy(self) -> bool:
        """Tell whether this login may ``COPY`` into the table: not where row security applies to it."""
        if self._copies is None:
            ((active,),) = self._connection.send(f"SELECT row_security_active('{statements.TABLE}')")
            self._copies = not active
        return self._copies
