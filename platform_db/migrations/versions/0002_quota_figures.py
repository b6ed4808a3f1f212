"""Give each stored figure a version, and let services have figures.

Motive: a figure must never be written over a newer one, and a change that arrives while a disk is read must
    not be lost; services use processing time as sessions do; a reservation may also give space back.
Lock: ACCESS EXCLUSIVE on workflow_resource and quota_reservation.
Duration: milliseconds, whatever the number of rows: a column with a constant default rewrites nothing.
Recovery: run it again; it is one transaction.

Revision ID: 0002
Revises: 0001
Create Date: 2026-11-21
"""

from __future__ import annotations

from alembic import op

from platform_db.migrations.sql import drop_created, run_scripts

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns, the sequence that versions come from, and the services' table."""
    run_scripts(revision)


def downgrade() -> None:
    """Drop them again; reservations that give space back end with it."""
    drop_created(revision)
    op.execute("DROP SEQUENCE platform.quota_version")
    for column in ("version", "delta", "stale", "method", "apparent"):
        op.execute(f"ALTER TABLE platform.workflow_resource DROP COLUMN {column}")
    op.execute("DELETE FROM platform.quota_reservation WHERE amount <= 0")
    op.execute(
        "ALTER TABLE platform.quota_reservation "
        "ADD CONSTRAINT ck_quota_reservation_amount_positive CHECK (amount > 0)"
    )
