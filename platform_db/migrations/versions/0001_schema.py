"""Create the schema.

Motive: the first revision.
Phase: pre; no release before it needs the tables.
Lock: on nothing that another process could wait for; all tables are new.
Duration: below a second.
Recovery: run it again; it is one transaction.

Revision ID: 0001
Revises:
Create Date: 2026-11-21
"""

from __future__ import annotations

from platform_db.migrations.sql import run_script

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None
phase = "pre"
locks: dict[str, str] = {}


def upgrade() -> None:
    """Create types, tables, functions, triggers and policies."""
    run_script("0001.up")


def downgrade() -> None:
    """Drop all of it, with what it holds; the schema itself stays, because it holds Alembic's own table."""
    run_script("0001.down")
