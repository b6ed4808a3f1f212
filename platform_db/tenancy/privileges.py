"""Who may do what with each object of the schema, as data. Grants, tests and the documentation come from it.

No role may do what is not in it, and PUBLIC may do nothing at all. A table that is not named gets the
privileges of its kind: services and the tenant read and write a tenant's table, services alone any other.
Append-only tables and those with the platform's own state are named.
"""

from __future__ import annotations

import enum

import sqlalchemy as sa

from platform_db.crypto.column import Sealed
from platform_db.models import Base, InteractiveSession
from platform_db.schema.objects import REDUN_VERSIONS, REDUN_VIEWS, tenant_columns
from platform_db.settings import get_settings


class Role(enum.Enum):
    """The roles, and what each is for."""

    service = "Services and cronjobs: sees every tenant's rows."
    tenant = "What a service becomes inside tenant_scope(): sees one tenant's rows, or none."
    readonly = "People and dashboards: reads every tenant's rows, but no secret."
    auditor = "Auditors: reads the audit log, its seals and the history, and nothing else."


def role_name(role: Role) -> str:
    """Return the role's name on the server, which begins with the prefix of the settings."""
    return f"{get_settings().role_prefix}_{role.name}"


READ = ("SELECT",)
APPEND = ("SELECT", "INSERT")
CHANGE = ("SELECT", "INSERT", "UPDATE")
ALL = ("SELECT", "INSERT", "UPDATE", "DELETE")

Verbs = tuple[str, ...]

# What is not a table, by its kind. Internal functions are called by triggers, which takes no privilege, or
# run with their owner's rights: in a trigger on another table they could erase a history.
OTHERS: dict[str, dict[Role, Verbs]] = {
    "database": dict.fromkeys(Role, ("CONNECT",)),
    "schema": dict.fromkeys(Role, ("USAGE",)),
    # Readers of events ask for the last number.
    "sequence": {Role.service: ("USAGE",), Role.tenant: ("USAGE",), Role.readonly: READ},
    "function": dict.fromkeys((Role.service, Role.tenant), ("EXECUTE",)),
    "internal function": {},
    # They run with their owner's rights, and tell of no tenant.
    "reading function": dict.fromkeys((Role.service, Role.readonly), ("EXECUTE",)),
    # It moves rows of the audit log. All that it changes is an id that another row has.
    "sealing function": {Role.service: ("EXECUTE",)},
    # They make and empty partitions of logs, which services may delete row by row.
    "partitioning function": {Role.service: ("EXECUTE",)},
    # Of the numbers of histories, and of where rows are. With the owner's rights on several machines alone.
    "common function": dict.fromkeys((Role.service, Role.tenant, Role.readonly), ("EXECUTE",)),
    "type": {},
    # A table's policies do not hold for who reads a partition of it directly.
    "partition": {},
    "default privileges": {},
}

CALLED_AS_OWNER = {
    "reading": ("estimate_runs",),
    "sealing": ("collect_audit_rows",),
    "partitioning": ("add_log_partitions", "clear_log_partition"),
    "common": (
        "first_id_at",
        "hold_shards",
        "last_number",
        "log_partitions",
        "on_shards",
        "settled_number",
        "time_of_id",
    ),
}
"""The functions that other roles may call, most of them with their owner's rights, by kind."""

_TENANTS_TABLE: dict[Role, Verbs] = {Role.service: ALL, Role.tenant: ALL, Role.readonly: READ}

_PLATFORMS_TABLE: dict[Role, Verbs] = {Role.service: ALL, Role.readonly: READ}

_COUNTED = ("measured_at", "quota_pruned", "quota_reserved", "quota_used")

# Each by name: a role that comes later reads only what it is given.
_READ_BY_ALL: dict[Role, Verbs] = dict.fromkeys(
    (Role.service, Role.tenant, Role.readonly, Role.auditor), READ
)

_APPENDED_BY_SERVICES: dict[Role, Verbs] = {**_READ_BY_ALL, Role.service: APPEND, Role.tenant: APPEND}

# Sealed columns, and the one that hands over further digests, are left out.
_WITHOUT_SECRET = tuple(
    f"SELECT ({column.name})"
    for column in sorted(InteractiveSession.__table__.columns, key=lambda column: column.name)
    if not isinstance(column.type, Sealed | sa.ARRAY)
)

_SPECIAL: dict[str, dict[Role, Verbs]] = {
    "user_": {Role.service: ALL, Role.tenant: ("SELECT", "UPDATE"), Role.readonly: READ},
    "user_token": {Role.service: ALL, Role.tenant: ALL},
    "interactive_session": {Role.service: ALL, Role.tenant: ALL, Role.readonly: _WITHOUT_SECRET},
    "user_token_last_use": {Role.service: ALL, Role.tenant: CHANGE, Role.readonly: READ},
    "resource": {Role.service: ALL, Role.tenant: READ, Role.readonly: READ},
    # Written by the database alone: the digests of secrets, by which services find an interactive session.
    "secret_digest": {Role.service: READ},
    # What the guard lets through beyond the states; its owner decides.
    "extra_transition": _READ_BY_ALL,
    # A tenant's session counts what is used and reserved; limits and periods are the platform's to set.
    "user_resource": {
        Role.service: ALL,
        Role.tenant: (*READ, *(f"UPDATE ({column})" for column in _COUNTED)),
        Role.readonly: READ,
    },
    # A user's row comes with the user; turns and limits are the platform's.
    "owner_limit": {
        Role.service: ("SELECT", "UPDATE"),
        Role.tenant: READ,
        Role.readonly: READ,
    },
    # A view, which shows what its reader may read of the tables.
    "activity": {Role.service: READ, Role.tenant: READ, Role.readonly: READ},
    "run_counter": {Role.service: ALL, Role.tenant: CHANGE, Role.readonly: READ},
    # Written by the database alone.
    "workflow_progress": dict.fromkeys((Role.service, Role.tenant, Role.readonly), READ),
    # Append-only. What is pruned by age is pruned by services.
    "log_chunk": {Role.service: ("SELECT", "INSERT", "DELETE"), Role.tenant: APPEND, Role.readonly: READ},
    "service_log": {Role.service: ("SELECT", "INSERT", "DELETE"), Role.tenant: APPEND, Role.readonly: READ},
    "workflow_version": {
        Role.service: ("SELECT", "INSERT", "DELETE"),
        Role.tenant: APPEND,
        Role.readonly: READ,
    },
    "status_change": {**_READ_BY_ALL, Role.service: ("SELECT", "DELETE")},
    "row_event": {**_READ_BY_ALL, Role.service: ("SELECT", "DELETE")},
    "workspace_retention_audit_log": _READ_BY_ALL,
    # The audit log is a view. Its owner alone moves rows, by a function, and removes what is old.
    "audit_log": _APPENDED_BY_SERVICES,
    "audit_inbox": _APPENDED_BY_SERVICES,
    "audit_sealed": _READ_BY_ALL,
    "audit_seal": {Role.service: APPEND, Role.readonly: READ, Role.auditor: READ},
    "audit_seal_digests": {Role.service: APPEND, Role.readonly: READ, Role.auditor: READ},
    # Its row is a lock, which takes the right to update it.
    "audit_chain": {Role.service: CHANGE},
    # Alembic's own, which no model speaks of: telling whether the schema is current takes reading it.
    "alembic_version": {Role.service: READ, Role.readonly: READ, Role.auditor: READ},
}


def privileges() -> dict[str, dict[Role, Verbs]]:
    """Return what each role may do with each table, and with each view of the schema ``redun``."""
    tenants = tenant_columns()
    tables = sorted({*(table.name for table in Base.metadata.tables.values()), *_SPECIAL})
    return {
        **{
            table: _SPECIAL.get(table, _TENANTS_TABLE if table in tenants else _PLATFORMS_TABLE)
            for table in tables
        },
        # With its reader's rights on the tables, and rows of the transaction's tenant alone.
        **{f"redun.{view}": _TENANTS_TABLE for view in REDUN_VIEWS},
        **{f"redun.{view}": dict.fromkeys(_TENANTS_TABLE, READ) for view in REDUN_VERSIONS},
    }


def sees_every_tenant() -> dict[str, dict[Role, str]]:
    """Return, by table, which roles have a policy, of their name, that shows every row, for what command."""
    granted = privileges()
    return {
        table: {
            role: "ALL" if role is Role.service else "SELECT"
            for role in Role
            if role is not Role.tenant and role in granted[table]
        }
        for table in tenant_columns()
    }
