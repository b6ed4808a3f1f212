"""Keep results, the graph and the progress of runs.

Motive: what a page about a run shows, without counting its jobs at each look.
Phase: pre; no release before it needs the tables. The old code runs on: triggers count its jobs.
Lock: SHARE ROW EXCLUSIVE on job for its triggers, and on workflow and job for foreign keys: who writes them
    waits, who reads them does not.
Duration: one pass over job, which counts what is there.
Recovery: run it again; it is one transaction.

Revision ID: 0002
Revises: 0001
Create Date: 2026-11-22
"""

from __future__ import annotations

from platform_db.migrations.sql import run_script

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None
phase = "pre"
locks = {
    "job": "SHARE ROW EXCLUSIVE",
    "workflow": "SHARE ROW EXCLUSIVE",
}


def upgrade() -> None:
    """Create the tables, their functions and triggers, and count the jobs that there are."""
    run_script("0002.up")


def downgrade() -> None:
    """Drop them with what they hold, and the resources of the type that is new."""
    run_script("0002.down")
