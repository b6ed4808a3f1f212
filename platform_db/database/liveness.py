"""Testing pooled connections before use, without a round trip where none is needed.

The socket of a connection that the server has closed is readable: it holds a last message, or its end. So
after a moment's idling a look at the socket is enough, and costs almost nothing. After a longer time a query
tests the connection, because a network that drops packets sends nothing. (A query before each transaction
would take about a fifth of the time of a short one.)
"""

from __future__ import annotations

import socket
import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

# Seconds in the pool after which a connection is asked by a query.
IDLE_SECONDS = 1.0

_RETURNED = "platform_db.returned"


def check_before_use(engine: sa.Engine) -> None:
    """Let the engine's pool test each connection before it hands it out, and replace those that are gone."""
    driver_errors = engine.dialect.loaded_dbapi.Error

    def note_return(connection: Any, entry: ConnectionPoolEntry) -> None:
        entry.info[_RETURNED] = time.monotonic()

    def test(connection: Any, entry: ConnectionPoolEntry, proxy: PoolProxiedConnection) -> None:
        returned = entry.info.get(_RETURNED)
        if returned is None:
            return  # It is new.
        if time.monotonic() - returned < IDLE_SECONDS and not _readable(connection):
            return
        try:
            engine.dialect.do_ping(connection)
        except driver_errors as error:
            raise sa.exc.DisconnectionError from error

    event.listen(engine, "checkin", note_return)
    event.listen(engine, "checkout", test)


def _readable(connection: Any) -> bool:
    """Tell whether something waits to be read on a connection that has nothing to say."""
    if connection.closed:
        return True
    # Not select.poll(), which eventlet takes away, nor select.select(), which ends at descriptor 1024. The
    # family does not matter to a look; without one, Python would ask the system for it.
    peeking = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, connection.fileno())
    try:
        peeking.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True  # The query finds out.
    finally:
        peeking.detach()
    return True
