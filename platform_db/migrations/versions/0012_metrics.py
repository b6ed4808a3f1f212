"""Index queued runs by when they could start; create what jobs' outcomes and estimates of runs are read from.

Motive: metrics cost the same however many runs there are. The longest wait in the queue is one look-up. How
    many runs ended in which status is estimated from statistics, which row-level security hides from all but
    the tables' owner: a function reads them. When a job last succeeded is a row.
Phase: pre; no release before it needs them.
Lock: SHARE UPDATE EXCLUSIVE on workflow, for its index, which no reader or writer waits for.
Duration: two passes over workflow, after a wait for the transactions that are open. The table is new.
Recovery: run it again. Then platform-db roles grant gives the roles their privileges on what is new.

Revision ID: 0012
Revises: 0011
Create Date: 2026-11-26
"""

from __future__ import annotations

from platform_db.migrations import steps
from platform_db.migrations.sql import run_script

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None
phase = "pre"
locks = {"workflow": "SHARE UPDATE EXCLUSIVE"}


def upgrade() -> None:
    """Create the index, then the table and the function (sql/0012.up.sql)."""
    steps.create_index(
        "ix_workflow_waiting",
        "workflow (greatest(created, start_after)) WHERE (status = 'queued') IS TRUE",
    )
    run_script("0012.up")


def downgrade() -> None:
    """Drop them (sql/0012.down.sql)."""
    run_script("0012.down")
    steps.drop_index("ix_workflow_waiting")
