"""Index only completed tasks by the time of their completion.

Motive: to find those that have not completed, the planner took the index on that time, in which all of them
    are equal: the server could not mark the entries of those that had completed since, and read them again.
Phase: pre; a process of the old release is served by the new indexes, too.
Lock: SHARE UPDATE EXCLUSIVE on task_record, which no reader or writer waits for.
Duration: it waits for the transactions that are open; then some seconds for a million tasks.
Recovery: run it again.

Revision ID: 0006
Revises: 0005
Create Date: 2026-11-26
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None
phase = "pre"
locks = {
    "task_record": "SHARE UPDATE EXCLUSIVE",
}

ALL = "ix_task_record_owner_id_cluster_completed"
COMPLETED = "ix_task_record_completed"


def upgrade() -> None:
    """Replace the index on all tasks by one on those that have completed."""
    _replace(ALL, COMPLETED, " WHERE completed IS NOT NULL")


def downgrade() -> None:
    """Index all tasks again."""
    _replace(COMPLETED, ALL, "")


def _replace(old: str, new: str, condition: str) -> None:
    columns = "platform.task_record (owner_id, cluster, completed)"
    with op.get_context().autocommit_block():
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS platform.{new}")  # Half of one, where this was killed.
        op.execute(f"CREATE INDEX CONCURRENTLY {new} ON {columns}{condition}")
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS platform.{old}")
