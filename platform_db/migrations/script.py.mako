"""${message}

Motive: why the schema changes, and who asked for it.
Phase: pre or post. A pre revision runs before the new release starts: does all code still run after it that
    runs on the database today? What that needs goes in a post revision, once no process of the old release is
    left; no pre revision of a release follows a post one of it. A function whose meaning changes gets a new
    name, so that both releases find theirs.
Lock: which lock each statement takes on which table (https://www.postgresql.org/docs/current/explicit-locking.html).
    "locks" below names the strongest for each table that was there before; a test compares it with pg_locks.
Duration: how it grows with the rows. What rewrites or scans a large table goes in steps: add a constraint
    NOT VALID and validate it in a revision of its own; platform_db.migrations.steps creates indexes and fills
    columns beside readers and writers.
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
locks: dict[str, str] = {}


def upgrade() -> None:
    """Apply the change (sql/${up_revision}.up.sql)."""
    run_script("${up_revision}.up")


def downgrade() -> None:
    """Take the change back, with data in the tables (sql/${up_revision}.down.sql)."""
    run_script("${up_revision}.down")
