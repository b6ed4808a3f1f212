"""Let plans see an average owner: whether ANALYZE has seen one must not decide how rows are found.

Motive: where ANALYZE lists the owners that it has seen, and few others, one who came since has no rows in the
    planner's eyes. Then all indexes that begin with the owner cost the same, and it may find one row by
    reading all of the owner's. With one entry in the list it takes all others for average ones.
    Pieces of a log are found by two columns, whose shares it multiplies as if they had nothing to do with
    each other. Without statistics of them it takes each value for one in 200.
Phase: pre; no release before it needs them.
Lock: SHARE UPDATE EXCLUSIVE on each table in turn, which no reader or writer waits for.
Duration: a second or less for each table that has statistics, which it analyzes.
Recovery: run it again. Before PostgreSQL 18 only a superuser can remove statistics: for another login, those
    of logs stay as they are now (see the page on operations).

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
    audit_inbox audit_sealed call_argument call_argument_source call_edge call_execution call_job
    call_node call_subtree_task call_task entity_tag entity_tag_edit evaluation handle handle_edge
    idempotency_key interactive_session interactive_session_resource job job_cache job_cache_use
    job_dependency lease log_chunk log_size note owner_limit quota_reservation row_event
    run_counter service service_log service_resource status_change subvalue task_record
    user_resource user_token user_token_last_use user_workflow value value_file workflow
    workflow_progress workflow_resource workflow_result workflow_service workflow_session
    workflow_version workspace_retention_audit_log workspace_retention_rule
""".split()  # noqa: SIM905 # one a line, they hide the rest

# What pieces of a log are found by.
LOGS = (
    ("log_chunk", "owner_id"),
    ("log_chunk", "workflow_id"),
    ("service_log", "owner_id"),
    ("service_log", "service_id"),
)

locks = dict.fromkeys(OWNED, "SHARE UPDATE EXCLUSIVE")


def upgrade() -> None:
    """List one owner, and none of logs; analyze the tables that have longer lists."""
    for table in OWNED:
        op.execute(f"ALTER TABLE platform.{table} ALTER COLUMN owner_id SET STATISTICS 1")
    for table, column in LOGS:
        op.execute(f"ALTER TABLE platform.{table} ALTER COLUMN {column} SET STATISTICS 0")
    if not op.get_context().as_sql:
        _remove(op.get_bind())
    _analyze()


def downgrade() -> None:
    """Let ANALYZE list as many as of any column."""
    for table, column in [*((table, "owner_id") for table in OWNED), *LOGS]:
        op.execute(f"ALTER TABLE platform.{table} ALTER COLUMN {column} SET STATISTICS -1")
    _analyze()


def _remove(connection: sa.Connection) -> None:
    """Remove the statistics of logs, after the locks that keep ANALYZE from storing others."""
    if (connection.dialect.server_version_info or ()) >= (18,):
        for table, column in LOGS:
            connection.execute(_CLEAR, {"table": table, "column": column})
    elif connection.scalar(sa.text("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")):
        connection.execute(_DELETE, {"columns": [f"platform.{table}.{column}" for table, column in LOGS]})


def _analyze() -> None:
    # Not those that are empty: that they were is all that the planner would know of them, for long.
    if not op.get_context().as_sql:
        for table in op.get_bind().scalars(_ANALYZED, {"tables": OWNED}).all():
            op.execute(f"ANALYZE platform.{table}")


_CLEAR = sa.text("SELECT pg_clear_attribute_stats('platform', :table, :column, false)")

_DELETE = sa.text("""
    DELETE FROM pg_catalog.pg_statistic USING pg_catalog.pg_attribute
    WHERE starelid = attrelid AND staattnum = attnum
      AND attrelid::regclass::text || '.' || attname = ANY (:columns)
    """)

_ANALYZED = sa.text("""
    SELECT DISTINCT tablename::text FROM pg_stats WHERE schemaname = 'platform' AND tablename = ANY (:tables)
    """)
