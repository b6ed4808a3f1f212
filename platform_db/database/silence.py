"""Giving up statements that a server will never answer.

A machine that is gone acknowledges no data, and the client's kernel closes the connection. The kernel of a
proxy, or of a machine whose server was stopped, still acknowledges data, and the driver would wait for ever.
So a thread looks for connections that have been at work for long, and logs in to the server again. Where no
login succeeds in time, or the server no longer has their processes, it shuts these connections down, as a
lost network would. A statement that takes long goes on. A pooler answers logins itself: there, its own
timeouts count.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg2
import sqlalchemy as sa
from psycopg2.extensions import POLL_OK, POLL_READ, TRANSACTION_STATUS_ACTIVE
from sqlalchemy import event

logger = logging.getLogger(__name__)

LOOKS_PER_TIMEOUT = 4


@dataclass(eq=False)
class _Server:
    """A server that connections of an engine lead to.

    :param seconds: how long a connection may be at work before the server is asked.
    :param patience: how many seconds it has to answer.
    """

    seconds: float
    patience: float
    connect: Callable[..., Any] | None = None

    def find(self, pids: list[int]) -> set[int]:
        """Return which of these of its processes are there, as far as is known; without an answer none.

        A login is an answer. Behind a pooler the question that follows may wait for a connection.
        """
        give_up_at = time.monotonic() + self.patience
        is_silent = True
        try:
            with contextlib.closing(self.connect(async_=True)) as connection:  # type: ignore[misc]
                _wait(connection, give_up_at)
                is_silent = False
                with contextlib.closing(connection.cursor()) as cursor:
                    cursor.execute(_FIND, (pids,))
                    _wait(connection, give_up_at)
                    ((own_pid, found),) = cursor.fetchall()
                # A pooler hands out numbers of its own.
                return set(found if own_pid == connection.info.backend_pid else pids)
        except TimeoutError:
            return set() if is_silent else set(pids)
        except psycopg2.Error:
            return set(pids)  # That is an answer, too. Of a server that is down, the system has ended all.


_FIND = "SELECT pg_backend_pid(), ARRAY(SELECT pid FROM pg_stat_activity WHERE pid = ANY (%s))"


def _wait(connection: Any, give_up_at: float) -> None:
    """Wait for an asynchronous connection.

    :raises TimeoutError: it is not done in time.
    """
    with selectors.DefaultSelector() as selector:
        while (state := connection.poll()) != POLL_OK:
            ready = selectors.EVENT_READ if state == POLL_READ else selectors.EVENT_WRITE
            selector.register(connection, ready)
            if not selector.select(max(0.0, give_up_at - time.monotonic())):
                raise TimeoutError
            selector.unregister(connection)


class _Watch:
    """The connections of this process that are watched, and the thread that looks at them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._servers: weakref.WeakKeyDictionary[Any, _Server] = weakref.WeakKeyDictionary()
        self._busy_since: weakref.WeakKeyDictionary[Any, float] = weakref.WeakKeyDictionary()
        self._interval = float("inf")
        self._is_shorter = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, connection: Any, server: _Server) -> None:
        with self._lock:
            self._servers[connection] = server
            if server.seconds / LOOKS_PER_TIMEOUT < self._interval:
                self._interval = server.seconds / LOOKS_PER_TIMEOUT
                self._is_shorter.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._go_on, name="silence", daemon=True)
                self._thread.start()

    def _go_on(self) -> None:
        while True:
            if self._is_shorter.wait(self._interval):
                self._is_shorter.clear()
                continue
            try:
                self._look()
            except Exception:
                logger.exception("connections could not be watched")

    def _look(self) -> None:
        with self._lock:
            servers = list(self._servers.items())
        overdue: dict[_Server, list[Any]] = defaultdict(list)
        now = time.monotonic()
        for connection, server in servers:
            if not _is_busy(connection):
                self._busy_since.pop(connection, None)
            elif now - self._busy_since.setdefault(connection, now) >= server.seconds:
                overdue[server].append(connection)
        for server, connections in overdue.items():
            pids = {connection: connection.info.backend_pid for connection in connections}
            found = server.find(list(pids.values()))
            for connection, pid in pids.items():
                if pid not in found:
                    end(connection)
                self._busy_since.pop(connection, None)  # It is asked again after as long a time.


def watch(engine: sa.Engine, seconds: float, patience: float) -> None:
    """Give statements up on this engine's connections where its server has gone silent.

    :param seconds: how long a connection may be at work before the server is asked; 0 is for ever.
    :param patience: seconds that the server has to answer.
    """
    if not seconds:
        return
    server = _Server(seconds, patience)

    def note_how(dialect: Any, record: Any, arguments: Any, options: dict[str, Any]) -> None:
        # A pooler may refuse connection options.
        asked = {name: value for name, value in options.items() if name != "options"}
        server.connect = partial(dialect.loaded_dbapi.connect, *arguments, **asked)

    def add(connection: Any, record: Any) -> None:
        if server.connect is not None:  # else another function makes this engine's connections
            _watched.add(connection, server)

    event.listen(engine, "do_connect", note_how)
    event.listen(engine, "connect", add)


def _is_busy(connection: Any) -> bool:
    with contextlib.suppress(psycopg2.Error):  # It was closed meanwhile.
        return not connection.closed and connection.info.transaction_status == TRANSACTION_STATUS_ACTIVE
    return False


def end(connection: Any) -> None:
    """Let the driver find a connection that is at work at its end."""
    with (
        contextlib.suppress(OSError, psycopg2.Error),
        socket.socket(fileno=os.dup(connection.fileno())) as own,
    ):
        # The copy is of this connection only if that was open all the time.
        if _is_busy(connection):
            logger.warning("the server does not answer: a statement is given up")
            own.shutdown(socket.SHUT_RDWR)


_watched = _Watch()


def _forget_in_child() -> None:
    global _watched
    _watched = _Watch()


os.register_at_fork(after_in_child=_forget_in_child)
