"""Logs by months: partitions are made ahead, and a month of logs that are old enough is cleared at once."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.database.session import READ_COMMITTED, SessionFactory
from platform_db.database.sqlstates import DEADLOCK_DETECTED, LOCK_NOT_AVAILABLE, sqlstate_of
from platform_db.retention.archive import write_archive
from platform_db.retention.family import FETCHED
from platform_db.retention.rules import ENDED, RetentionRule

logger = logging.getLogger(__name__)

MONTHS_AHEAD = 3

Ids = Mapping[str, uuid.UUID | None]
"""A range of ids, from ``first`` to before ``end``; None where it has no such bound."""

ALL: Ids = {"first": None, "end": None}


def are_ids(column: str) -> str:
    """Return the condition that a column's value is in a range."""
    return f"""(CAST(:first AS uuid) IS NULL OR {column} >= CAST(:first AS uuid))
           AND (CAST(:end AS uuid) IS NULL OR {column} < CAST(:end AS uuid))"""


def runs_to_prune(factory: SessionFactory, rule: RetentionRule) -> Sequence[Ids]:
    """Return the ids of runs whose logs may have to be pruned chunk by chunk, whatever else is kept.

    They are those of partitions that have a log, and of times that are old enough. Where a rule has months go
    together, each is left alone for a month after it could have been cleared.
    """
    if rule.table != "log_chunk":
        return [ALL]
    values = {"age": rule.age, "whole_months": rule.whole_months}
    with factory() as session:
        if not session.scalar(_MAY_LOOK):  # Before it is granted, and all goes chunk by chunk.
            return [ALL]
        partitions = session.execute(_OLD, values).all()
        return [
            {"first": one.first, "end": one.old_end}
            for one in partitions
            # Whether it has any log, the first row tells; whether it has an old one, perhaps the last.
            if session.scalar(_ANY, {"first": one.first, "end": one.end})
        ]


def add_partitions(factory: SessionFactory) -> None:
    """Make the partitions of the next months, unless there are transactions in the way: then the next time.

    Until then what belongs there goes to the last partition, and nothing fails.
    """
    with factory() as session, session.begin():
        connection = session.connection()
        connection.execute(READ_COMMITTED)
        if connection.scalar(_MAY_CALL):
            _try(connection, _ADD, {"months": MONTHS_AHEAD})
            if connection.scalar(_IS_LATE):
                logger.warning("next month's logs have no partition yet: docs/retention.rst tells what to do")


def count_months(factory: SessionFactory, rule: RetentionRule) -> int:
    """Return how many chunks those months have that can be cleared and are else left alone."""
    with factory() as session:
        if not (rule.whole_months and session.scalar(_MAY_LOOK)):
            return 0
        return sum(
            session.scalar(_COUNT, {**month._mapping, "age": rule.age}) or 0
            for month in _due_months(session, rule)
            if month.waits
        )


def clear_months(
    factory: SessionFactory, rule: RetentionRule, archive: Path | None, tell: Callable[[int], None]
) -> None:
    """Clear the months of logs of which all are older than the rule's age, and whose runs have all ended.

    Each month is one transaction. What is left is pruned chunk by chunk.

    :param tell: is called with the number of chunks that went, month by month.
    """
    with factory() as session:
        months = _due_months(session, rule) if session.scalar(_MAY_CALL) else []
    for month in months:
        with factory() as session, session.begin():
            connection = session.connection()
            connection.execute(READ_COMMITTED)
            tell(_clear(connection, rule, month, archive))


def _due_months(session: Session, rule: RetentionRule) -> Sequence[sa.Row[Any]]:
    return session.execute(_MONTHS, {"age": rule.age}).all()


def _clear(connection: sa.Connection, rule: RetentionRule, month: sa.Row[Any], archive: Path | None) -> int:
    """Clear a month where it may be, and return how many chunks went."""
    values = {**month._mapping, "age": rule.age}
    archived = None
    if archive is not None:
        if not connection.scalar(_COUNT, values):
            return 0
        archived = _archive(connection, rule, values, archive)
    cleared = _try(connection, _CLEAR, values, archived)
    return (cleared and cleared.pieces) or 0


def _archive(
    connection: sa.Connection, rule: RetentionRule, month: Mapping[str, object], archive: Path
) -> tuple[int, int]:
    """Archive a month without a lock, and return how many chunks it had and the number of the last one."""
    pieces = last_number = 0

    def texts() -> Iterator[tuple[str, str]]:
        nonlocal pieces, last_number
        for number, text in connection.execute(_ROWS, month, execution_options={"yield_per": FETCHED}):
            pieces, last_number = pieces + 1, max(last_number, number)
            yield rule.table, text

    write_archive(archive, rule.table, texts())
    return pieces, last_number


def _try(
    connection: sa.Connection,
    statement: sa.TextClause,
    values: Mapping[str, object],
    expected: tuple[int, int] | None = None,
) -> sa.Row[Any] | None:
    """Return what a statement gives, or None where it waits for a lock for too long.

    :param expected: what it has to give: otherwise it is taken back.
    """
    try:
        with connection.begin_nested() as savepoint:
            row = connection.execute(statement, values).one()
            if expected is None or row == expected:
                return row
            savepoint.rollback()
    except sa.exc.DBAPIError as error:
        if sqlstate_of(error) not in (LOCK_NOT_AVAILABLE, DEADLOCK_DETECTED):
            raise
    return None


_MAY_CALL = sa.text("""
    SELECT has_function_privilege('platform.add_log_partitions(integer, bigint)', 'EXECUTE')
       AND has_function_privilege('platform.clear_log_partition(text, interval)', 'EXECUTE')
    """)

_MAY_LOOK = sa.text("SELECT has_function_privilege('platform.log_partitions()', 'EXECUTE')")

_ADD = sa.text("SELECT platform.add_log_partitions(:months)")

_IS_LATE = sa.text("""
    SELECT count(*) > 0 FROM platform.log_partitions()
    WHERE name = 'log_chunk_later' AND platform.time_of_id(first_id) <= now() + interval '1 month'
    """)

_MONTHS = sa.text("""
    SELECT name, first_id, end_id, platform.time_of_id(end_id) > before - interval '31 days' AS waits
    FROM platform.log_partitions() CROSS JOIN (SELECT now() - CAST(:age AS interval) AS before) AS old
    WHERE month IS NOT NULL AND platform.time_of_id(end_id) <= before ORDER BY month
    """)

# Months are left alone for one more, as a run that began at the end of one logs after it. In the last
# partitions, and in the only one, ids need not tell a time.
_OLD = sa.text("""
    SELECT first_id AS first, end_id AS end,
           CASE WHEN end_id IS NULL OR month IS NULL AND first_id IS NOT NULL THEN end_id
                ELSE least(end_id, platform.first_id_at(before)) END AS old_end
    FROM platform.log_partitions() CROSS JOIN (SELECT now() - CAST(:age AS interval) AS before) AS old
    WHERE month IS NULL OR month < before
      AND (NOT :whole_months OR platform.time_of_id(end_id) <= before - interval '31 days')
    """)

_ANY = sa.text(f"SELECT true FROM platform.log_chunk WHERE {are_ids('workflow_id')} LIMIT 1")

# What the function looks at, without its lock.
_COUNT = sa.text(f"""
    SELECT count(*) FROM platform.log_chunk
    WHERE workflow_id >= CAST(:first_id AS uuid) AND workflow_id < CAST(:end_id AS uuid)
    HAVING max(at) < now() - CAST(:age AS interval) AND 0 = (
        SELECT count(*) FROM platform.workflow
        WHERE id_ >= CAST(:first_id AS uuid) AND id_ < CAST(:end_id AS uuid)
          AND NOT {ENDED})
    """)

_CLEAR = sa.text("""
    SELECT pieces, last_number FROM platform.clear_log_partition(:name, CAST(:age AS interval))
    """)

_ROWS = sa.text("""
    SELECT chunk.number, row_to_json(chunk)::text FROM (
        SELECT * FROM platform.log_chunk
        WHERE workflow_id >= CAST(:first_id AS uuid) AND workflow_id < CAST(:end_id AS uuid)
        ORDER BY owner_id, workflow_id, number
    ) AS chunk
    """)
