"""Giving back space: vacuuming dead rows and rebuilding bloated indexes, concurrently."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.engine import URL

from platform_db import database, schema

# Smaller ones are not worth it.
SMALLEST_INDEX = 1024 * 1024

MOST_BLOAT = 2.0


def compact(
    url: URL | str | None = None,
    *,
    dry_run: bool = False,
    smallest_index: int = SMALLEST_INDEX,
    report: Callable[[str], None] | None = None,
) -> list[str]:
    """Vacuum tables that have dead rows, rebuild bloated indexes, and return what was done, a line each.

    It takes a direct connection, and no lock that reads or writes wait for. How big an index should be is
    estimated from the table's statistics. What a rebuild that was killed left behind is dropped.

    :param url: the database; by default the configured one, reached directly.
    :param dry_run: only tell.
    :param smallest_index: bytes below which an index is left as it is.
    """
    done: list[str] = []
    with schema.connect(url or database.migration_url()) as connection:
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        for command, query in _WORK.items():
            bounds = {"smallest": smallest_index, "most": MOST_BLOAT}
            for name in connection.scalars(query, bounds).all():
                done.append(f"{command} {name}")
                if report:
                    report(done[-1])
                if not dry_run:
                    connection.exec_driver_sql(done[-1])
    return done


_LEFT_BEHIND = sa.text(
    r"""
    SELECT indexrelid::regclass::text FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
    WHERE relnamespace IN ('platform'::regnamespace, to_regnamespace('platform_partitions'))
      AND NOT indisvalid AND relname ~ '_cc(new|old)\d*$'
    """
)
_DEAD = sa.text("""
    SELECT relid::regclass::text FROM pg_stat_user_tables
    WHERE schemaname IN ('platform', 'platform_partitions') AND n_dead_tup > 0
    ORDER BY n_dead_tup DESC, relname
    """)
# An entry is its columns, each padded to eight bytes, and sixteen of its own; pages are nine tenths full.
_BLOATED = sa.text("""
    SELECT indexed.oid::regclass::text
    FROM pg_index JOIN pg_class AS indexed ON indexed.oid = indexrelid
    JOIN pg_class AS tables ON tables.oid = indrelid
    JOIN pg_am ON pg_am.oid = indexed.relam AND amname = 'btree'
    CROSS JOIN LATERAL (
        SELECT 16 + sum(8 * ceil(coalesce(avg_width, 16) / 8.0)) AS width
        FROM pg_attribute LEFT JOIN pg_stats
          ON schemaname = tables.relnamespace::regnamespace::text AND tablename = tables.relname
         AND pg_stats.attname = (
             SELECT a.attname FROM pg_attribute AS a
             WHERE a.attrelid = indrelid AND a.attnum = indkey[pg_attribute.attnum - 1])
        WHERE pg_attribute.attrelid = indexrelid
    ) AS entry
    WHERE indexed.relnamespace IN ('platform'::regnamespace, to_regnamespace('platform_partitions'))
      AND indisvalid
      AND pg_relation_size(indexrelid) >= :smallest
      AND pg_relation_size(indexrelid)
          > :most * (8192 * 2 + greatest(indexed.reltuples, 0) * entry.width / 0.9)
    ORDER BY pg_relation_size(indexrelid) DESC
    """)
_WORK = {
    "DROP INDEX CONCURRENTLY": _LEFT_BEHIND,
    "VACUUM (ANALYZE)": _DEAD,
    "REINDEX INDEX CONCURRENTLY": _BLOATED,
}
