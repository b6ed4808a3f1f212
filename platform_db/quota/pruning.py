"""What pruning does to totals: disk space no longer counts, processing time stays used."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from functools import cache

import sqlalchemy as sa

from platform_db.bounds import LARGEST_AMOUNT
from platform_db.lifecycle.target import Key
from platform_db.models import ResourceType
from platform_db.quota.cpu import CONSUMERS
from platform_db.quota.resources import DEFAULT_NAMES

# Where the figures are.
FIGURES = frozenset(table for table, _ in CONSUMERS.values())

TRIES = 5
SECONDS_BETWEEN_TRIES = 0.05


def these(keys: Sequence[Key]) -> dict[str, list[uuid.UUID]]:
    """Return the keys of rows as parameters: ``owners``, each once, and ``ids``."""
    return {"owners": sorted({owner_id for owner_id, _ in keys}), "ids": [id_ for _, id_ in keys]}


def lock_owners(connection: sa.Connection, entity: str, keys: Sequence[Key]) -> list[Key]:
    """Lock the totals of the owners of locked rows, and return the keys of the rows that are free.

    Every other writer locks totals first, and may wait for the rows while it holds them. So this waits for no
    total, but tries a few times.

    :param entity: the table of the rows; one without figures needs no locks.
    """
    if entity not in CONSUMERS or not keys:
        return list(keys)
    for left in reversed(range(TRIES)):
        busy = set(connection.execute(_LOCK, these(keys)).scalars())
        if not busy or not left:
            break
        time.sleep(SECONDS_BETWEEN_TRIES)
    return [key for key in keys if key[0] not in busy]


def take_out(connection: sa.Connection, entity: str, keys: Sequence[Key]) -> None:
    """Take the figures of rows that are about to be deleted out of their owners' totals, which are locked.

    Workspaces that other runs share stay counted. Processing time goes over to ``quota_pruned``, which lasts
    as long as the period.
    """
    if entity not in CONSUMERS or not keys:
        return
    connection.execute(_carry_over(entity), these(keys))
    if entity == "workflow":
        connection.execute(_FREE, these(keys))


_LOCK = sa.text("""
    WITH locked AS MATERIALIZED (
        SELECT owner_id, resource_id FROM platform.user_resource
        WHERE owner_id = ANY(CAST(:owners AS uuid[]))
        ORDER BY owner_id, resource_id
        FOR NO KEY UPDATE SKIP LOCKED
    )
    SELECT DISTINCT owner_id FROM platform.user_resource AS total
    WHERE owner_id = ANY(CAST(:owners AS uuid[])) AND NOT EXISTS (
        SELECT FROM locked WHERE locked.owner_id = total.owner_id AND locked.resource_id = total.resource_id)
    """)


@cache
def _carry_over(entity: str) -> sa.TextClause:
    table, key = CONSUMERS[entity]
    return sa.text(f"""
        UPDATE platform.user_resource AS total SET
            quota_pruned = least(total.quota_pruned + gone.used, {LARGEST_AMOUNT})
        FROM (
            SELECT f.owner_id, f.resource_id, sum(f.quota_used) AS used
            FROM platform.{entity} AS e
            JOIN platform.{table} AS f ON f.owner_id = e.owner_id AND f.{key} = e.id_
            JOIN platform.resource AS r
                ON r.id_ = f.resource_id AND r.name = '{DEFAULT_NAMES[ResourceType.cpu]}'
            WHERE e.owner_id = ANY(CAST(:owners AS uuid[])) AND e.id_ = ANY(CAST(:ids AS uuid[]))
            GROUP BY f.owner_id, f.resource_id
        ) AS gone
        WHERE total.owner_id = gone.owner_id AND total.resource_id = gone.resource_id AND gone.used > 0
        """)


_FREE = sa.text(f"""
    WITH pruned AS (
        SELECT w.owner_id, w.workspace_path, f.resource_id, max(f.quota_used) AS used
        FROM platform.workflow AS w
        JOIN platform.workflow_resource AS f ON f.owner_id = w.owner_id AND f.workflow_id = w.id_
        JOIN platform.resource AS r
            ON r.id_ = f.resource_id AND r.name = '{DEFAULT_NAMES[ResourceType.disk]}'
        WHERE w.owner_id = ANY(CAST(:owners AS uuid[])) AND w.id_ = ANY(CAST(:ids AS uuid[]))
        GROUP BY w.owner_id, w.workspace_path, f.resource_id
    ),
    freed AS (
        SELECT p.owner_id, p.resource_id, sum(greatest(0, p.used - coalesce((
            SELECT max(f.quota_used) FROM platform.workflow AS w
            JOIN platform.workflow_resource AS f
                ON f.owner_id = w.owner_id AND f.workflow_id = w.id_ AND f.resource_id = p.resource_id
            WHERE w.owner_id = p.owner_id AND w.workspace_path = p.workspace_path
              AND w.id_ <> ALL(CAST(:ids AS uuid[]))
        ), 0))) AS bytes
        FROM pruned AS p
        GROUP BY p.owner_id, p.resource_id
    )
    UPDATE platform.user_resource AS total SET quota_used = greatest(0, total.quota_used - freed.bytes)
    FROM freed
    WHERE total.owner_id = freed.owner_id AND total.resource_id = freed.resource_id AND freed.bytes > 0
    """)
