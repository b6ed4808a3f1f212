"""One import at a time in a database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from platform_db import errors
from platform_db.database.session import SessionFactory


@contextmanager
def only_one(factory: SessionFactory) -> Iterator[None]:
    """Keep other imports away until the end of the block, or of this process.

    The lock is a transaction's, since a session's would stay on a pooler's connection. Between statements
    that transaction holds no snapshot, so it keeps no dead row from being vacuumed.

    :raises errors.AlreadyRunning: one is going on.
    """
    with factory() as session, session.begin():
        connection = session.connection()
        connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
        if not connection.scalar(_LOCK):
            raise errors.AlreadyRunning("another import is going on", hint="wait for it to end")
        yield


_LOCK = sa.text("SELECT pg_try_advisory_xact_lock(hashtextextended('platform import', 0))")
