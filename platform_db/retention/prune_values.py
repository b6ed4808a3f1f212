"""Pruning values that nothing refers to."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from functools import partial

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.database.distribution import factories_of_groups
from platform_db.database.session import SessionFactory
from platform_db.quota.resources import LOCK_USERS
from platform_db.retention.prune_calls import FETCHED, Named, arrays
from platform_db.retention.rules import RetentionRule
from platform_db.sessions import run_transaction

# A process may refer to a value that it wrote or read an hour ago, and says twice a day that it does.
YOUNGEST = timedelta(days=1)

WHOLE = timedelta(days=30)
"""After so long all values are looked at."""

BEGINNING = datetime(2000, 1, 1, tzinfo=timezone.utc)

LOOK = 100_000
"""How many values are looked at in one statement."""


def prune_values(factory: SessionFactory, rule: RetentionRule, tell: Callable[[int], None]) -> int:
    """Delete the values that are old enough and that nothing refers to; return how many others hold.

    It looks at what was seen since the last run alone: what loses a reference is seen, too. Once a month it
    looks at all, for a value that is locked when it loses one is not.

    :param tell: is called with the number of values that went, batch by batch.
    """
    left, looked = 0, False
    since, until, groups = _span(factory, rule)
    for some in groups:
        for page in _seen(some, since, until):
            looked = True
            for start in range(0, len(page), rule.batch):
                batch = page[start : start + rule.batch]
                work = partial(_delete_values, batch=batch, until=until)
                gone, held = run_transaction(work, factory=some)
                left += held
                if gone:
                    tell(gone)
    if looked and not left:
        with factory() as session, session.begin():
            names = ["value", "all values"] if since == BEGINNING else ["value"]
            session.connection().execute(_MOVE_MARKS, {"names": names, "until": until})
    return left


def count_values(factory: SessionFactory, rule: RetentionRule) -> int:
    """Return how many values the rule names; what is only part of these is not among them."""
    count = 0
    since, until, groups = _span(factory, rule)
    for some in groups:
        for page in _seen(some, since, until):
            with some() as session:
                count += len(session.connection().execute(_UNREFERENCED, arrays(page)).all())
    return count


def _span(
    factory: SessionFactory, rule: RetentionRule
) -> tuple[datetime, datetime, Sequence[SessionFactory]]:
    """Return from when until when values were seen that this run looks at, and with whose sessions."""
    with factory() as session:
        ages = {"age": max(rule.age, YOUNGEST), "whole": WHOLE, "beginning": BEGINNING}
        since, until = session.connection().execute(_SPAN, ages).one()
        return since, until, factories_of_groups(factory, session)


def _seen(factory: SessionFactory, since: datetime, until: datetime) -> Iterator[list[Named]]:
    after = {"seen": since, "owner_id": uuid.UUID(int=0), "name": ""}
    while True:
        with factory() as session:  # No transaction stays open while the page is pruned.
            page = session.connection().execute(_SEEN, {**after, "until": until}).all()
        for start in range(0, len(page), FETCHED):
            yield [Named(row.owner_id, row.name) for row in page[start : start + FETCHED]]
        if len(page) < LOOK:
            return
        after = page[-1]._asdict()


def _delete_values(session: Session, batch: list[Named], until: datetime) -> tuple[int, int]:
    """Delete those of the values that are free; return how many, and how many others hold."""
    connection = session.connection()

    def named(statement: sa.TextClause, rows: list[Named]) -> list[Named]:
        return [Named(*row) for row in connection.execute(statement, {**arrays(rows), "until": until})]

    # Only these are locked: a value that is locked when it loses its reference is not seen.
    batch = named(_UNREFERENCED, batch)
    if not batch:
        return 0, 0
    # The totals first, as every writer of an owner's figures has them; a batch that inserts values has locked
    # some of these rows, and is passed over.
    connection.execute(LOCK_USERS, {"users": sorted({row.owner_id for row in batch})})
    due = named(_UNREFERENCED, named(_LOCK, batch))
    held = set(named(_UNREFERENCED, named(_STILL_OLD, batch))).difference(due)
    connection.execute(_RELEASE_PARTS, arrays(due))
    return connection.execute(_DELETE, arrays(due)).rowcount, len(held)


_GIVEN = "unnest(CAST(:owners AS uuid[]), CAST(:names AS text[])) AS given (owner_id, name)"

_SPAN = sa.text("""
    SELECT coalesce((
               SELECT mark.until FROM platform.prune_mark AS mark WHERE mark.name = 'value' AND EXISTS (
                   SELECT FROM platform.prune_mark AS whole
                   WHERE whole.name = 'all values' AND whole.until > now() - CAST(:whole AS interval))
           ), :beginning),
           now() - CAST(:age AS interval)
    """)

_MOVE_MARKS = sa.text("""
    INSERT INTO platform.prune_mark AS mark (name, until) SELECT unnest(CAST(:names AS text[])), :until
    ON CONFLICT (name) DO UPDATE SET until = greatest(mark.until, excluded.until)
    """)

# The index tells the blocks, and no order: a page reads all that is left, so it is a large one.
_SEEN = sa.text(f"""
    SELECT seen_at AS seen, owner_id, value_hash AS name FROM platform.value
    WHERE seen_at >= :seen AND seen_at < :until
      AND (seen_at, owner_id, value_hash) > (:seen, :owner_id, :name)
    ORDER BY seen_at, owner_id, value_hash LIMIT {LOOK}
    """)

_OLD = f"""
    SELECT value.owner_id, value.value_hash FROM {_GIVEN}
    JOIN platform.value ON value.owner_id = given.owner_id AND value.value_hash = given.name
    WHERE value.seen_at < :until
"""

_STILL_OLD = sa.text(_OLD)

_LOCK = sa.text(f"{_OLD} ORDER BY value.owner_id, value.value_hash FOR UPDATE OF value SKIP LOCKED")


def _no(table: str, column: str, condition: str = "true") -> str:
    """Return the condition that no row of a table refers to the value."""
    # A scalar query: it is asked of these values alone, whatever the planner knows of the table.
    return f"""(SELECT true FROM platform.{table} AS referring
        WHERE referring.owner_id = given.owner_id AND {column} = given.name AND {condition} LIMIT 1
        ) IS NULL"""


_REFERENCES = (
    _no("evaluation", "referring.value_hash"),
    _no("call_node", "referring.value_hash"),
    _no("call_argument", "referring.value_hash"),
    _no("subvalue", "referring.value_hash"),
    _no("handle", "referring.value_hash"),
    # The code of a task is a value, too; what is tagged is kept for its tag.
    _no("call_task", "referring.hash"),
    _no("entity_tag", "referring.entity_id", "referring.is_current"),
    _no("entity_tag", "(referring.value #>> '{}')", "referring.key = 'redun.context'"),
)

_UNREFERENCED = sa.text(f"SELECT given.owner_id, given.name FROM {_GIVEN} WHERE {' AND '.join(_REFERENCES)}")

# The next run looks at them.
_RELEASE_PARTS = sa.text(f"""
    SELECT platform.release_values(part.owner_id, array_agg(DISTINCT part.value_hash)) FROM {_GIVEN}
    JOIN platform.subvalue AS part ON part.owner_id = given.owner_id AND part.parent_value_hash = given.name
    GROUP BY part.owner_id ORDER BY part.owner_id
    """)

_DELETE = sa.text(f"""
    DELETE FROM platform.value USING {_GIVEN}
    WHERE value.owner_id = given.owner_id AND value.value_hash = given.name
    """)
