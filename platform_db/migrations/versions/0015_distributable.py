"""Let the schema be distributed over several machines by Citus.

Motive: one machine may be too small. What a node of a cluster answers otherwise than one server, such as the
    next number of a history, is a function of its own: on one server what stood there before, and inlined.
    Triggers of tables that each node has a copy of write elsewhere on the coordinator alone. Statements in
    functions do not join a transition table with another, and have no volatile function in an UPDATE.
Phase: pre; no function changes its meaning, and code of before finds all that it calls.
Lock: SHARE ROW EXCLUSIVE on extra_transition, interactive_session and user_, for their triggers, which
    writers wait for.
Duration: of the catalogue alone.
Recovery: run it again. Then platform-db roles grant gives the roles their privileges on what is new.

Revision ID: 0015
Revises: 0014
Create Date: 2026-11-27
"""

from __future__ import annotations

from platform_db.migrations.sql import run_script

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None
phase = "pre"
locks = {
    "extra_transition": "SHARE ROW EXCLUSIVE",
    "interactive_session": "SHARE ROW EXCLUSIVE",
    "user_": "SHARE ROW EXCLUSIVE",
}


def upgrade() -> None:
    """Apply the change (sql/0015.up.sql)."""
    run_script("0015.up")


def downgrade() -> None:
    """Take the change back (sql/0015.down.sql)."""
    run_script("0015.down")
