"""Pruning what tells of creations and deletions: by number, up to the first that has to stay."""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa

from platform_db.database.session import SessionFactory
from platform_db.events.checkpoints import HELD_SINCE, hold
from platform_db.retention.rules import RetentionRule


def delete_old_events(factory: SessionFactory, rule: RetentionRule) -> Iterator[int]:
    """Delete the events that are old enough and that all watchers have passed; yield how many, in batches."""
    gone = rule.batch
    while gone == rule.batch:
        with factory() as session, session.begin():
            parameters = {"age": rule.age, "hold": hold(), "batch": rule.batch}
            gone = session.connection().execute(_DELETE, parameters).rowcount
        yield gone


def count_old_events(factory: SessionFactory, rule: RetentionRule) -> int:
    """Return how many events the rule names."""
    with factory() as session:
        return int(session.connection().scalar(_COUNT, {"age": rule.age, "hold": hold()}) or 0)


# Numbers and times follow each other: what is due comes first, and the rest is not read.
_DUE = f"""
    FROM platform.row_event WHERE number < (
        SELECT coalesce(min(number), 9223372036854775807) FROM (
            SELECT number FROM platform.row_event
            WHERE at >= least(now() - CAST(:age AS interval), {HELD_SINCE}) ORDER BY number LIMIT 1
        ) AS stays
    )
"""
_COUNT = sa.text(f"SELECT count(*) {_DUE}")
_DELETE = sa.text(f"""
    DELETE FROM platform.row_event
    WHERE ctid = ANY(ARRAY(SELECT ctid {_DUE} ORDER BY number LIMIT :batch))
""")
