"""Create the tables of calls and values, with the views that list them; index tasks by their submission.

Motive: a call graph with its cache, such as redun's, is stored with the rest, and each tenant has its own.
Phase: pre; no release before it needs the tables. The old code does not delete a user who has such rows.
Lock: SHARE ROW EXCLUSIVE on user_ and workflow, for the foreign keys: a transaction that writes users or runs
    is waited for.
    Before, SHARE UPDATE EXCLUSIVE on task_record, for its index, which no reader or writer waits for.
Duration: two passes over task_record, after a wait for the transactions that are open. The tables are new.
Recovery: run it again. Where tables of redun's own are in a schema named redun, rename
    that one: it takes the views. A login that may not create schemas finds it made by an administrator.

Revision ID: 0011
Revises: 0010
Create Date: 2026-11-26
"""

from __future__ import annotations

from alembic import op

from platform_db.migrations.sql import run_script

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None
phase = "pre"
locks = {
    "task_record": "SHARE UPDATE EXCLUSIVE",
    "user_": "SHARE ROW EXCLUSIVE",
    "workflow": "SHARE ROW EXCLUSIVE",
}


def upgrade() -> None:
    """Create the index, then the tables, functions and views (sql/0011.up.sql)."""
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS platform.ix_task_record_owner_id_submitted")
        op.execute(
            "CREATE INDEX CONCURRENTLY ix_task_record_owner_id_submitted"
            " ON platform.task_record (owner_id, submitted)"
        )
    run_script("0011.up")


def downgrade() -> None:
    """Drop them, with the calls and values in them (sql/0011.down.sql)."""
    run_script("0011.down")
    op.execute("DROP INDEX platform.ix_task_record_owner_id_submitted")
