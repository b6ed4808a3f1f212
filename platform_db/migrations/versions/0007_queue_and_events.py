"""Keep what the queue, versions of specifications and watchers of events need.

Motive: taking the next run, creating it once, stopping it, and hearing of each change.
Phase: pre; no release before it needs the columns and tables. The old code runs on: triggers record what it
    creates and deletes, and its users get their rows in the queue.
Lock: ACCESS EXCLUSIVE on workflow and job for the columns, SHARE ROW EXCLUSIVE on user_, interactive_session
    and service for triggers and foreign keys; all until the transaction ends.
Duration: a row for each user; the checks of the new columns are validated by the next revision.
Recovery: run it again; it is one transaction.

Revision ID: 0007
Revises: 0006
Create Date: 2026-11-26
"""

from __future__ import annotations

from platform_db.migrations.sql import run_script

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None
phase = "pre"
locks = {
    "interactive_session": "SHARE ROW EXCLUSIVE",
    "job": "ACCESS EXCLUSIVE",
    "service": "SHARE ROW EXCLUSIVE",
    "user_": "SHARE ROW EXCLUSIVE",
    "workflow": "ACCESS EXCLUSIVE",
}


def upgrade() -> None:
    """Add the columns, create the tables, their functions and triggers (sql/0007.up.sql)."""
    run_script("0007.up")


def downgrade() -> None:
    """Drop them with what they hold (sql/0007.down.sql)."""
    run_script("0007.down")
