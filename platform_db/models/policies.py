"""Row-level security: one uniform policy on the owner column of every tenant's table.

The policy is everybody's, so that it needs no role, which no migration may make. It compares the column with
the setting ``platform.user_id``; where that is not set, no row is seen and none can be written. The table's
owner is not subject to it (enabled, not forced); the policies of roles that see more are made with the
roles (:mod:`platform_db.tenancy.roles`).
"""

from __future__ import annotations

from platform_db.models.base import Base

TENANT_POLICY = "tenant"

CURRENT_TENANT = "(nullif(current_setting('platform.user_id', true), ''))::uuid"

# As the server tells it back.
STORED_CURRENT_TENANT = "(NULLIF(current_setting('platform.user_id'::text, true), ''::text))::uuid"


def tenant_columns() -> dict[str, str]:
    """Return the column that names the tenant, by table; a user's own row is the user's, too."""
    columns = {
        str(mapper.class_.__tablename__): mapper.class_.tenant_column
        for mapper in Base.registry.mappers
        if mapper.class_.tenant_column is not None
    }
    return dict(sorted({**columns, "user_": "id_"}.items()))


def policy_statements() -> list[str]:
    """Return the statements that enable row-level security and create the tenants' policies."""
    return [
        statement
        for table in tenant_columns()
        for statement in (f"{enable_statement(table)};", f"{policy_statement(table)};")
    ]


def enable_statement(table: str) -> str:
    """Return the statement that enables row-level security on a table."""
    return f"ALTER TABLE platform.{table} ENABLE ROW LEVEL SECURITY"


def policy_statement(table: str) -> str:
    """Return the statement that creates the tenants' policy on a table."""
    column = tenant_columns()[table]
    return f"""\
CREATE POLICY {TENANT_POLICY} ON platform.{table}
    USING ({column} = {CURRENT_TENANT})
    WITH CHECK ({column} = {CURRENT_TENANT})"""
