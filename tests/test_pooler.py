"""What holds through a PgBouncer in transaction mode, which refuses options and keeps no session's state."""

from __future__ import annotations

import sqlalchemy as sa

from platform_db import database


def test_transactions_of_a_connection_meet_several_of_the_server(pooled_database_uri: str) -> None:
    engine = database.create_engine(pooled_database_uri)
    with engine.connect() as one, engine.connect() as other:
        pids = set()
        for _ in range(3):
            for connection in (one, other):
                pids.add(connection.scalar(sa.text("SELECT pg_backend_pid()")))
            one.rollback()
            other.rollback()
        told = one.connection.dbapi_connection.info.backend_pid
    engine.dispose()

    assert len(pids) > 1
    assert told not in pids
