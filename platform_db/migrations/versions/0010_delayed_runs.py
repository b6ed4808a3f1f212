"""Index delayed runs by their time and jobs in progress by their runs; validate the check of cached jobs.

Motive: a claim read over all runs that an owner had queued for later. Recovery stops the jobs that are left
    of runs that have ended: it looks at each run that has jobs alive, and not at each job.
Phase: pre; the new code is slow without them. The code before it claims slowly with them.
Lock: SHARE UPDATE EXCLUSIVE on workflow, job and job_cache, which no reader or writer waits for.
Duration: it waits for the transactions that are open; then two passes over the table for each index,
    and one over job_cache.
Recovery: run it again.

Revision ID: 0010
Revises: 0009
Create Date: 2026-11-26
"""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None
phase = "pre"
locks = {
    "job": "SHARE UPDATE EXCLUSIVE",
    "job_cache": "SHARE UPDATE EXCLUSIVE",
    "workflow": "SHARE UPDATE EXCLUSIVE",
}

_PRIORITY = "workflow (owner_id, priority DESC NULLS LAST, created, id_)"
_JOBS_ALIVE = "WHERE status IN ('created', 'queued', 'running')"

NEW = {
    "ix_workflow_ready": f"{_PRIORITY} WHERE (status = 'queued' AND start_after IS NULL) IS TRUE",
    "ix_workflow_delayed": "workflow (owner_id, start_after)"
    " WHERE (status = 'queued' AND start_after IS NOT NULL) IS TRUE",
    "ix_job_in_progress_workflow_id": f"job (owner_id, workflow_id) {_JOBS_ALIVE}",
}
OLD = {
    "ix_workflow_queue": f"{_PRIORITY} WHERE (status = 'queued') IS TRUE",
    "ix_job_in_progress": f"job (owner_id, status, created, id_) {_JOBS_ALIVE}",
}


def upgrade() -> None:
    """Create the new indexes, drop those that they replace, and validate what 0009 has added."""
    _replace(OLD, NEW)
    with op.get_context().autocommit_block():
        op.execute("ALTER TABLE platform.job_cache VALIDATE CONSTRAINT ck_job_cache_result_has_path")


def downgrade() -> None:
    """Put the indexes back as they were."""
    _replace(NEW, OLD)


def _replace(old: dict[str, str], new: dict[str, str]) -> None:
    with op.get_context().autocommit_block():
        for name, columns in new.items():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS platform.{name}")  # Half of one that was killed.
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON platform.{columns}")
        for name in old:
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS platform.{name}")
