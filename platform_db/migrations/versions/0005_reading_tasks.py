"""Create the function that reads one task record.

Motive: planning a statement with all columns of a record takes longer than looking it up.
Phase: pre; no release before it calls the function.
Lock: none on a table.
Duration: below a second.
Recovery: run it again; it is one transaction.

Revision ID: 0005
Revises: 0004
Create Date: 2026-11-26
"""

from __future__ import annotations

from platform_db.migrations.sql import run_script

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None
phase = "pre"
locks: dict[str, str] = {}


def upgrade() -> None:
    """Create the function (sql/0005.up.sql)."""
    run_script("0005.up")


def downgrade() -> None:
    """Drop the function (sql/0005.down.sql)."""
    run_script("0005.down")
