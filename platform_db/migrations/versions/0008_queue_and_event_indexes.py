"""Validate the checks of the new columns; index the queue, what is in progress, and the history's numbers.

Motive: a claim reads an owner's next runs and those at work; a service counts at its start what is
    alive; watchers of events read on from a number, and find by its transaction what committed behind them.
    A check that is validated in a transaction of its own stops no writer.
Phase: pre; the new code is slow without them.
Lock: SHARE UPDATE EXCLUSIVE on workflow, job, interactive_session, service, status_change and note, which no
    reader or writer waits for.
Duration: it waits for the transactions that are open; then a pass over workflow and job for the checks,
    and one over each table for each index.
Recovery: run it again.

Revision ID: 0008
Revises: 0007
Create Date: 2026-11-26
"""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None
phase = "pre"
locks = {
    "interactive_session": "SHARE UPDATE EXCLUSIVE",
    "job": "SHARE UPDATE EXCLUSIVE",
    "note": "SHARE UPDATE EXCLUSIVE",
    "service": "SHARE UPDATE EXCLUSIVE",
    "status_change": "SHARE UPDATE EXCLUSIVE",
    "workflow": "SHARE UPDATE EXCLUSIVE",
}

CHECKS = {"workflow": "ck_workflow_version_positive", "job": "ck_job_phase_length"}

INDEXES = {
    "ix_workflow_queue": "workflow (owner_id, priority DESC NULLS LAST, created, id_)"
    " WHERE (status = 'queued') IS TRUE",
    "ix_workflow_at_work": "workflow (owner_id, status) WHERE (status IN ('pending', 'running')) IS TRUE",
    "ix_job_queue": "job (owner_id, created, id_) WHERE (status = 'queued') IS TRUE",
    "ix_workflow_stop_requested": "workflow (stop_requested_at)"
    " WHERE stop_requested_at IS NOT NULL AND status = 'running'",
    "ix_job_in_progress": "job (owner_id, status, created, id_)"
    " WHERE status IN ('created', 'queued', 'running')",
    "ix_interactive_session_in_progress": "interactive_session (status)"
    " WHERE status IN ('created', 'queued', 'pending', 'running')",
    "ix_service_in_progress": "service (status) WHERE status IN ('created', 'queued', 'pending', 'running')",
    "ix_status_change_number": "status_change (number)",
    "ix_status_change_transaction_id": "status_change (transaction_id)",
    "ix_note_number": "note (number)",
    "ix_note_transaction_id": "note (transaction_id)",
}


def upgrade() -> None:
    """Validate the checks and create the indexes."""
    with op.get_context().autocommit_block():
        for table, check in CHECKS.items():
            op.execute(f"ALTER TABLE platform.{table} VALIDATE CONSTRAINT {check}")
        for name, columns in INDEXES.items():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS platform.{name}")  # Half of one that was killed.
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON platform.{columns}")


def downgrade() -> None:
    """Drop the indexes."""
    with op.get_context().autocommit_block():
        for name in INDEXES:
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS platform.{name}")
