"""The engine of this process, sessions on it, and retries.

Nothing here connects before it is asked to. A forked child makes an engine of its own: connections must not
be shared between processes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.engine import Engine

from platform_db import schema
from platform_db.database import create_engine, database_url, is_embedded, sqlstates
from platform_db.database.session import PlatformSession, SessionFactory

T = TypeVar("T")

# After these the same transaction, tried again, may succeed
# (https://www.postgresql.org/docs/current/mvcc-serialization-failure-handling.html).
RETRYABLE = frozenset({sqlstates.SERIALIZATION_FAILURE, sqlstates.DEADLOCK_DETECTED})

_engine: Engine | None = None
_lock = threading.RLock()


def get_engine() -> Engine:
    """Return this process's engine, made at the first call from the settings."""
    global _engine
    if _engine is None:
        with _lock:
            if _engine is None:
                engine = create_engine(database_url())
                if is_embedded():
                    schema.upgrade_new(engine)
                _engine = engine  # Only now: no thread may meet a database without its schema.
    return _engine


def reset_engine() -> None:
    """Close this process's engine, so that the next :func:`get_engine` makes a new one."""
    global _engine
    thread_session.remove()
    if _engine is not None:
        _engine.dispose()
    _engine = None


class _Session(PlatformSession):
    def get_bind(self, *args: Any, **kwargs: Any) -> Engine | sa.Connection:
        return self.bind if self.bind is not None else get_engine()


session_factory = orm.sessionmaker(class_=_Session)

thread_session = orm.scoped_session(session_factory)
"""The session of this thread, on this process's engine. End each use of it by ``thread_session.remove()``."""


def _reset_in_child() -> None:
    """Let a forked child make an engine and sessions of its own.

    The copies of the parent's connections are closed already (:mod:`platform_db.database.forking`), so the
    parent's sessions can be dropped here without a word to the server.
    """
    global _engine, _lock
    _lock = threading.RLock()  # A thread of the parent may have held it at the fork.
    thread_session.registry.clear()
    if _engine is not None:
        _engine.dispose(close=False)
    _engine = None


os.register_at_fork(after_in_child=_reset_in_child)


@contextmanager
def session_scope() -> Iterator[orm.Session]:
    """Give a new session; commit at the end, roll back on an error, close in any case."""
    with session_factory() as session, session.begin():
        yield session


def run_transaction(
    work: Callable[[orm.Session], T], *, factory: SessionFactory = session_factory, attempts: int = 5
) -> T:
    """Run ``work`` in a transaction of its own and return what it returns.

    A serialization failure or a deadlock runs it again, in a new session, after a short random wait. So
    ``work`` must not change anything outside the database that a second run would change twice.

    :param attempts: how often to try in all.
    """
    from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

    retrying = Retrying(
        retry=retry_if_exception(is_retryable),
        stop=stop_after_attempt(attempts),
        wait=wait_random_exponential(multiplier=0.02, max=1.0),
        reraise=True,
    )

    def attempt() -> T:
        with factory() as session, session.begin():
            return work(session)

    return retrying(attempt)


def is_retryable(error: BaseException) -> bool:
    """Tell whether a transaction that ended with ``error`` may succeed when it is run again."""
    return isinstance(error, sa.exc.DBAPIError) and sqlstates.sqlstate_of(error) in RETRYABLE
