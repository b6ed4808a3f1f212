"""Pruning what tells of creations and deletions, by number up to the first that has to stay."""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa

from platform_db.database.session import SessionFactory
from platform_db.events.checkpoints import HELD_SINCE, hold
from platform_db.retention.rules import RetentionRule


def delete_old_events(factory: SessionFactory, rule: RetentionRule) -> Iterator[int]:
    """Delete the events that are old enough and that all watchers have passed; yield how many, in batches."""
    gone, after = rule.batch, 0
    while gone == rule.batch:
        with factory() as session, session.begin():
            parameters = {"age": rule.age, "hold": hold(), "batch": rule.batch, "after": after}
            gone, after = session.connection().execute(_DELETE[rule.table], parameters).one()
        yield gone


def count_old_events(factory: SessionFactory, rule: RetentionRule) -> int:
    """Return how many events the rule names."""
    with factory() as session:
        return int(session.connection().scalar(_COUNT[rule.table], {"age": rule.age, "hold": hold()}) or 0)


# Numbers and times follow each other: what is due comes first, and the rest is not read.
_STAYS = f"at >= least(now() - CAST(:age AS interval), {HELD_SINCE})"
_BEFORE_THE_FIRST_THAT_STAYS = "number < coalesce(({}), 9223372036854775807)"
_FIRST = f"SELECT number FROM platform.row_event WHERE {_STAYS} ORDER BY number LIMIT 1"
_COUNT = {
    "row_event": sa.text(
        f"SELECT count(*) FROM platform.row_event WHERE {_BEFORE_THE_FIRST_THAT_STAYS.format(_FIRST)}"
    ),
    "event_failure": sa.text(
        "SELECT count(*) FROM platform.event_failure WHERE at < now() - CAST(:age AS interval)"
    ),
}
# A batch reads neither what the ones before it deleted nor what comes after it.
_EVENTS = sa.text(f"""
    WITH batch AS MATERIALIZED (
        SELECT ctid, number, {_STAYS} AS stays FROM platform.row_event
        WHERE number > :after ORDER BY number LIMIT :batch
    ), gone AS (
        DELETE FROM platform.row_event WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM batch
            WHERE {_BEFORE_THE_FIRST_THAT_STAYS.format("SELECT min(number) FROM batch WHERE stays")}
        )) RETURNING number
    )
    SELECT count(*), coalesce(max(number), 0) FROM gone
""")
# Few, and found without an index: each is an event that a handler failed on.
_FAILURES = sa.text("""
    WITH gone AS (
        DELETE FROM platform.event_failure WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM platform.event_failure WHERE at < now() - CAST(:age AS interval) LIMIT :batch
        )) RETURNING true
    )
    SELECT count(*), 0 FROM gone
""")
_DELETE = {"row_event": _EVENTS, "event_failure": _FAILURES}
