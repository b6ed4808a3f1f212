"""The tables of the database: how many rows each has, how much space it takes, and how old it is."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.database.session import takes_session
from platform_db.health.oldest import oldest_row
from platform_db.models import Base

LARGEST_COUNT = 10_000
"""More rows of a table are not counted, but estimated."""


@dataclass(frozen=True)
class TableFigures:
    """The figures of a table.

    :param rows: how many rows it has.
    :param is_exact: whether they were counted; otherwise it is the server's estimate.
    :param size: bytes of the table with its indexes and what is stored out of line.
    :param oldest: the time of the oldest row in ISO 8601, where an index finds it.
    """

    name: str
    rows: int
    is_exact: bool
    size: int
    oldest: str | None


@takes_session
def read_tables(session: Session) -> list[TableFigures]:
    """Return the figures of each table, the largest first.

    Rows are counted up to :data:`LARGEST_COUNT` of a table, and estimated where there are more. Of a table
    that the session's role may not read the rows are the estimate, too, and the oldest one is not told.
    """
    connection = session.connection()
    found = connection.execute(_TABLES, {"tables": list(_tables())}).mappings().all()
    readable = [table["name"] for table in found if table["is_readable"]]
    counted = {row.name: row.rows for row in connection.execute(sa.text(_count(readable)))}
    return [_figures(connection, table, counted.get(table["name"])) for table in found]


def _figures(connection: sa.Connection, table: sa.RowMapping, counted: int | None) -> TableFigures:
    """Return a table's figures.

    :param counted: its rows, of which one more than are counted suffice; None where they may not be read.
    """
    name, estimate = table["name"], table["estimate"]
    oldest = None if counted is None else oldest_row(connection, name)
    if counted is None or counted > LARGEST_COUNT:
        return TableFigures(name, max(estimate, counted or 0), False, table["size"], oldest)
    return TableFigures(name, counted, True, table["size"], oldest)


def table_of(name: str) -> sa.Table:
    """Return the table of this name.

    :raises errors.NotFound: there is none; names one that could be meant.
    """
    tables = _tables()
    found = tables.get(name, tables.get(f"{name}_"))
    if found is None:
        near = get_close_matches(name, tables, 1)
        hint = f"did you mean {near[0]}?" if near else "platform-db db tables lists them"
        raise errors.NotFound(f"there is no table {name!r}", hint=hint)
    return found


def _tables() -> dict[str, sa.Table]:
    return {table.name: table for table in Base.metadata.sorted_tables}


def _count(names: list[str]) -> str:
    return " UNION ALL ".join(
        f"""SELECT '{name}' AS name, count(*) AS rows
            FROM (SELECT 1 FROM platform.{name} LIMIT {LARGEST_COUNT + 1}) AS found"""
        for name in names
    )


_TABLES = sa.text("""
    SELECT relname AS name, part.size, has_any_column_privilege(pg_class.oid, 'SELECT') AS is_readable,
           part.estimate
    FROM pg_class CROSS JOIN LATERAL (
        SELECT sum(pg_total_relation_size(one.oid))::bigint AS size,
               sum(greatest(one.reltuples, pg_stat_get_live_tuples(one.oid), 0))::bigint AS estimate
        FROM pg_class AS one LEFT JOIN pg_inherits ON inhrelid = one.oid
        -- A partitioned table's own estimate is that of its partitions.
        WHERE pg_class.oid IN (one.oid, inhparent) AND one.relkind = 'r'
    ) AS part
    WHERE relnamespace = 'platform'::regnamespace AND relkind IN ('r', 'p') AND relname = ANY (:tables)
    ORDER BY size DESC, name
    """)
