"""Waking watchers at once: a job that looks often, so that they need not.

A notification in a trigger would make all writers commit one after another. So this one job sends them, after
it has seen what was committed. It says only that there is something; a watcher that misses it looks anyway.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
import sqlalchemy as sa
from sqlalchemy.engine import URL

from platform_db import errors
from platform_db.bounds import require_seconds
from platform_db.database import create_engine
from platform_db.database.session import SessionFactory
from platform_db.events.event import filters
from platform_db.events.place import last_number, place_of
from platform_db.events.reading import read_page

CHANNEL = "platform_events"


def wake(factory: SessionFactory, *, every: float = 0.02, wait: float | None = None) -> None:
    """Look for events all the time, and notify the watchers that listen, as soon as there are some.

    One such job serves all watchers. It needs no direct connection, only the watchers do.

    :param every: seconds between two looks.
    :param wait: seconds without an event after which it ends; None is never.
    """
    require_seconds(every, "time between two looks")
    heard_at = time.monotonic()
    all_events = filters(None, None, None)
    with factory() as session, session.begin():
        place = place_of(session.connection(), "latest")
    while wait is None or time.monotonic() - heard_at < wait:
        time.sleep(every)
        with factory() as session, session.begin():
            connection = session.connection()
            last = last_number(connection)
            if place.look.is_quiet and place.number == last:
                continue
            page = read_page(connection, place, all_events, 1, last=last)
            place = page.place
        if page.events:
            # The watchers read all that is committed by now; what is committed later is the next look's. Only
            # the first look of a transaction tells what is open.
            with factory() as session, session.begin():
                place = place_of(session.connection(), "latest")
                session.connection().execute(_NOTIFY)
            heard_at = time.monotonic()


@contextmanager
def listening(url: URL | str | None) -> Iterator[Callable[[float], bool]]:
    """Give what sleeps for some seconds, or until the watchers are woken, which it tells.

    :param url: of a direct connection; with None nothing wakes it.
    """
    if url is None:
        yield _sleep
        return
    pooled = create_engine(url, poolclass=sa.pool.NullPool).connect()
    connection: Any = pooled.connection.dbapi_connection
    try:
        connection.autocommit = True
        with connection.cursor() as cursor, selectors.DefaultSelector() as selector:
            cursor.execute(f"LISTEN {CHANNEL}")
            selector.register(connection.fileno(), selectors.EVENT_READ)

            def sleep(seconds: float) -> bool:
                if selector.select(seconds):
                    connection.poll()
                told = bool(connection.notifies)
                connection.notifies.clear()
                return told

            yield sleep
    except psycopg2.OperationalError:
        raise errors.Unreachable("the connection that listens for events was closed") from None
    finally:
        pooled.close()


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


_NOTIFY = sa.text(f"NOTIFY {CHANNEL}")
