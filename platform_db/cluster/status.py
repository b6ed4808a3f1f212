"""Where the tables of a distributed database are, where they should be, and what the nodes lack."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection

from platform_db import database, schema
from platform_db.cluster.distributing import read_placements, require_citus
from platform_db.schema.placement import COORDINATOR_FUNCTIONS, LOCAL, REFERENCE, Placement, placements


@dataclass(frozen=True)
class TableState:
    """Where a table is.

    :param placement: where it is.
    :param wanted: where it should be; :func:`~platform_db.cluster.distribute` puts it there.
    :param reason: why it is not distributed.
    :param shards: its shards, by node; a copy of a reference table is one.
    """

    name: str
    placement: Placement
    wanted: Placement
    reason: str | None
    shards: dict[str, int]


@dataclass(frozen=True)
class ClusterStatus:
    """The state of a cluster.

    :param sizes: bytes of the tables' shards with their indexes, by node.
    :param missing_functions: those that a node lacks, by node.
    """

    tables: list[TableState]
    sizes: dict[str, int]
    missing_functions: dict[str, list[str]]

    @property
    def is_complete(self) -> bool:
        """Whether all is where it should be."""
        return not self.missing_functions and all(table.placement is table.wanted for table in self.tables)


def read_status(url: URL | str | None = None) -> ClusterStatus:
    """Return where the tables are.

    :param url: the database on the coordinator; by default the one that migrations use.
    :raises errors.CitusMissing: the database has no Citus, or Citus has no nodes.
    :raises errors.NeverMigrated: it has no schema yet.
    """
    with schema.connect(url or database.migration_url()) as connection:
        schema.status(connection).require_usable()
        require_citus(connection)
        placed = read_placements(connection)
        shards: dict[str, dict[str, int]] = {}
        sizes: dict[str, int] = {}
        for row in connection.execute(_READ_SHARDS):
            shards.setdefault(row.table, {})[row.node] = row.shards
            sizes[row.node] = sizes.get(row.node, 0) + int(row.size or 0)
        tables = [
            TableState(name, placed[name], wanted, (REFERENCE | LOCAL).get(name), shards.get(name, {}))
            for name, wanted in placements().items()
            if name in placed
        ]
        return ClusterStatus(tables, sizes, _missing_functions(connection))


def _missing_functions(connection: Connection) -> dict[str, list[str]]:
    wanted = set(connection.scalars(_FUNCTIONS)) - COORDINATOR_FUNCTIONS.keys()
    missing = {}
    for node in connection.execute(_FUNCTIONS_OF_NODES):
        there = set((node.result or "").split(" "))
        if lacking := sorted(wanted - there):
            missing[node.node] = lacking
    return missing


_READ_SHARDS = sa.text("""
    SELECT relname AS table, format('%s:%s', nodename, nodeport) AS node, count(*) AS shards,
           sum(shard_size) AS size
    FROM citus_shards JOIN pg_class ON pg_class.oid = table_name
    WHERE relnamespace = 'platform'::regnamespace
    GROUP BY relname, nodename, nodeport ORDER BY nodename, nodeport
    """)

_FUNCTIONS = sa.text("SELECT proname FROM pg_proc WHERE pronamespace = 'platform'::regnamespace")

_FUNCTIONS_OF_NODES = sa.text("""
    SELECT format('%s:%s', nodename, nodeport) AS node, result FROM run_command_on_workers(
        'SELECT string_agg(proname, '' '') FROM pg_proc
         WHERE pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = ''platform'')')
    """)
