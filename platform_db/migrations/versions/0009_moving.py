"""Mark changes that came through an extra transition, record who allows one, and let imports leave no trace.

Motive: a platform that moves over from another system brings its rows as they are, and its own transitions.
Phase: pre; the code before it sets no switch and reads no mark, and notices nothing.
Lock: SHARE ROW EXCLUSIVE on workflow and extra_transition, for triggers, then ACCESS EXCLUSIVE on
    status_change, for the column: transactions that write them are waited for.
Duration: below a second; the column is NULL in the rows that are there.
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


def upgrade() -> None:
    """Replace the functions that guard and record a change, and add the column (sql/0009.up.sql)."""
    run_script("0009.up")


def downgrade() -> None:
    """Put back the functions as they were, and drop the column (sql/0009.down.sql)."""
    run_script("0009.down")
