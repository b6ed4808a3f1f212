"""What a migration asks of its connection: a direct one, alone, never long in the way, and left as it was."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from platform_db import errors
from platform_db.database import sqlstates
from platform_db.database.distribution import IS_DISTRIBUTED, is_distributed
from platform_db.database.pooling import is_pooled
from platform_db.settings import get_settings

logger = logging.getLogger(__name__)

# Any number will do, as long as every release takes the same one.
MIGRATION_LOCK = 0x706C6174666F726D  # "platform" in ASCII

LOCK_POLL_SECONDS = 0.1

LONGEST_PAUSE_SECONDS = 10

# A revision runs to its end, however long it takes: an index that is stopped half-way has to begin again.
UNLIMITED = ("statement_timeout", "idle_in_transaction_session_timeout", "transaction_timeout")

# How often the server looks whether the client of a statement was killed, where its system can tell.
CHECK_CLIENT = "client_connection_check_interval"
CHECK_CLIENT_MILLISECONDS = 5000


@contextmanager
def migrating(connection: Connection) -> Iterator[None]:
    """Let this connection migrate, and no other one; leave it as it was, with no transaction open.

    :raises errors.NotDirect: a pooler stands between; nothing is changed.
    :raises errors.AlreadyRunning: another process migrates for longer than ``PLATFORM_DB_MIGRATION_WAIT``.
    """
    require_direct(connection)
    lock_for_migration(connection, get_settings().migration_wait)
    event.listen(connection, "begin", _set_timeouts)
    event.listen(connection, "before_cursor_execute", _create_here)
    event.listen(connection, "after_cursor_execute", _tell_again)
    try:
        yield
    finally:
        event.remove(connection, "begin", _set_timeouts)
        event.remove(connection, "before_cursor_execute", _create_here)
        event.remove(connection, "after_cursor_execute", _tell_again)
        with suppress(DBAPIError):  # It broke, and the server has forgotten it.
            connection.rollback()
            connection.exec_driver_sql("RESET ALL")
            connection.scalar(sa.select(sa.func.pg_advisory_unlock(MIGRATION_LOCK)))
            connection.commit()


def require_direct(connection: Connection) -> None:
    """Refuse a pooler: it may give each transaction another session, and would keep the lock and settings.

    :raises errors.NotDirect: there is one. It keeps no state of the question.
    """
    if is_pooled(connection.connection.dbapi_connection):
        raise errors.NotDirect


def lock_for_migration(connection: Connection, wait_seconds: float) -> None:
    """Take the migrations' lock for as long as the connection lives, and leave no transaction open.

    :raises errors.AlreadyRunning: another process has held it for ``wait_seconds``.
    """
    give_up_at = time.monotonic() + wait_seconds
    while not connection.scalar(sa.select(sa.func.pg_try_advisory_lock(MIGRATION_LOCK))):
        connection.rollback()
        if time.monotonic() >= give_up_at:
            raise errors.AlreadyRunning(f"another process has been migrating for {wait_seconds:g} s")
        time.sleep(LOCK_POLL_SECONDS)
    connection.commit()


def retry_while_blocked(connection: Connection, run: Callable[[], None]) -> None:
    """Run revisions; where one waits too long for a table, roll it back, let others pass, and try again.

    A request for a strong lock stands before every later one for its table: readers wait behind it. So it
    waits for a moment only, and stays away for a longer one.

    :param run: does what has not been done yet.
    :raises errors.MigrationBlocked: no attempt within ``PLATFORM_DB_MIGRATION_WAIT`` got its locks.
    """
    from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

    give_up_at: float | None = None

    def attempt() -> None:
        try:
            run()
        except BaseException:
            with suppress(DBAPIError):
                connection.rollback()
            raise

    def is_over(state: RetryCallState) -> bool:
        """Count from the first attempt that was blocked: before it, revisions may have run for long."""
        nonlocal give_up_at
        now = time.monotonic()
        give_up_at = now + wait if give_up_at is None else give_up_at
        return now >= give_up_at

    wait = get_settings().migration_wait
    retrying = Retrying(
        retry=retry_if_exception(_is_blocked),
        stop=is_over,
        wait=wait_random_exponential(max=LONGEST_PAUSE_SECONDS),
        before_sleep=lambda state: logger.warning(
            "a table is in use: trying again, after attempt %d", state.attempt_number
        ),
        reraise=True,
    )
    try:
        retrying(attempt)
    except DBAPIError as error:
        if not _is_blocked(error):
            raise
        raise errors.MigrationBlocked(
            f"other sessions have kept a table from being changed for {wait:g} s"
        ) from None


def set_timeouts(*, local: bool, concurrently: bool = False) -> str:
    """Return the statement that gives a migration its own timeouts, whatever the role or database has.

    What the client itself asked for stays, ``lock_timeout`` aside, and a server may not know all of them.

    :param local: for the transaction; else for the session.
    :param concurrently: for statements outside a transaction, whose locks stand in the way of no reader or
        writer: they wait for old transactions to end, and would have to begin again.
    """
    settings = get_settings()
    lock = settings.migration_lock_timeout
    if concurrently and lock:
        lock = max(lock, int(settings.migration_wait * 1000))
    values = {"lock_timeout": lock, CHECK_CLIENT: CHECK_CLIENT_MILLISECONDS, **dict.fromkeys(UNLIMITED, 0)}
    rows = ", ".join(f"('{name}', '{value}')" for name, value in values.items())
    return (
        f"SELECT set_config(name, new.value, {str(local).lower()}) FROM (VALUES {rows}) AS new (name, value)"
        " JOIN pg_settings USING (name) WHERE (name = 'lock_timeout' OR source <> 'client')"
        f" AND (name <> '{CHECK_CLIENT}' OR version() ~* 'linux|darwin|bsd')"
        + "".join(
            f" UNION ALL SELECT set_config('{name}', {value}, {str(local).lower()})"
            for name, value in _OF_CITUS.items()
        )
    )


# Without Citus they mean nothing. A revision changes one table after another, and Citus refuses some of that
# where it has worked on shards in parallel. Before the tables are distributed, other nodes are told nothing.
_OF_CITUS = {
    "citus.multi_shard_modify_mode": "'sequential'",
    "citus.enable_ddl_propagation": f"CASE WHEN {IS_DISTRIBUTED} THEN 'on' ELSE 'off' END",
}


def _create_here(connection: Connection, cursor: Any, statement: str, *_: Any) -> None:
    """Let a new table be the coordinator's alone, until it is distributed.

    Citus refuses a foreign key of such a table to a distributed one, where it is told of it.
    """
    if _CREATES_TABLE.match(statement) and is_distributed(connection):
        cursor.execute("SET LOCAL citus.enable_ddl_propagation = off")


def _tell_again(connection: Connection, cursor: Any, statement: str, *_: Any) -> None:
    if _CREATES_TABLE.match(statement) and is_distributed(connection):
        cursor.execute("SET LOCAL citus.enable_ddl_propagation = on")


_CREATES_TABLE = re.compile(r"\s*CREATE TABLE\b", re.IGNORECASE)


def _set_timeouts(connection: Connection) -> None:
    """Set them for the transaction that begins; outside of one they hold until the migration has ended."""
    driver: Any = connection.connection.dbapi_connection
    concurrently = driver.autocommit
    with driver.cursor() as cursor:  # SQLAlchemy's own execute() would begin again.
        cursor.execute(set_timeouts(local=not concurrently, concurrently=concurrently))


def _is_blocked(error: BaseException) -> bool:
    return sqlstates.sqlstate_of(error) in (sqlstates.LOCK_NOT_AVAILABLE, sqlstates.DEADLOCK_DETECTED)
