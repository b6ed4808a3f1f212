"""The figures of the database, from the server's own statistics and from indexes; no table is read."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.health.oldest import oldest_row
from platform_db.states import MACHINES


def read_stats(session: Session) -> dict[str, Any]:
    """Return ``size`` (bytes), ``cache_hits`` (a share), ``tables``, ``unused_indexes`` and ``statuses``.

    Rows and dead rows are the server's estimates. A table's ``oldest`` is that of
    :func:`~platform_db.health.oldest.oldest_row`. What the session's role may not read is not told.
    """
    connection = session.connection()
    tables = connection.execute(_TABLES).mappings().all()
    readable = set(connection.scalars(_READABLE))
    counted = set(connection.scalars(_COUNTED))
    return {
        "size": connection.scalar(sa.text("SELECT pg_database_size(current_database())")),
        "cache_hits": connection.scalar(_CACHE_HITS),
        "tables": [
            {**table, "oldest": oldest_row(connection, table["name"]) if table["name"] in readable else None}
            for table in tables
        ],
        "unused_indexes": [dict(row) for row in connection.execute(_UNUSED).mappings()],
        "statuses": {entity: _count_statuses(connection, entity) for entity in MACHINES if entity in counted},
    }


def _count_statuses(connection: sa.Connection, entity: str) -> dict[str, int]:
    counts = f"SELECT status::text, count(*) FROM platform.{entity} GROUP BY status ORDER BY status"
    return {row[0]: row[1] for row in connection.execute(sa.text(counts))}


_CACHE_HITS = sa.text("""
    SELECT round(sum(heap_blks_hit + coalesce(idx_blks_hit, 0))
                 / nullif(sum(heap_blks_hit + heap_blks_read
                              + coalesce(idx_blks_hit, 0) + coalesce(idx_blks_read, 0)), 0), 4)::float
    FROM pg_statio_user_tables WHERE schemaname IN ('platform', 'platform_partitions')
    """)

_TABLES = sa.text("""
    SELECT coalesce(whole.relname, stat.relname) AS name, sum(pg_total_relation_size(relid))::bigint AS size,
           sum(pg_indexes_size(relid))::bigint AS index_size, sum(n_live_tup)::bigint AS rows,
           sum(n_dead_tup)::bigint AS dead_rows, max(greatest(last_vacuum, last_autovacuum))::text AS vacuumed
    FROM pg_stat_user_tables AS stat
    LEFT JOIN pg_inherits ON inhrelid = relid LEFT JOIN pg_class AS whole ON whole.oid = inhparent
    WHERE schemaname IN ('platform', 'platform_partitions') GROUP BY 1 ORDER BY size DESC, name
    """)

_READABLE = sa.text("""
    SELECT relname FROM pg_stat_user_tables
    WHERE schemaname = 'platform' AND has_table_privilege(relid, 'SELECT')
    """)

_COUNTED = sa.text("""
    SELECT relname FROM pg_stat_user_tables JOIN pg_attribute ON attrelid = relid AND attname = 'status'
    WHERE schemaname = 'platform' AND has_column_privilege(relid, attname, 'SELECT')
    """)

_UNUSED = sa.text("""
    SELECT indexrelname AS name, relname AS table, pg_relation_size(stat.indexrelid) AS size
    FROM pg_stat_user_indexes AS stat JOIN pg_index AS index ON index.indexrelid = stat.indexrelid
    WHERE schemaname = 'platform' AND idx_scan = 0 AND NOT indisunique ORDER BY size DESC, name
    """)
