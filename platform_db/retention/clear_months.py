"""Logs by months: partitions are made ahead, and a month of logs that are old enough is cleared at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from platform_db.database.session import SessionFactory
from platform_db.database.sqlstates import LOCK_NOT_AVAILABLE, sqlstate_of
from platform_db.retention.archive import write_archive
from platform_db.retention.family import FETCHED
from platform_db.retention.rules import RetentionRule

MONTHS_AHEAD = 3

Held = Mapping[str, object]
"""The parameters ``first_held``, ``end_held`` and ``held_since``: None where none is held."""

NONE_HELD: Held = dict.fromkeys(("first_held", "end_held", "held_since"))


def held_months(factory: SessionFactory, rule: RetentionRule) -> Held:
    """Return the months whose logs are old enough in part, where a rule has them go together.

    What is not cleared within a month after it could have been is pruned chunk by chunk.
    """
    if not rule.whole_months:
        return NONE_HELD
    with factory() as session:
        return dict(session.execute(_HELD, {"age": rule.age}).mappings().one())


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

# For a month longer than they could have been cleared, as a run that began at the end of one logs after it.
_HELD = sa.text("""
    SELECT (array_agg(first_id ORDER BY month))[1] AS first_held,
           (array_agg(end_id ORDER BY month DESC))[1] AS end_held, min(month) AS held_since
    FROM platform.log_partitions()
    WHERE month <= now() - CAST(:age AS interval)
      AND platform.time_of_id(end_id) > now() - CAST(:age AS interval) - interval '31 days'
    """)

_CLEAR = sa.text("SELECT platform.clear_log_partition(:name, CAST(:age AS interval), :removes)")

_ROWS = sa.text("""
    SELECT row_to_json(chunk)::text FROM (
        SELECT * FROM platform.log_chunk
        WHERE workflow_id >= CAST(:first AS uuid) AND workflow_id < CAST(:end AS uuid)
        ORDER BY owner_id, workflow_id, number
    ) AS chunk
    """)
