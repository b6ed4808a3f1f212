"""Index the jobs in progress by their runs.

Motive: recovery stops the jobs that are left of runs that have ended. It looks at each run that has jobs
    alive, and not at each job.
Phase: pre; the new code reads all jobs without it.
Lock: SHARE UPDATE EXCLUSIVE on job, which no reader or writer waits for.
Duration: it waits for the transactions that are open; then two passes over job.
Recovery: run it again.

Revision ID: 0009
Revises: 0008
Create Date: 2026-11-26
"""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None
phase = "pre"

IN_PROGRESS = "WHERE status IN ('created', 'queued', 'running')"
BY_RUN = f"ix_job_in_progress_workflow_id ON platform.job (owner_id, workflow_id) {IN_PROGRESS}"
BY_STATUS = f"ix_job_in_progress ON platform.job (owner_id, status, created, id_) {IN_PROGRESS}"


def upgrade() -> None:
    """Replace the index."""
    _replace(BY_STATUS, BY_RUN)


def downgrade() -> None:
    """Put the index back as it was."""
    _replace(BY_RUN, BY_STATUS)


def _replace(old: str, new: str) -> None:
    with op.get_context().autocommit_block():
        for index in (new, old):  # The new one: half of it, of a run that was killed.
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS platform.{index.partition(' ')[0]}")
            if index is new:
                op.execute(f"CREATE INDEX CONCURRENTLY {new}")
