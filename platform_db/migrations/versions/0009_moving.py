"""Let an import move rows that leave no trace of what it did not do.

Motive: a platform that moves over from another system brings its rows as they are.
Phase: pre; the code before it sets no switch, and notices nothing.
Lock: none on a table; the functions are replaced when the transaction ends.
Duration: below a second.
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
    """Replace the functions that record what happens to a row (sql/0009.up.sql)."""
    run_script("0009.up")


def downgrade() -> None:
    """Put back the functions as they were (sql/0009.down.sql)."""
    run_script("0009.down")
