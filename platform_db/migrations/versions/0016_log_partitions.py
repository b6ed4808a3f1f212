"""Keep logs in partitions by the month of their run: a month of them goes in a moment.

Motive: logs are most of the bytes. Deleted row by row they leave as many dead rows, to be vacuumed for long.
Phase: pre; the release before reads and writes the table as it is now, and prunes row by row.
Lock: ACCESS EXCLUSIVE on log_chunk, and for its foreign keys on workflow and job: readers and writers are
    waited for, and wait for milliseconds.
Duration: of the catalogue, after all rows were read beside readers and writers: what is there becomes the
    first partition as it is. Where it has ids of runs that tell no time it stays the only one.
    On the way back the rows of later months are moved, while readers and writers wait.
Recovery: run it again; until then a run of a clock that is weeks ahead cannot log. Where it is given up, drop
    the constraint before of log_chunk: five to nine weeks later no new run could log. Then platform-db roles
    grant gives services the right to call what is new; those on logs are there at once. Views of others on
    log_chunk, and publications of it, then have its first partition alone: make them again.

Revision ID: 0016
Revises: 0015
Create Date: 2026-11-27
"""

from __future__ import annotations

import uuid
from datetime import datetime, timezone

import sqlalchemy as sa
from alembic import op

from platform_db.migrations.sql import run_script

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None
phase = "pre"
locks = dict.fromkeys(("job", "log_chunk", "workflow"), "ACCESS EXCLUSIVE")


def upgrade() -> None:
    """Check the bound of what is there, and put a partitioned table above it (sql/0016.up.sql)."""
    _check()
    run_script("0016.up")


def downgrade() -> None:
    """Bring all rows back into one table (sql/0016.down.sql)."""
    run_script("0016.down")


def _check() -> None:
    """Let the database know that all runs were made before the month after next, unless it is not so."""
    now = datetime.now(timezone.utc)
    months = now.year * 12 + now.month + 1
    begins = datetime(months // 12, months % 12 + 1, 1, tzinfo=timezone.utc)
    bound = uuid.UUID(int=int(begins.timestamp() * 1000) << 80)
    with op.get_context().autocommit_block():
        # An attempt that found a table in use has read all rows already.
        if not op.get_context().as_sql and op.get_bind().scalar(_IS_CHECKED, {"bound": f"%{bound}%"}):
            return
        op.execute(
            "-- squawk-ignore ban-drop-constraint\n"
            "ALTER TABLE platform.log_chunk DROP CONSTRAINT IF EXISTS before"
        )
        if not op.get_context().as_sql and not op.get_bind().scalar(_IS_BEFORE, {"bound": bound}):
            return
        op.execute(
            "-- Leave out this and the next one where runs have ids that are not UUIDv7.\n"
            f"ALTER TABLE platform.log_chunk ADD CONSTRAINT before CHECK (workflow_id < '{bound}') NOT VALID"
        )
        op.execute("ALTER TABLE platform.log_chunk VALIDATE CONSTRAINT before")


_IS_CHECKED = sa.text("""
    SELECT count(*) > 0 FROM pg_constraint
    WHERE conrelid = to_regclass('platform.log_chunk') AND conname = 'before' AND convalidated
      AND pg_get_constraintdef(oid) LIKE :bound
    """)

_IS_BEFORE = sa.text("SELECT count(*) = 0 FROM platform.log_chunk WHERE workflow_id >= :bound")
