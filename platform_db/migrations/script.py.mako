"""${message}

Motive: why the schema changes, and who asked for it.
Phase: pre or post. A pre revision runs before the new release starts: does the old code still run after it?
    What the old code needs goes in a post revision, once no process of the old release is left. A function whose
    meaning changes gets a new name, so that both releases find theirs.
Lock: which lock each statement takes on which table (https://www.postgresql.org/docs/current/explicit-locking.html).
Duration: how it grows with the rows. What rewrites or scans a large table goes in steps: add a constraint
    NOT VALID and validate it in a revision of its own; create an index CONCURRENTLY in an autocommit block.
Recovery: what to do when it stops half-way. A revision is one transaction, so mostly: run it again.

A released revision never changes, and never imports today's models.

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
Create Date: ${create_date}
"""

from __future__ import annotations

from platform_db.migrations.sql import run_script
${imports if imports else ""}

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}
phase = "pre"


def upgrade() -> None:
    """Apply the change (sql/${up_revision}.up.sql)."""
    run_script("${up_revision}.up")


def downgrade() -> None:
    """Take the change back, with data in the tables (sql/${up_revision}.down.sql)."""
    run_script("${up_revision}.down")
