"""Create the functions that change one row's status.

Motive: to plan the statement takes a tenth of a change; a function keeps its plan.
Phase: pre; no release before it calls the functions.
Lock: none on a table.
Duration: below a second.
Recovery: run it again; it is one transaction.

Revision ID: 0012
Revises: 0011
Create Date: 2026-11-26
"""

from __future__ import annotations

from platform_db.migrations.sql import run_script

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None
phase = "pre"


def upgrade() -> None:
    """Create the functions (sql/0012.up.sql)."""
    run_script("0012.up")


def downgrade() -> None:
    """Drop the functions (sql/0012.down.sql)."""
    run_script("0012.down")
