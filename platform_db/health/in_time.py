"""Asking a database that may have gone silent: for so long, and no longer."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswer
from typing import Any, TypeVar

import sqlalchemy as sa
from psycopg2.extensions import connection
from sqlalchemy.engine import URL, Engine

from platform_db import database, errors
from platform_db.database import silence
from platform_db.database.driver_errors import own_connection_errors
from platform_db.settings import get_settings

T = TypeVar("T")

# The last connections of an impatient engine: the one that it has, and those before, which ended or hang.
_made: weakref.WeakKeyDictionary[Engine, deque[connection]] = weakref.WeakKeyDictionary()


def create_impatient_engine(url: URL | str, seconds: int) -> Engine:
    """Return an engine of one connection that waits no longer, whatever the settings say.

    :param seconds: for a connection, for a statement, and until it is asked whether the server is there.
    """
    made: deque[connection] = deque(maxlen=3)

    def make(*arguments: Any, **options: Any) -> connection:
        new = connection(*arguments, **options)
        made.append(new)  # before its first statement, which may be the one that is never answered
        return new

    limits = {"connect_timeout": seconds, "network_timeout": seconds, "statement_timeout": seconds * 1000}
    engine = database.create_engine(
        url,
        get_settings().model_copy(update=limits),
        pool_size=1,
        max_overflow=0,
        pool_timeout=seconds,
        connect_args={"connection_factory": make},
    )
    _made[engine] = made
    return engine


def ask_in_time(engine: Engine, seconds: float, ask: Callable[[sa.Connection], T]) -> T:
    """Return what ``ask`` returns of a connection; one that does not answer is ended, and nothing waits on.

    A pooler or a proxy may answer logins for a server that is silent: then no timeout of the driver ends it.
    An engine of :func:`create_impatient_engine` is for one at a time.

    :raises errors.Unreachable: there was no answer in time.
    """
    future: Future[T] = Future()
    used: list[Any] = []

    def work() -> None:
        try:
            with own_connection_errors(), engine.connect() as connected:
                used.append(connected.connection.dbapi_connection)
                found = ask(connected)
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(found)

    for each in tuple(_made.get(engine, ())):
        silence.end(each)  # Who was given up may have connected again, and wait again.
    threading.Thread(target=work, name="asking", daemon=True).start()
    try:
        return future.result(timeout=seconds)
    except NoAnswer:
        for each in (*tuple(_made.get(engine, ())), *used):
            silence.end(each)
        raise errors.Unreachable(f"the database did not answer in {seconds:g} s") from None
