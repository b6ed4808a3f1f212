"""Seal the audit log, keep it append-only, and separate tenants by row-level security.

Motive: a changed audit log must be evident, and a forgotten WHERE must not reach another tenant's rows.
Lock: ACCESS EXCLUSIVE on audit_log while it is rewritten with its new column and indexes; on every other
tenant table for an instant, to enable row-level security and to create the triggers that record. Duration:
about a second per 100,000 audit rows; below a second without them. Recovery: run it again; it is one
transaction. Afterwards run ``platform-db roles create`` and ``platform-db roles grant``: until then a login
that does not own the tables sees none of the tenants' rows.

Revision ID: 0004
Revises: 0003
Create Date: 2026-11-21
"""

from __future__ import annotations

from alembic import op

from platform_db.migrations.sql import drop_created, read_statements, run_scripts

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Number the audit rows, and create the seals, the triggers and the policies."""
    run_scripts(revision)


def downgrade() -> None:
    """Drop the policies, the triggers and the seals; the audit rows stay, without their numbers."""
    for statement in read_statements(revision):
        words = statement.split()
        if words[:2] == ["CREATE", "POLICY"]:
            op.execute(f"DROP POLICY IF EXISTS {words[2]} ON {words[4]}")
        elif words[-4:] == ["ENABLE", "ROW", "LEVEL", "SECURITY"]:
            # With it go the policies that `platform-db roles grant` has made.
            op.execute(_DROP_POLICIES.format(table=words[2]).replace(":", r"\:"))
            op.execute(f"ALTER TABLE {words[2]} DISABLE ROW LEVEL SECURITY")
    for table, name in (
        ("audit_log", "assign_transaction_id"),
        ("audit_log", "refuse_change"),
        ("audit_log", "keep_audit_rows"),
        ("status_change", "record_guard_override"),
        ("user_", "record_creation"),
        ("user_", "record_deletion"),
        ("user_resource", "record_quota_limit"),
        ("user_workflow", "record_share"),
        ("user_workflow", "record_unshare"),
    ):
        op.execute(f"DROP TRIGGER {name} ON platform.{table}")
    for column in ("actor_id", "request_id", "address", "service"):
        op.execute(f"ALTER TABLE platform.audit_log ALTER COLUMN {column} DROP DEFAULT")
    op.execute("ALTER TABLE platform.audit_log DROP COLUMN number")  # its indexes go with it
    for columns in ("user_id, created", "actor_id, created", "action, created", "created"):
        name = columns.replace(", ", "_")
        op.execute(f"CREATE INDEX ix_audit_log_{name} ON platform.audit_log ({columns})")
    drop_created(revision)


_DROP_POLICIES = """
    DO $$
    DECLARE
        policy record;
    BEGIN
        FOR policy IN SELECT polname FROM pg_policy WHERE polrelid = '{table}'::regclass LOOP
            EXECUTE 'DROP POLICY ' || quote_ident(policy.polname) || ' ON {table}';
        END LOOP;
    END
    $$
"""
