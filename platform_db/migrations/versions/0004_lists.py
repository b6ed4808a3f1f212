"""Take out the index on the age of all owners' runs.

Motive: each change of a status paid for it, and the planner took it for lists of one owner's runs, too. The
    newest runs of all owners are among the newest of each owner.
Phase: post; a process of the old release lists all owners' runs by it.
Lock: SHARE UPDATE EXCLUSIVE on workflow, which no reader or writer waits for.
Duration: it waits for the transactions that are open; then below a second.
Recovery: run it again.

Revision ID: 0004
Revises: 0003
Create Date: 2026-11-26
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None
phase = "post"
locks = {
    "workflow": "SHARE UPDATE EXCLUSIVE",
}


def upgrade() -> None:
    """Drop the index."""
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS platform.ix_workflow_created")


def downgrade() -> None:
    """Create the index again."""
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS platform.ix_workflow_created")
        op.execute("CREATE INDEX CONCURRENTLY ix_workflow_created ON platform.workflow (created, id_)")
