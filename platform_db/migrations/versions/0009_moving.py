"""Mark changes that came through an extra transition, let imports leave no trace, cache jobs that still run.

Motive: a platform that moves over from another system brings its rows as they are, its own transitions, and
    services that cache a job before its result is known.
Phase: pre; the code before it sets no switch and reads no mark. It finds no result that is not complete, but
    may evict one.
Lock: SHARE ROW EXCLUSIVE on the tables with a status and on extra_transition, for triggers, then ACCESS
    EXCLUSIVE on status_change and job_cache, for columns: transactions that write them are waited for.
Duration: below a second; the column is NULL in the rows that are there. The next revision validates the
    check.
Recovery: run it again; it is one transaction.

Revision ID: 0009
Revises: 0008
Create Date: 2026-11-26
"""

from __future__ import annotations

from platform_db.migrations.sql import run_script

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None
phase = "pre"
locks = {
    "extra_transition": "SHARE ROW EXCLUSIVE",
    "interactive_session": "SHARE ROW EXCLUSIVE",
    "job": "SHARE ROW EXCLUSIVE",
    "job_cache": "ACCESS EXCLUSIVE",
    "service": "SHARE ROW EXCLUSIVE",
    "status_change": "ACCESS EXCLUSIVE",
    "user_token": "SHARE ROW EXCLUSIVE",
    "workflow": "SHARE ROW EXCLUSIVE",
    "workspace_retention_rule": "SHARE ROW EXCLUSIVE",
}


def upgrade() -> None:
    """Replace the functions that guard and record a change, and change the columns (sql/0009.up.sql)."""
    run_script("0009.up")


def downgrade() -> None:
    """Put back the functions and columns as they were, without what is not complete (sql/0009.down.sql)."""
    run_script("0009.down")
