"""Create the table of task records.

Motive: a cluster's scheduler, such as ipyparallel's, stores its tasks with the rest of the platform.
Phase: pre; no release before it needs the table.
Lock: SHARE ROW EXCLUSIVE on user_, for the foreign key: a transaction that writes users is waited for.
Duration: below a second; the table is new.
Recovery: run it again; it is one transaction.

Revision ID: 0003
Revises: 0002
Create Date: 2026-11-26
"""

from __future__ import annotations

from platform_db.migrations.sql import run_script

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None
phase = "pre"
locks = {
    "user_": "SHARE ROW EXCLUSIVE",
}


def upgrade() -> None:
    """Create the table with its indexes and its tenants' policy (sql/0003.up.sql)."""
    run_script("0003.up")


def downgrade() -> None:
    """Drop the table, with the tasks in it (sql/0003.down.sql)."""
    run_script("0003.down")
