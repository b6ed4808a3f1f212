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

    :raises errors.AlreadyRunning: one is going on.
    """
    with factory() as session:
        connection = session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        if not connection.scalar(_LOCK):
            raise errors.AlreadyRunning("another import is going on", hint="wait for it to end")
        try:
            yield
        finally:
            connection.execute(_UNLOCK)


_LOCK = sa.text("SELECT pg_try_advisory_lock(hashtextextended('platform import', 0))")
_UNLOCK = sa.text("SELECT pg_advisory_unlock(hashtextextended('platform import', 0))")
