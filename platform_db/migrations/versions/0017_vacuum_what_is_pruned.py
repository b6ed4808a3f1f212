"""Vacuum what is pruned once it has as many dead rows as a fiftieth of its size, not a fifth.

Motive: retention takes old rows out of these tables a little each day. By PostgreSQL's default the space of
    months of rows is left before it is used again, and what asks for the oldest row walks over them all.
Phase: pre; no release before it needs anything else.
Lock: SHARE UPDATE EXCLUSIVE on each table in turn, which no reader or writer waits for.
Duration: below a second.
Recovery: run it again.

Revision ID: 0017
Revises: 0016
Create Date: 2026-11-27
"""

from __future__ import annotations

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None
phase = "pre"

ONLY_GROWING = {
    "autovacuum_vacuum_scale_factor": "0.02",
    "autovacuum_vacuum_insert_scale_factor": "0.05",
    "autovacuum_analyze_scale_factor": "0.02",
}
CHANGED_OFTEN = {"autovacuum_vacuum_scale_factor": "0.02", "autovacuum_analyze_scale_factor": "0.02"}

TABLES = {
    **dict.fromkeys(("audit_sealed", "audit_seal_digests", "service_log"), ONLY_GROWING),
    **dict.fromkeys(
        ("event_failure", "idempotency_key", "interactive_session", "job_cache", "service"), CHANGED_OFTEN
    ),
}

locks = dict.fromkeys(TABLES, "SHARE UPDATE EXCLUSIVE")


def upgrade() -> None:
    """Set when to vacuum and analyze each table."""
    for table, parameters in TABLES.items():
        values = ", ".join(f"{name} = {value}" for name, value in parameters.items())
        op.execute(f"ALTER TABLE platform.{table} SET ({values})")


def downgrade() -> None:
    """Leave it to the server's settings again."""
    for table, parameters in TABLES.items():
        op.execute(f"ALTER TABLE platform.{table} RESET ({', '.join(parameters)})")
