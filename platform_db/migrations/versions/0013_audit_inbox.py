"""Let writers append audit rows to an inbox; the sealer moves them into the log and numbers them.

Motive: a row has its place from where it is collected. No writer draws a number, no open transaction delays
    sealing, and writers need not share a node.
Phase: pre; audit_log is a view of both tables now, through which the release before reads and writes. Rows
    that wait have no number: its export leaves them out, and it refuses the cursor of a page that ends with
    one (InvalidIdentifier). Its commands audit seal and audit prune fail until the new ones are there: rows
    wait meanwhile.
Lock: ACCESS EXCLUSIVE on audit_log, which is renamed, and audit_fence, which goes: readers and writers are
    waited for.
Duration: milliseconds. Rows that are not sealed yet stay where they are, and are sealed first. On the way
    back rows of the inbox are moved, most of them before readers and writers wait, and the log is read once
    for its checks.
Recovery: run it again; it is one transaction. Then platform-db roles grant gives the roles their privileges
    on what is new; those to write audit rows are there at once, on the way back, too. What a platform granted
    itself on single columns of audit_log, or to PUBLIC, stays on audit_sealed alone: grant it on audit_log
    and audit_inbox again.

Revision ID: 0013
Revises: 0012
Create Date: 2026-11-27
"""

from __future__ import annotations

from platform_db.migrations.sql import run_script

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None
phase = "pre"
locks = {"audit_fence": "ACCESS EXCLUSIVE", "audit_log": "ACCESS EXCLUSIVE"}


def upgrade() -> None:
    """Rename the log, and create the inbox and the view of both (sql/0013.up.sql)."""
    run_script("0013.up")


def downgrade() -> None:
    """Number what waits, and put back the log with its sequence (sql/0013.down.sql)."""
    run_script("0013.down")
