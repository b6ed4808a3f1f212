"""The figures of the database, from the server's own statistics and from indexes; no table is read."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.models import Base
from platform_db.models.audit import ReadableTime
from platform_db.states import MACHINES


def read_stats(session: Session) -> dict[str, Any]:
    """Return ``size`` (bytes), ``cache_hits`` (a share), ``tables``, ``unused_indexes`` and ``statuses``.

    Rows and dead rows are the server's estimates. A table's ``oldest`` is the time of its row with the
    smallest id, since ids are ordered in time. For histories and logs it is that of the first entry of the
    oldest row that has any.
    """
    connection = session.connection()
    tables = connection.execute(_TABLES).mappings().all()
    return {
        "size": connection.scalar(sa.text("SELECT pg_database_size(current_database())")),
        "cache_hits": connection.scalar(_CACHE_HITS),
        "tables": [{**table, "oldest": _oldest(connection, table["name"])} for table in tables],
        "unused_indexes": [dict(row) for row in connection.execute(_UNUSED).mappings()],
        "statuses": {entity: _count_statuses(connection, entity) for entity in MACHINES},
    }


def _count_statuses(connection: sa.Connection, entity: str) -> dict[str, int]:
    counts = f"SELECT status::text, count(*) FROM platform.{entity} GROUP BY status ORDER BY status"
    return {row[0]: row[1] for row in connection.execute(sa.text(counts))}


def _oldest(connection: sa.Connection, name: str) -> str | None:
    """Return the time of the oldest row, where an index finds it."""
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
    "status_change": f"""SELECT min(at) FROM ({
        " UNION ALL ".join(
            _first_of("status_change", entity, "entity_id", "entity, revision") for entity in MACHINES
        )
    }) AS first""",
    "log_chunk": _first_of("log_chunk", "workflow", "workflow_id", "number"),
    "service_log": _first_of("service_log", "service", "service_id", "number"),
    "audit_log": "SELECT created FROM platform.audit_log ORDER BY number LIMIT 1",
}

_CACHE_HITS = sa.text("""
    SELECT round(sum(heap_blks_hit + coalesce(idx_blks_hit, 0))
                 / nullif(sum(heap_blks_hit + heap_blks_read
                              + coalesce(idx_blks_hit, 0) + coalesce(idx_blks_read, 0)), 0), 4)::float
    FROM pg_statio_user_tables WHERE schemaname = 'platform'
    """)

_TABLES = sa.text("""
    SELECT relname AS name, pg_total_relation_size(relid) AS size, pg_indexes_size(relid) AS index_size,
           n_live_tup AS rows, n_dead_tup AS dead_rows,
           greatest(last_vacuum, last_autovacuum)::text AS vacuumed
    FROM pg_stat_user_tables WHERE schemaname = 'platform' ORDER BY size DESC, name
    """)

_UNUSED = sa.text("""
    SELECT indexrelname AS name, relname AS table, pg_relation_size(stat.indexrelid) AS size
    FROM pg_stat_user_indexes AS stat JOIN pg_index AS index ON index.indexrelid = stat.indexrelid
    WHERE schemaname = 'platform' AND idx_scan = 0 AND NOT indisunique ORDER BY size DESC, name
    """)
