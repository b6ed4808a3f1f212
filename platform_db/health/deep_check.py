"""Whether rows agree with each other, which no single constraint can tell, and whether the guards are there.

It reads whole tables.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.database.distribution import is_distributed
from platform_db.logs import CUT
from platform_db.models import ResourceType
from platform_db.models.resource import DATABASE_STORAGE, stored_bytes
from platform_db.quota import disk
from platform_db.quota.cpu import CONSUMERS, total_of
from platform_db.quota.resources import DEFAULT_NAMES
from platform_db.schema import compare
from platform_db.schema.mending import mend
from platform_db.states import MACHINES
from platform_db.tenancy import drift

SHOWN = 5

_CPU = DEFAULT_NAMES[ResourceType.cpu]
_FIGURES = " UNION ALL ".join(
    f"SELECT owner_id, resource_id, quota_used FROM platform.{table}" for table, _ in CONSUMERS.values()
)
_DISK = f"(SELECT id_ FROM platform.resource WHERE name = '{DEFAULT_NAMES[ResourceType.disk]}')"

CATALOGUE_CHECK = "objects that are not those of the models"

DIGESTS_CHECK = "digests of secrets that no longer exist"

PRIVILEGES_CHECK = "privileges that are not those of the roles"


@dataclass(frozen=True)
class Finding:
    """A fault that a check found: how many rows or objects have it.

    :ivar examples: some of the rows; of objects and privileges all, each with what to do.
    """

    check: str
    count: int
    examples: list[str]


def check_deeply(session: Session) -> list[Finding]:
    """Run every check, change nothing, and return the faults.

    What is changed while it looks is seen as it was when the check began, each check for itself.
    """
    findings = []
    distributed = is_distributed(session.connection())
    for check, query in CHECKS.items():
        if distributed and check == DIGESTS_CHECK:
            continue  # Those of a session stay until the next pruning: they are on another machine than it.
        counted = f"SELECT count(*) OVER () AS count, found.* FROM ({query}) AS found LIMIT {SHOWN}"
        if found := session.connection().execute(sa.text(counted)).all():
            findings.append(Finding(check, found[0][0], [str(row[1]) for row in found]))
    if differences := compare.differences(session.connection()):
        examples = [f"{difference}: {mend(difference)}" for difference in differences]
        findings.append(Finding(CATALOGUE_CHECK, len(differences), examples))
    if drift.uses_roles(session) and (drifted := drift.differences(session)):
        examples = [
            f"{found.role} on {found.table} has {found.found} instead of {found.expected}: {found.mend}"
            for found in drifted
        ]
        findings.append(Finding(PRIVILEGES_CHECK, len(drifted), examples))
    return findings


def _orphans(table: str) -> str:
    parents = " UNION ALL ".join(
        f"SELECT '{entity}' AS entity, id_ FROM platform.{entity}" for entity in MACHINES
    )
    return f"""
        SELECT orphan.entity || ' ' || orphan.entity_id FROM platform.{table} AS orphan
        WHERE orphan.entity IN ({", ".join(f"'{entity}'" for entity in MACHINES)}) AND NOT EXISTS (
            SELECT FROM ({parents}) AS parent
            WHERE parent.entity = orphan.entity AND parent.id_ = orphan.entity_id)
    """


def _stories() -> str:
    """Select the rows whose revision or status is not what their changes tell."""
    return " UNION ALL ".join(
        f"""
        SELECT '{entity} ' || row.id_ FROM platform.{entity} AS row
        LEFT JOIN (
            SELECT entity_id, count(*) AS changes, max(revision) AS last FROM platform.status_change
            WHERE entity = '{entity}' GROUP BY entity_id
        ) AS story ON story.entity_id = row.id_
        LEFT JOIN platform.status_change AS change
          ON change.owner_id = row.owner_id AND change.entity_id = row.id_
         AND change.revision = row.revision
        WHERE row.revision <> coalesce(story.changes, 0) OR row.revision <> coalesce(story.last, 0)
           OR change.to_status <> row.status::text
        """
        for entity in MACHINES
    )


def _times() -> str:
    runs = (
        f"""
        SELECT '{entity} ' || id_ FROM platform.{entity}
        WHERE (status = 'running' AND (run_finished_at IS NOT NULL OR run_stopped_at IS NOT NULL))
           OR least(run_finished_at, run_stopped_at) < run_started_at
        """
        for entity in ("workflow", "interactive_session", "service")
    )
    jobs = "SELECT 'job ' || id_ FROM platform.job WHERE finished_at < started_at"
    return " UNION ALL ".join((*runs, jobs))


def _log_sizes() -> str:
    """Select the runs that have more log than was counted.

    Less is right: what a savepoint took back stays counted. A marker that says where the log was cut is not.
    """
    cut = f"convert_to('{CUT.decode()}', 'UTF8')"
    return f"""
        SELECT 'workflow ' || chunk.workflow_id FROM (
            SELECT owner_id, workflow_id, sum(octet_length(data)) AS stored
            FROM platform.log_chunk GROUP BY owner_id, workflow_id
        ) AS log
        LEFT JOIN platform.log_size AS size USING (owner_id, workflow_id)
        JOIN platform.log_chunk AS chunk USING (owner_id, workflow_id)
        WHERE log.stored > coalesce(size.bytes_, 0)
        GROUP BY chunk.owner_id, chunk.workflow_id, size.bytes_
        HAVING sum(CASE WHEN position({cut} IN chunk.data) > 0 THEN position({cut} IN chunk.data) - 1
                        ELSE octet_length(chunk.data) END) > coalesce(size.bytes_, 0)
    """


CHECKS = {
    "status changes of rows that no longer exist": _orphans("status_change"),
    "notes on rows that no longer exist": _orphans("note"),
    "leases of rows that no longer exist": _orphans("lease"),
    DIGESTS_CHECK: _orphans("secret_digest"),
    "revisions and statuses that their history does not tell": _stories(),
    "statuses that their times contradict": _times(),
    "run counters behind their runs": """
        SELECT run.owner_id || ' ' || run.name FROM (
            SELECT owner_id, name, 0 AS run_number_major, max(run_number_major) AS last
            FROM platform.workflow GROUP BY owner_id, name
            UNION ALL
            SELECT owner_id, name, run_number_major, max(run_number_minor)
            FROM platform.workflow GROUP BY owner_id, name, run_number_major
            HAVING max(run_number_minor) > 0
        ) AS run LEFT JOIN platform.run_counter AS counter USING (owner_id, name, run_number_major)
        WHERE coalesce(counter.last, 0) < run.last""",
    "disk totals that are not the sum of their workspaces": f"""
        SELECT owner_id FROM ({disk.sums(_DISK, "IS NOT NULL")}) AS sums WHERE before <> used""",
    "processing times that are not the sum of what was used": f"""
        SELECT total.owner_id FROM platform.user_resource AS total
        JOIN platform.resource ON resource.id_ = total.resource_id AND resource.name = '{_CPU}'
        LEFT JOIN (
            SELECT owner_id, resource_id, sum(quota_used) AS used FROM ({_FIGURES}) AS figure
            GROUP BY owner_id, resource_id
        ) AS figures ON figures.owner_id = total.owner_id AND figures.resource_id = total.resource_id
        WHERE total.quota_used <> {total_of("total.quota_pruned", "figures.used")}""",
    "totals of database storage that are not the sum of what is stored": f"""
        SELECT owner_id FROM platform.user_resource AS total
        JOIN platform.resource ON resource.id_ = total.resource_id AND resource.name = '{DATABASE_STORAGE}'
        WHERE total.quota_used <> {stored_bytes("total.owner_id")}""",
    "progress of runs that their jobs do not tell": """
        SELECT 'workflow ' || coalesce(jobs.workflow_id, kept.workflow_id) FROM (
            SELECT owner_id, workflow_id, count(*) AS total,
                   count(*) FILTER (WHERE status = 'running') AS running,
                   count(*) FILTER (WHERE status = 'finished') AS finished,
                   count(*) FILTER (WHERE status = 'failed') AS failed,
                   count(*) FILTER (WHERE status = 'stopped') AS stopped
            FROM platform.job GROUP BY owner_id, workflow_id
        ) AS jobs
        FULL JOIN (
            SELECT owner_id, workflow_id, sum(total) AS total, sum(running) AS running,
                   sum(finished) AS finished, sum(failed) AS failed, sum(stopped) AS stopped
            FROM platform.workflow_progress GROUP BY owner_id, workflow_id
        ) AS kept USING (owner_id, workflow_id)
        WHERE (coalesce(jobs.total, 0), coalesce(jobs.running, 0), coalesce(jobs.finished, 0),
               coalesce(jobs.failed, 0), coalesce(jobs.stopped, 0))
           <> (coalesce(kept.total, 0), coalesce(kept.running, 0), coalesce(kept.finished, 0),
               coalesce(kept.failed, 0), coalesce(kept.stopped, 0))""",
    "log sizes behind their logs": _log_sizes(),
    "reserved amounts that are not the sum of their reservations": """
        SELECT total.owner_id FROM platform.user_resource AS total
        LEFT JOIN (
            SELECT owner_id, resource_id, sum(greatest(amount, 0)) AS reserved
            FROM platform.quota_reservation GROUP BY owner_id, resource_id
        ) AS held USING (owner_id, resource_id)
        WHERE total.quota_reserved <> coalesce(held.reserved, 0)""",
    # A run whose id lies there cannot log.
    "ends of partitions of logs where no other one begins": """
        SELECT coalesce(id_::text, 'the first or the last one') FROM (
            (SELECT first_id AS id_ FROM platform.log_partitions()
             EXCEPT SELECT end_id FROM platform.log_partitions())
            UNION ALL
            (SELECT end_id FROM platform.log_partitions()
             EXCEPT SELECT first_id FROM platform.log_partitions())
        ) AS bound""",
    "invalid indexes": """
        SELECT indexrelid::regclass::text FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
        WHERE relnamespace::regnamespace::text IN ('platform', 'platform_partitions') AND NOT indisvalid""",
    "constraints that were never validated": """
        SELECT conname FROM pg_constraint
        WHERE connamespace::regnamespace::text IN ('platform', 'platform_partitions')
          AND NOT convalidated""",
}
