"""Keep no statistics of owners: a plan must not depend on whether ANALYZE has seen one.

Motive: for an owner who came after the last ANALYZE, statistics say that there are no rows. Then all
    indexes that begin with the owner cost the planner the same, and it may find one row by reading all of the
    owner's. Without statistics it takes every owner to have one row in 200.
Phase: pre; no release before it needs them.
Lock: SHARE UPDATE EXCLUSIVE on each table in turn, which no reader or writer waits for.
Duration: none.
Recovery: run it again. Statistics that were there before can be removed by a superuser alone: for another
    login the columns that have some stay as they are (see the page on operations).

Revision ID: 0014
Revises: 0013
Create Date: 2026-11-27
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None
phase = "pre"

OWNED = """
    audit_inbox audit_sealed call_argument call_argument_source call_edge call_execution call_job call_node
    call_subtree_task call_task entity_tag entity_tag_edit evaluation handle handle_edge
    idempotency_key interactive_session interactive_session_resource job job_cache job_cache_use
    job_dependency lease log_chunk log_size note owner_limit quota_reservation row_event
    run_counter service service_log service_resource status_change subvalue task_record
    user_resource user_token user_token_last_use user_workflow value value_file workflow
    workflow_progress workflow_resource workflow_result workflow_service workflow_session
    workflow_version workspace_retention_audit_log workspace_retention_rule
""".split()  # noqa: SIM905 # one a line, they hide the rest

# What keys begin with: the owner; of pieces of a log, what they are the log of, too.
COLUMNS = [
    *((table, "owner_id") for table in OWNED),
    ("log_chunk", "workflow_id"),
    ("service_log", "service_id"),
]

locks = dict.fromkeys(OWNED, "SHARE UPDATE EXCLUSIVE")


def upgrade() -> None:
    """Keep none from now on, and remove those that there are, where the login may."""
    stays = set() if op.get_context().as_sql else _remove()
    for table, column in COLUMNS:
        if (table, column) not in stays:
            op.execute(f"ALTER TABLE platform.{table} ALTER COLUMN {column} SET STATISTICS 0")


def downgrade() -> None:
    """Keep statistics again, from the next ANALYZE on."""
    for table, column in COLUMNS:
        op.execute(f"ALTER TABLE platform.{table} ALTER COLUMN {column} SET STATISTICS -1")


def _remove() -> set[tuple[str, str]]:
    """Remove the statistics of these columns, and return those that this login may not remove."""
    columns = {"columns": [f"{table}.{column}" for table, column in COLUMNS]}
    connection = op.get_bind()
    if connection.scalar(sa.text("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")):
        connection.execute(_DELETE, columns)
        return set()
    return {(table, column) for table, column in connection.execute(_FIND, columns)}


_DELETE = sa.text("""
    DELETE FROM pg_catalog.pg_statistic
    USING pg_catalog.pg_attribute JOIN pg_catalog.pg_class ON pg_class.oid = attrelid
    WHERE starelid = attrelid AND staattnum = attnum AND relnamespace = 'platform'::regnamespace
      AND relname || '.' || attname = ANY (:columns)
    """)

_FIND = sa.text("""
    SELECT tablename, attname FROM pg_catalog.pg_stats
    WHERE schemaname = 'platform' AND tablename || '.' || attname = ANY (:columns)
    """)
