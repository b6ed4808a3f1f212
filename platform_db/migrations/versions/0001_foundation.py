"""Create the schema.

Motive: the first revision.
Lock: none that anybody could wait for; all tables are new.
Duration: below a second.
Recovery: run it again; it is one transaction.

Revision ID: 0001
Revises:
Create Date: 2026-11-21
"""

from __future__ import annotations

from platform_db.migrations.sql import drop_created, run_scripts

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create types, tables and triggers."""
    run_scripts(revision)


def downgrade() -> None:
    """Drop all of it, with what it holds; the schema itself stays, because it holds Alembic's own table."""
    drop_created(revision)
