"""Writing behind: what is put within a moment is written together, by a thread of its own.

A batch stays readable until it is written. One that cannot be is kept, and tried again before the next one.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import sqlalchemy as sa

from platform_db import errors
from platform_db.database.driver_errors import as_own_error, reason_of

logger = logging.getLogger(__name__)

# A statement may have 1 GiB, or the server ends the connection, and a byte takes up to four in it.
LARGEST_BYTES = 240 * 1024**2

SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # seconds between two attempts


class Batch(Protocol):
    """What is written together.

    :param bytes: what it takes, roughly.
    :param begun: when its first row came, on the monotonic clock.
    """

    bytes: int
    begun: float

    def __len__(self) -> int: ...


B = TypeVar("B", bound=Batch)


class WriteBehind(ABC, Generic[B]):
    """Collects rows and writes them, from a thread of its own, ``delay`` seconds after the first one.

    A subclass starts the thread, puts rows into the pending batch under the lock, once there is room, and
    wakes the thread. At exit, what is pending is written.

    :param make_batch: makes a batch that is empty.
    :param rows: what the rows are, in the plural, for the log.
    :param delay: seconds from the first row of a batch to its writing.
    :param buffer_limit: bytes that wait for a server that does not answer; beyond, callers wait, too, or get
        the error that does not pass by itself.
    """

    def __init__(self, make_batch: Callable[[], B], rows: str, *, delay: float, buffer_limit: int) -> None:
        self.delay, self.buffer_limit = delay, buffer_limit
        self._make_batch, self._rows = make_batch, rows
        self._begin()

    def _begin(self) -> None:
        self._pending = self._make_batch()
        self._unwritten: B | None = None
        self._obstacle: Exception | None = None  # to its writing, which does not pass by itself
        # Guards the batches, and nothing that takes long. It is taken after the other one, never before.
        self._lock = threading.RLock()
        self._room = threading.Condition(self._lock)
        self._writing = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()  # of this thread: the next one has its own
        self._some, self._at_once = threading.Event(), threading.Event()

    @abstractmethod
    def _store(self, batch: B) -> None:
        """Write a batch; where it raises, the batch is kept."""

    def flush(self) -> None:
        """Write all that was put before.

        :raises errors.PlatformDBError: the server does not answer, takes no writes, or none of this login's;
            what was put is kept, and tried again.
        """
        self._write_all()

    def _write_all(self) -> None:
        with self._writing:
            if self._unwritten is not None:  # from an attempt that failed
                self._write_unwritten(self._unwritten)
            with self._lock:
                if not self._pending:
                    return
                self._unwritten, self._pending = self._pending, self._make_batch()
            self._write_unwritten(self._unwritten)

    def close(self) -> None:
        """Write all that was put before, and end the thread; the next row starts another."""
        with self._lock:
            thread, self._thread = self._thread, None
            closing, self._closing = self._closing, threading.Event()
        if thread is not None:
            for event in (closing, self._at_once, self._some):
                event.set()
            thread.join()
        try:
            self.flush()
        finally:
            if not self._waiting_bytes():  # Else the exit is the last chance.
                atexit.unregister(self._close_at_exit)

    def _close_at_exit(self) -> None:
        try:
            self.close()
        except Exception as error:
            if waiting := len(self._pending) + (len(self._unwritten) if self._unwritten else 0):
                logger.critical("%d %s are lost: %s", waiting, self._rows, reason_of(error))

    def _wait_for_room(self) -> None:
        if self._waiting_bytes() >= self.buffer_limit:
            self._at_once.set()
            self._room.wait_for(lambda: self._obstacle or self._waiting_bytes() < self.buffer_limit)
            if self._obstacle:
                raise self._obstacle

    def _waiting_bytes(self) -> int:
        return self._pending.bytes + (self._unwritten.bytes if self._unwritten else 0)

    def _wake(self, *, is_full: bool) -> None:
        """Have the pending batch written in time, or at once where it is full."""
        if not self._some.is_set():
            self._some.set()
        if is_full:
            self._at_once.set()
        if self._thread is None:
            self._start()  # Again, where another thread closed this meanwhile.

    def _start(self) -> None:
        """Start the thread, before waiting for room, which only it makes."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, args=[self._closing], name=self._rows, daemon=True
                )
                self._thread.start()
                atexit.register(self._close_at_exit)

    def _run(self, closing: threading.Event) -> None:
        """Write until this is closed; what is pending then, the thread that closes it writes."""
        pause = SHORTEST_PAUSE
        while not closing.is_set():
            self._some.wait()
            self._at_once.wait(self._pending.begun + self.delay - time.monotonic())
            if closing.is_set():
                break
            self._at_once.clear()
            try:
                self._write_all()
                pause = SHORTEST_PAUSE
                with self._lock:
                    if not self._pending:
                        self._some.clear()
            except Exception as error:
                self._tell_waiting(error, pause)
                with self._lock:
                    self._obstacle = None if isinstance(error, errors.Unreachable) else error
                    self._room.notify_all()
                closing.wait(pause)
                pause = min(pause * 2, LONGEST_PAUSE)

    def _tell_waiting(self, error: Exception, pause: float) -> None:
        logger.warning("%s wait to be stored: %s; trying again in %g s", self._rows, reason_of(error), pause)

    def _write_unwritten(self, batch: B) -> None:
        try:
            self._store(batch)
        except sa.exc.DBAPIError as error:
            raise as_own_error(error) from None
        with self._lock:
            self._unwritten = self._obstacle = None
            self._room.notify_all()
