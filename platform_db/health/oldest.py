"""The time of a table's oldest row, where an index finds it."""

from __future__ import annotations

import sqlalchemy as sa

from platform_db.models import Base
from platform_db.models.audit import ReadableTime


def oldest_row(connection: sa.Connection, name: str) -> str | None:
    """Return the time of a table's oldest row in ISO 8601; None where it has none, or no index finds it.

    It is the time of the row with the smallest id, since ids are ordered in time. For logs it is that of
    the first entry of the oldest row that has any.
    """
    query = _OLDEST.get(name) or _smallest(name)
    if query is None:
        return None
    oldest = sa.column("oldest", ReadableTime())
    rows = sa.text(f"({query}) AS row (oldest)")
    found = connection.scalar(sa.select(oldest).select_from(rows).where(oldest.is_not(None)))
    return None if found is None else found.isoformat()


def _smallest(name: str) -> str | None:
    """Select when the row with the smallest id was made (UUIDv7)."""
    table = Base.metadata.tables.get(f"platform.{name}")
    if table is None or f"uq_{name}_id_" not in {constraint.name for constraint in table.constraints}:
        return None
    time = next(column for column in ("created", "at") if column in table.columns)
    return f"SELECT {time} FROM platform.{name} ORDER BY id_ LIMIT 1"


def _first_of(table: str, parent: str, key: str, order: str) -> str:
    """Select the time of the first entry of the oldest parent that has any, along both tables' keys."""
    return f"""
        (SELECT entry.at FROM platform.{parent} AS parent CROSS JOIN LATERAL (
            SELECT at FROM platform.{table}
            WHERE owner_id = parent.owner_id AND {key} = parent.id_ ORDER BY {order} LIMIT 1
        ) AS entry ORDER BY parent.id_ LIMIT 1)
    """


_OLDEST = {
    "status_change": "SELECT at FROM platform.status_change ORDER BY number LIMIT 1",
    "log_chunk": _first_of("log_chunk", "workflow", "workflow_id", "number"),
    "service_log": _first_of("service_log", "service", "service_id", "number"),
    "audit_inbox": "SELECT created FROM platform.audit_inbox ORDER BY created LIMIT 1",
    "audit_sealed": "SELECT created FROM platform.audit_sealed ORDER BY number LIMIT 1",
    "row_event": "SELECT at FROM platform.row_event ORDER BY number LIMIT 1",
    "user_": "SELECT created FROM platform.user_ ORDER BY id_ LIMIT 1",
}
