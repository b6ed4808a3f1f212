"""Count logs, find what committed late, prune without a trace, and vacuum what is hot.

Motive: a size limit of logs needs a counter; a reader that pages on must not miss what a slow transaction
    commits behind it; pruning deleted runs needs an index, and leaves neither
    history of what is gone nor a refund of its processing time; heartbeats must be HOT updates, so their
    index goes; hot tables are vacuumed long before a fifth of them is dead.
Lock: ACCESS EXCLUSIVE on lease and on the tables that are given a column, for an instant each: the default is
    a constant at first, so no row is rewritten. The indexes on workflow and log_chunk are built concurrently.
Duration: below a second, and the time to read workflow and log_chunk.
Recovery: run it again. The indexes come first, with the column that one of them needs, and one that was left
    half-built is dropped before; all the rest is one transaction.

Revision ID: 0005
Revises: 0004
Create Date: 2026-11-21
"""

from __future__ import annotations

import re

from alembic import op

from platform_db.migrations.sql import read_statements, run_scripts

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

HOT_TABLES = ("lease", "job_cache_use", "run_counter", "user_resource", "workflow", "job")
GROWING_TABLES = ("status_change", "note", "log_chunk")


def upgrade() -> None:
    """Add the counter, the transactions, the triggers, the settings and the index."""
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS platform.ix_workflow_deleted")
        op.execute(
            "CREATE INDEX CONCURRENTLY ix_workflow_deleted"
            " ON platform.workflow (id_) WHERE status = 'deleted'"
        )
        op.execute(
            "ALTER TABLE platform.log_chunk ADD COLUMN IF NOT EXISTS transaction_id BIGINT DEFAULT 0 NOT NULL"
        )
        op.execute(
            "DROP INDEX CONCURRENTLY IF EXISTS platform.ix_log_chunk_owner_id_workflow_id_transaction_id"
        )
        op.execute(
            "CREATE INDEX CONCURRENTLY ix_log_chunk_owner_id_workflow_id_transaction_id"
            " ON platform.log_chunk (owner_id, workflow_id, transaction_id)"
        )
    run_scripts(revision)


def downgrade() -> None:
    """Take all of it back."""
    op.execute("DROP INDEX platform.ix_workflow_deleted")
    op.execute("DROP TABLE platform.log_size")
    for statement in read_statements(revision):
        if found := re.match(r"CREATE FUNCTION (platform\.forget_\w+)\(\)", statement):
            op.execute(f"DROP FUNCTION {found[1]} CASCADE")  # and its trigger
    op.execute("ALTER TABLE platform.user_resource DROP COLUMN quota_pruned")
    for table in GROWING_TABLES:
        op.execute(f"ALTER TABLE platform.{table} DROP COLUMN transaction_id")
    op.execute("CREATE INDEX ix_lease_heartbeat_at ON platform.lease (heartbeat_at)")
    for table in (*HOT_TABLES, *GROWING_TABLES):
        op.execute(
            f"ALTER TABLE platform.{table} RESET (autovacuum_vacuum_scale_factor,"
            " autovacuum_vacuum_threshold, autovacuum_vacuum_insert_scale_factor,"
            " autovacuum_analyze_scale_factor)"
        )
