"""What each metric is read from. The cost is that of what is active, however many rows have ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from platform_db import schema
from platform_db.audit.content import FIRST
from platform_db.database.distribution import execute_everywhere
from platform_db.leases.outcomes import read_outcomes
from platform_db.states import MACHINES

LARGEST_TABLES = 20
MOST_JOBS = 20
MOST_RESOURCES = 10

RUNS = "Runs by status: those that have not ended are counted, those that have are estimated from statistics."


@dataclass(frozen=True)
class Source:
    """What one reading gives.

    :param gauges: the metrics, with their meanings.
    :param read: returns rows: the labels' values, then those of the metrics. None is left out.
    """

    labels: tuple[str, ...]
    gauges: dict[str, str]
    read: Callable[[sa.Connection], Iterable[Sequence[Any]]]


def _query(statement: str, **values: Any) -> Callable[[sa.Connection], Iterable[Sequence[Any]]]:
    text = sa.text(statement)
    return lambda connection: connection.execute(text, values).all()


def _largest(statement: str) -> Callable[[sa.Connection], Iterable[Sequence[Any]]]:
    """Return what reads one figure of all owners' rows, which is the largest one of any of them."""
    text = sa.text(statement)
    return lambda connection: [(max(row[0] for row in execute_everywhere(connection, text)),)]


def _statuses(entity: str) -> str:
    return ", ".join(f"'{status}'" for status in MACHINES[entity].alive)


_RUN = MACHINES["workflow"]

# By the index of what is in progress.
_ACTIVE = f"""
    SELECT status::text, count(*) FROM platform.workflow
    WHERE status IN ({_statuses("workflow")}) GROUP BY status
    """
_ESTIMATED = "SELECT status, runs FROM platform.estimate_runs()"


def _counts(connection: sa.Connection, statement: str) -> dict[str, int]:
    return {row[0]: row[1] for row in connection.execute(sa.text(statement))}


def _read_active(connection: sa.Connection) -> Iterable[Sequence[Any]]:
    counts = _counts(connection, _ACTIVE)
    return [(status.value, "exact", counts.get(status.value, 0)) for status in _RUN.alive]


def _read_ended(connection: sa.Connection) -> Iterable[Sequence[Any]]:
    counts = _counts(connection, _ESTIMATED)
    ended = (status.value for status in _RUN.statuses if status not in _RUN.alive)
    return [(status, "estimate", counts.get(status, 0)) for status in ended] if counts else []


def _read_schema(connection: sa.Connection) -> Iterable[Sequence[Any]]:
    return [(schema.status(connection).usable,)]


def _read_jobs(connection: sa.Connection) -> Iterable[Sequence[Any]]:
    return [
        (
            outcome.name,
            0 if outcome.succeeded_at is None else outcome.succeeded_at.timestamp(),
            outcome.seconds,
            outcome.exit_code,
        )
        for outcome in read_outcomes(connection)[-MOST_JOBS:]
    ]


def _read_drift(connection: sa.Connection) -> Iterable[Sequence[Any]]:
    found: dict[str, int] = {}
    for outcome in read_outcomes(connection):
        found.update(outcome.drift or {})
    return sorted(found.items())[:MOST_RESOURCES]


# A row that ended some other way leaves its lease behind, until recovery drops it. So the stalest ones are
# looked at first, each row by its key.
_IS_ALIVE = " ".join(
    f"""WHEN '{entity}' THEN EXISTS (
            SELECT FROM platform.{entity} AS row
            WHERE row.owner_id = lease.owner_id AND row.id_ = lease.entity_id
              AND row.status IN ({_statuses(entity)}))
    """
    for entity, machine in MACHINES.items()
    if machine.is_leased
)

SOURCES = (
    Source((), {"schema_current": "1 where this release runs on the schema."}, _read_schema),
    Source(
        (),
        {
            "queue_age_seconds": "How long the queued run has waited that could have started first;"
            " 0: none waits."
        },
        _query("""
            SELECT greatest(0, coalesce(extract(epoch FROM clock_timestamp() - (
                SELECT min(greatest(created, start_after)) FROM platform.workflow
                WHERE (status = 'queued') IS TRUE
            )), 0))
            """),
    ),
    Source(("status", "count"), {"runs": RUNS}, _read_active),
    Source(("status", "count"), {"runs": RUNS}, _read_ended),
    Source(
        (),
        {
            "oldest_lease_seconds": "Time since the last heartbeat of the worker that has been silent for the"
            " longest, of those that hold something which has not ended; 0 where nothing is held."
        },
        _largest(f"""
            SELECT coalesce((
                SELECT greatest(0, extract(epoch FROM clock_timestamp() - heartbeat_at))
                FROM (SELECT * FROM platform.lease ORDER BY heartbeat_at OFFSET 0) AS lease
                WHERE CASE entity {_IS_ALIVE} END LIMIT 1), 0)
            """),
    ),
    Source(
        (),
        {
            "audit_unsealed_seconds": "Age of the oldest row of the audit log that no seal covers;"
            " 0: all are sealed."
        },
        _query(
            """
            SELECT greatest(0, extract(epoch FROM clock_timestamp() - least(
                (SELECT created FROM platform.audit_inbox ORDER BY created LIMIT 1),
                (SELECT created FROM platform.audit_sealed
                 WHERE number > coalesce(
                     (SELECT last_row FROM platform.audit_seal ORDER BY number DESC LIMIT 1), :before)
                 ORDER BY number LIMIT 1))))
            """,
            before=FIRST,
        ),
    ),
    Source(
        (),
        {
            "oldest_transaction_seconds": "Age of the oldest open or prepared transaction of this database."
            " Absent where this login may not see all of them: grant it pg_read_all_stats."
        },
        # What another role's session does is hidden from a login without pg_read_all_stats.
        _query("""
            SELECT coalesce(extract(epoch FROM clock_timestamp() - least(min(xact_start), (
                SELECT min(prepared) FROM pg_prepared_xacts WHERE database = current_database()))), 0)
            FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()
              AND (backend_type = 'client backend' OR query = '<insufficient privilege>')
            HAVING count(*) FILTER (WHERE query = '<insufficient privilege>') = 0
            """),
    ),
    Source(
        ("table",),
        {
            "table_bytes": f"Bytes of the {LARGEST_TABLES} largest tables, with indexes and long values.",
            "table_dead_rows": "Their rows that vacuum has to remove; an estimate.",
        },
        _query(
            """
            SELECT coalesce(whole.relname, stat.relname) AS name, sum(pg_total_relation_size(relid)) AS size,
                   sum(n_dead_tup)
            FROM pg_stat_user_tables AS stat
            LEFT JOIN pg_inherits ON inhrelid = relid LEFT JOIN pg_class AS whole ON whole.oid = inhparent
            WHERE schemaname IN ('platform', 'platform_partitions')
            GROUP BY name ORDER BY size DESC, name LIMIT :tables
            """,
            tables=LARGEST_TABLES,
        ),
    ),
    Source(
        ("resource",),
        {
            "quota_drift": "Users whose total was not the sum of their figures when quota reconcile, or the"
            " disk job, last looked."
        },
        _read_drift,
    ),
    Source(
        ("job",),
        {
            "job_last_success_timestamp_seconds": "When the job last ended with exit code 0, all its shards;"
            " 0: never.",
            "job_last_duration_seconds": "How long the job took when it ended last.",
            "job_last_exit_code": "The exit code with which the job ended last.",
        },
        _read_jobs,
    ),
)


def tenants_source(tenants: int) -> Source:
    """Return the runs of the tenants that have the most which have not ended.

    :param tenants: of how many.
    """
    statement = f"""
        WITH active AS (
            SELECT owner_id, status, count(*) AS runs FROM platform.workflow
            WHERE status IN ({_statuses("workflow")}) GROUP BY owner_id, status
        ),
        largest AS (
            SELECT owner_id FROM active GROUP BY owner_id ORDER BY sum(runs) DESC, owner_id LIMIT :tenants
        )
        SELECT owner_id::text, status::text, runs FROM active JOIN largest USING (owner_id)
        """
    meaning = f"Runs that have not ended, of the {tenants} tenants with the most of them."
    return Source(("owner_id", "status"), {"tenant_runs": meaning}, _query(statement, tenants=tenants))
