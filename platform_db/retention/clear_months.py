"""Logs by months: partitions are made ahead, and a month of logs that are old enough is cleared at once."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from platform_db.database.session import SessionFactory
from platform_db.database.sqlstates import LOCK_NOT_AVAILABLE, sqlstate_of
from platform_db.retention.archive import write_archive
from platform_db.retention.family import FETCHED
from platform_db.retention.rules import RetentionRule

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
        ranges = [dict(row) for row in session.execute(_OLD, values).mappings()]
        return [ids for ids in ranges if session.scalar(_ANY, ids)]


def add_partitions(factory: SessionFactory) -> None:
    """Make the partitions of the next months, unless there are transactions in the way: then the next time.

    Until then what belongs there goes to the last partition, and nothing fails.
    """
    with factory() as session, session.begin():
        if session.scalar(_MAY_CALL):
            _try(session.connection(), _ADD, {"months": MONTHS_AHEAD})


def clear_months(
    factory: SessionFactory, rule: RetentionRule, archive: Path | None, tell: Callable[[int], None]
) -> None:
    """Clear the months of logs of which all are older than the rule's age, and whose runs have all ended.

    Each month is one transaction. What is left is pruned chunk by chunk.

    :param tell: is called with the number of chunks that went, month by month.
    """
    with factory() as session:
        months = session.execute(_MONTHS, {"age": rule.age}).all() if session.scalar(_MAY_CALL) else []
    for month in months:
        with factory() as session, session.begin():
            tell(_clear(session.connection(), rule, month, archive))


def _clear(connection: sa.Connection, rule: RetentionRule, month: sa.Row[Any], archive: Path | None) -> int:
    """Clear a month where it may be, and return how many chunks went."""
    values = {"name": month.name, "age": rule.age}
    if archive is not None:
        if not _try(connection, _CLEAR, {**values, "removes": False}):
            return 0
        # Nothing is appended from here on.
        bounds = {"first": month.first_id, "end": month.end_id}
        rows = connection.execute(_ROWS, bounds, execution_options={"yield_per": FETCHED})
        write_archive(archive, rule.table, ((rule.table, text) for text in rows.scalars()))
    return _try(connection, _CLEAR, {**values, "removes": True}) or 0


def _try(connection: sa.Connection, statement: sa.TextClause, values: dict[str, object]) -> int | None:
    """Return what a statement gives, or None where it waits for a lock for too long."""
    try:
        with connection.begin_nested():
            result: int | None = connection.scalar(statement, values)
            return result
    except sa.exc.DBAPIError as error:
        if sqlstate_of(error) != LOCK_NOT_AVAILABLE:
            raise
        return None


_MAY_CALL = sa.text("""
    SELECT has_function_privilege('platform.add_log_partitions(integer)', 'EXECUTE')
       AND has_function_privilege('platform.clear_log_partition(text, interval, boolean)', 'EXECUTE')
    """)

_ADD = sa.text("SELECT platform.add_log_partitions(:months)")

_MONTHS = sa.text("""
    SELECT name, first_id, end_id FROM platform.log_partitions()
    WHERE month IS NOT NULL AND platform.time_of_id(end_id) <= now() - CAST(:age AS interval) ORDER BY month
    """)

# Months are left alone for one more, as a run that began at the end of one logs after it. In the last
# partitions, and in the only one, ids need not tell a time.
_OLD = sa.text("""
    SELECT first_id AS first,
           CASE WHEN end_id IS NULL OR month IS NULL AND first_id IS NOT NULL THEN end_id
                ELSE least(end_id, platform.first_id_at(before)) END AS end
    FROM platform.log_partitions() CROSS JOIN (SELECT now() - CAST(:age AS interval) AS before) AS old
    WHERE month IS NULL OR month < before
      AND (NOT :whole_months OR platform.time_of_id(end_id) <= before - interval '31 days')
    """)

_ANY = sa.text(f"SELECT true FROM platform.log_chunk WHERE {are_ids('workflow_id')} LIMIT 1")

_CLEAR = sa.text("SELECT platform.clear_log_partition(:name, CAST(:age AS interval), :removes)")

_ROWS = sa.text("""
    SELECT row_to_json(chunk)::text FROM (
        SELECT * FROM platform.log_chunk
        WHERE workflow_id >= CAST(:first AS uuid) AND workflow_id < CAST(:end AS uuid)
        ORDER BY owner_id, workflow_id, number
    ) AS chunk
    """)
