"""In what a database differs from the table of privileges, and from what keeps tenants apart.

Everything is compared as the server's catalogues tell it: what each role and everybody may do, the policies
with their expressions, whether row-level security is on at all, and what the roles are on the server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.schema.objects import (
    TENANT_POLICY,
    policy_statement,
    tenant_columns,
)
from platform_db.tenancy.privileges import COUNTING, Role, Verbs, policy_name, privileges, sees_every_tenant

# As the server tells it back.
STORED_CURRENT_TENANT = "(NULLIF(current_setting('platform.user_id'::text, true), ''::text))::uuid"

_Key = tuple[str, str]

EVERYBODY = "PUBLIC"

_SCHEMA_ITSELF = "schema platform"

_SERVER = "the server"

_GRANT = "platform-db roles grant"


@dataclass(frozen=True)
class Difference:
    """Something in which the database differs from what it should be.

    :ivar table: the table, sequence or other object.
    :ivar role: the role or policy.
    :ivar mend: the command or the SQL that puts it right.
    """

    table: str
    role: str
    expected: str
    found: str
    mend: str


def differences(session: Session) -> list[Difference]:
    """Return in what the database differs from the table of privileges, and from what keeps tenants apart."""
    return [
        *_compare(_expected_grants(session), _found_grants(session), lambda key: _GRANT),
        *_compare(_expected_security(), _found_security(session), _mend_security),
        *_compare(_expected_policies(), _found_policies(session), _mend_policy),
        *_compare(_EXPECTED_MEMBERSHIPS, _found_memberships(session), _mend_membership),
        *_compare({}, _found_attributes(session), _mend_attributes),
    ]


def describe(found: list[Difference]) -> str:
    """Return a line that tells of the first difference, how to mend it, and how many there are."""
    first = found[0]
    return (
        f"the database differs in {len(found)} place{'s' if len(found) > 1 else ''}: on {first.table},"
        f" {first.role} has {first.found} instead of {first.expected}; mend it by: {first.mend}"
    )


def read_grants(session: Session) -> dict[_Key, Verbs]:
    """Return what the database grants the roles and everybody, by table, sequence or schema, and role."""
    return {(row.name, row.role): tuple(row.verbs) for row in session.execute(_READ_GRANTS)}


def _compare(
    expected: Mapping[_Key, str], found: Mapping[_Key, str], mend: Callable[[_Key], str]
) -> list[Difference]:
    return [
        Difference(*key, expected.get(key, "nothing"), found.get(key, "nothing"), mend(key))
        for key in sorted({*expected, *found})
        if expected.get(key) != found.get(key)
    ]


# -- privileges


def _expected_grants(session: Session) -> dict[_Key, str]:
    sequences = session.execute(_READ_SEQUENCES).scalars().all()
    return {
        **{(_SCHEMA_ITSELF, role.value): "USAGE" for role in Role},
        **{(sequence, role.value): "USAGE" for sequence in sequences for role in COUNTING},
        **{
            (table, role.value): _listed(verbs)
            for table, by_role in privileges().items()
            for role, verbs in by_role.items()
        },
    }


def _found_grants(session: Session) -> dict[_Key, str]:
    return {key: _listed(verbs) for key, verbs in read_grants(session).items()}


def _listed(verbs: Verbs) -> str:
    return ", ".join(sorted(verbs))


# -- row-level security


def _expected_security() -> dict[_Key, str]:
    return {(table, "everybody"): "row-level security" for table in tenant_columns()}


def _found_security(session: Session) -> dict[_Key, str]:
    return {(row.relname, "everybody"): row.security for row in session.execute(_READ_SECURITY)}


def _mend_security(key: _Key) -> str:
    table = key[0]
    if table in tenant_columns():
        return f"ALTER TABLE platform.{table} ENABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY"
    return f"ALTER TABLE platform.{table} DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY"


def _expected_policies() -> dict[_Key, str]:
    policies = {
        (table, f"policy {policy_name(role)}"): _policy(
            role.value, command, "true", "true" if command == "ALL" else None
        )
        for table, commands in sees_every_tenant().items()
        for role, command in commands.items()
    }
    for table, column in tenant_columns().items():
        own = f"({column} = {STORED_CURRENT_TENANT})"
        policies[table, f"policy {TENANT_POLICY}"] = _policy("public", "ALL", own, own)
    return policies


def _found_policies(session: Session) -> dict[_Key, str]:
    return {
        (row.tablename, f"policy {row.policyname}"): _policy(
            ", ".join(sorted(row.roles)), row.cmd, row.qual, row.with_check, permissive=row.permissive
        )
        for row in session.execute(_READ_POLICIES)
    }


def _policy(
    roles: str, command: str, using: str | None, check: str | None, *, permissive: str = "PERMISSIVE"
) -> str:
    return f"{permissive} FOR {command} TO {roles} USING {using} WITH CHECK {check}"


def _mend_policy(key: _Key) -> str:
    table, name = key[0], key[1].removeprefix("policy ")
    if name in {policy_name(role) for role in sees_every_tenant().get(table, ())}:
        return _GRANT
    drop = f'DROP POLICY IF EXISTS "{name}" ON platform.{table}'
    if name == TENANT_POLICY and table in tenant_columns():
        return f"{drop}; {' '.join(policy_statement(table, tenant_columns()[table]).split())}"
    return drop


# -- what the roles are on the server


def _found_memberships(session: Session) -> dict[_Key, str]:
    return {
        (f"the role {row.member}", f"membership in {row.role}"): "a member"
        for row in session.execute(_READ_MEMBERSHIPS)
    }


_EXPECTED_MEMBERSHIPS = {(f"the role {Role.service.value}", f"membership in {Role.tenant.value}"): "a member"}


def _mend_membership(key: _Key) -> str:
    if key in _EXPECTED_MEMBERSHIPS:
        return "platform-db roles create"
    member, role = key[0].removeprefix("the role "), key[1].removeprefix("membership in ")
    return f'REVOKE "{role}" FROM {member}'


def _found_attributes(session: Session) -> dict[_Key, str]:
    return {(_SERVER, row.rolname): row.attributes for row in session.execute(_READ_ATTRIBUTES)}


def _mend_attributes(key: _Key) -> str:
    return f"ALTER ROLE {key[1]} NOSUPERUSER NOBYPASSRLS"


_NAMES = ", ".join(f"'{role.value}'" for role in Role)

_OF_SCHEMA = "relnamespace = 'platform'::regnamespace"

_READ_SEQUENCES = sa.text(f"SELECT relname FROM pg_class WHERE relkind = 'S' AND {_OF_SCHEMA}")

# Privileges on single columns, too. Grantee 0 is everybody.
_READ_GRANTS = sa.text(
    f"""
    SELECT name, coalesce(rolname, '{EVERYBODY}') AS role, array_agg(verb ORDER BY verb) AS verbs
    FROM (
        SELECT relname AS name, grantee, privilege_type AS verb
        FROM pg_class CROSS JOIN LATERAL aclexplode(relacl)
        WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND {_OF_SCHEMA}
        UNION
        SELECT relname, grantee, privilege_type || ' (' || attname || ')'
        FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid CROSS JOIN LATERAL aclexplode(attacl)
        WHERE {_OF_SCHEMA}
        UNION
        SELECT '{_SCHEMA_ITSELF}', grantee, privilege_type
        FROM pg_namespace CROSS JOIN LATERAL aclexplode(nspacl) WHERE nspname = 'platform'
    ) AS granted LEFT JOIN pg_roles ON pg_roles.oid = grantee
    WHERE grantee = 0 OR rolname IN ({_NAMES})
    GROUP BY name, rolname
    """
)

_READ_SECURITY = sa.text(
    f"""
    SELECT relname,
           CASE WHEN relforcerowsecurity THEN 'forced ' ELSE '' END
           || CASE WHEN relrowsecurity THEN 'row-level security' ELSE 'but disabled row-level security' END
           AS security
    FROM pg_class
    WHERE relkind IN ('r', 'p') AND (relrowsecurity OR relforcerowsecurity) AND {_OF_SCHEMA}
    """
)

_READ_POLICIES = sa.text(
    "SELECT tablename, policyname, permissive, roles::text[] AS roles, cmd, qual, with_check"
    " FROM pg_policies WHERE schemaname = 'platform'"
)

_READ_MEMBERSHIPS = sa.text(
    f"""
    SELECT DISTINCT member.rolname AS member, role.rolname AS role
    FROM pg_auth_members
    JOIN pg_roles AS member ON member.oid = pg_auth_members.member
    JOIN pg_roles AS role ON role.oid = roleid
    WHERE member.rolname IN ({_NAMES})
    """
)

_READ_ATTRIBUTES = sa.text(
    f"""
    SELECT rolname, concat_ws(', ', CASE WHEN rolsuper THEN 'SUPERUSER' END,
                              CASE WHEN rolbypassrls THEN 'BYPASSRLS' END) AS attributes
    FROM pg_roles WHERE (rolsuper OR rolbypassrls) AND rolname IN ({_NAMES})
    """
)
