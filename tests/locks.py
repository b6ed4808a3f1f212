"""Waiting until another connection waits for a lock."""

from __future__ import annotations

import time

import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker


def wait_for_a_lock(factory: sessionmaker[Session]) -> None:
    """Return when a connection to the database waits for a lock."""
    waiting = sa.text(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with factory() as session:
            if session.scalar(waiting):
                return
        time.sleep(0.05)
    raise AssertionError("nothing waits")
