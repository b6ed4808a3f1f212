"""How a database differs from the table of privileges, and from what keeps tenants apart.

Everything is compared as the server's catalogues tell it: what each role and everybody may do with each
object of the schema, who owns it, the policies with their expressions, whether row-level security is on at
all, and what the roles and their members are on the server. The schema's owner and superusers are left out:
nothing keeps them from any row.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.database.distribution import IS_DISTRIBUTED
from platform_db.schema.objects import (
    PARTITIONS,
    SCHEMAS,
    TENANT_POLICY,
    policy_statement,
    qualified,
    tenant_columns,
)
from platform_db.tenancy.privileges import (
    CALLED_AS_OWNER,
    OTHERS,
    Role,
    Verbs,
    privileges,
    role_name,
    sees_every_tenant,
)

# As the server tells it back.
STORED_CURRENT_TENANT = "(NULLIF(current_setting('platform.user_id'::text, true), ''::text))::uuid"

_Key = tuple[str, str]
_Seen = Mapping[str, Mapping[Role, str]]  # what sees_every_tenant returns

MARK = "used through roles: platform-db roles grant"
"""The comment on the schema that tells so, in a dump too."""

_MARKED = ("the schema", "the comment")
_EXPECTED_MARK = {_MARKED: MARK}

EVERYBODY = "PUBLIC"

_DEFAULT = "default privileges"

_GRANT = "platform-db roles grant"


@dataclass(frozen=True)
class Difference:
    """A difference between the database and what it should be.

    :ivar table: the table or other object.
    :ivar role: the role or policy.
    :ivar mend: the command or the SQL that puts it right.
    """

    table: str
    role: str
    expected: str
    found: str
    mend: str


def differences(session: Session) -> list[Difference]:
    """Return how the database differs from the table of privileges, and from what keeps tenants apart."""
    granted = read_grants(session)
    security = dict.fromkeys(((table, "everybody") for table in tenant_columns()), "row-level security")
    seen = sees_every_tenant()
    return [
        *_compare(_listed(_expected_grants(granted)), _listed(granted), _mend_grant),
        *_compare(security, _found(session, _READ_SECURITY), _mend_security),
        *_compare(
            _expected_policies(seen), _found(session, _READ_POLICIES), functools.partial(_mend_policy, seen)
        ),
        *_compare(_expected_memberships(), _found(session, _READ_MEMBERSHIPS), _mend_membership),
        *_compare(
            _EXPECTED_MARK, {} if (mark := _mark(session)) is None else {_MARKED: mark}, lambda _: _GRANT
        ),
        *(
            Difference(row.on_, row.role, "nothing", row.found, row.mend)
            for query in (_READ_OWNERS, _READ_SHADOWING, _READ_ATTRIBUTES)
            for row in session.execute(query, {"names": _names(), "tenant": role_name(Role.tenant)})
        ),
    ]


def uses_roles(session: Session) -> bool:
    """Tell whether this database is used through the roles; where one login does all, it is not.

    Their privileges are lost by a restore on a server without the roles, and the mark is not.
    """
    names = set(_names())
    return _mark(session) is not None or any(
        by_role.keys() & names for by_role in read_grants(session).values()
    )


def as_error(found: list[Difference], *, before: str = "") -> errors.RolesMissing:
    """Return the error that tells of the first difference, how many there are, and how to mend the first.

    :param before: what the message begins with.
    """
    first = found[0]
    return errors.RolesMissing(
        f"{before}the database differs in {len(found)} place{'s' if len(found) > 1 else ''}:"
        f" on {first.table}, {first.role} has {first.found} instead of {first.expected}",
        hint=f"run: {first.mend}",
    )


def _mark(session: Session) -> str | None:
    mark: str | None = session.execute(_READ_MARK).scalar_one()
    return mark if mark == MARK else None


def read_grants(session: Session) -> dict[_Key, dict[str, Verbs]]:
    """Return what each role and everybody may do, by kind and name of each object, and role.

    The database itself is left out where its owner is another login, which alone can change it. What other
    roles than ours may do with it is its owner's to say.
    """
    granted: dict[_Key, dict[str, Verbs]] = {}
    for kind, name, role, verb in session.execute(_READ_GRANTS, {"names": _names()}):
        by_role = granted.setdefault((kind, name), {})
        if role is not None:
            by_role[role] = (*by_role.get(role, ()), verb)
    return granted


def _compare(
    expected: Mapping[_Key, str], found: Mapping[_Key, str], mend: Callable[[_Key], str]
) -> list[Difference]:
    return [
        Difference(*key, expected.get(key, "nothing"), found.get(key, "nothing"), mend(key))
        for key in sorted({*expected, *found})
        if expected.get(key) != found.get(key)
    ]


def _found(session: Session, query: sa.TextClause) -> dict[_Key, str]:
    return {(on, name): state for on, name, state in session.execute(query, {"names": _names()})}


# -- privileges


def _expected_grants(granted: Mapping[_Key, object]) -> dict[_Key, dict[str, Verbs]]:
    expected = {(kind, name): OTHERS[kind] for kind, name in granted if kind != "table"}
    expected |= {("table", name): by_role for name, by_role in privileges().items()}
    return {key: {role_name(role): by_role[role] for role in by_role} for key, by_role in expected.items()}


def _listed(granted: Mapping[_Key, Mapping[str, Verbs]]) -> dict[_Key, str]:
    return {
        (name if kind == "table" else f"{kind} {name}", role): ", ".join(sorted(verbs))
        for (kind, name), by_role in granted.items()
        for role, verbs in by_role.items()
    }


def _mend_grant(key: _Key) -> str:
    label, role = key
    if label.startswith(_DEFAULT):
        whose, _, kind = label.removeprefix(_DEFAULT).rpartition(" ON ")
        return f"ALTER DEFAULT PRIVILEGES{whose} REVOKE ALL ON {kind} FROM {role}"
    if role in (EVERYBODY, *_names()):
        return _GRANT
    for kind_of_function in ("internal", *CALLED_AS_OWNER):
        label = label.removeprefix(f"{kind_of_function} ")
    kind, _, name = label.partition(" ")
    objects = {"": f"TABLE {qualified(kind)}", **{schema: f"SCHEMA {schema}" for schema in SCHEMAS}}
    if kind == "partition":
        objects[name] = f"{'TABLE' if '.' in name else 'SCHEMA'} {name}"
    object_ = objects.get(name, f"{kind.upper().replace('FUNCTION', 'ROUTINE')} platform.{name}")
    return f"REVOKE ALL ON {object_} FROM {role} CASCADE"


# -- row-level security


def _mend_security(key: _Key) -> str:
    verb = "ENABLE" if key[0] in tenant_columns() else "DISABLE"
    return f"ALTER TABLE platform.{key[0]} {verb} ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY"


def _expected_policies(seen: _Seen) -> dict[_Key, str]:
    policies = {
        (table, f"policy {role.name}"): _policy(role_name(role), command, "true")
        for table, commands in seen.items()
        for role, command in commands.items()
    }
    for table, column in tenant_columns().items():
        own = f"({column} = {STORED_CURRENT_TENANT})"
        policies[table, f"policy {TENANT_POLICY}"] = _policy("public", "ALL", own)
    return policies


def _policy(role: str, command: str, using: str) -> str:
    check = using if command == "ALL" else None
    return f"PERMISSIVE FOR {command} TO {role} USING {using} WITH CHECK {check}"


def _mend_policy(seen: _Seen, key: _Key) -> str:
    table, name = key[0], key[1].removeprefix("policy ")
    if name in {role.name for role in seen.get(table, ())}:
        return _GRANT
    drop = f'DROP POLICY IF EXISTS "{name}" ON platform.{table}'
    if name == TENANT_POLICY and table in tenant_columns():
        return f"{drop}; {' '.join(policy_statement(table, tenant_columns()[table]).split())}"
    return drop


# -- what the roles are on the server


def _expected_memberships() -> dict[_Key, str]:
    service, tenant = role_name(Role.service), role_name(Role.tenant)
    return {(f"the role {service}", f"membership in {tenant}"): "a member"}


def _mend_membership(key: _Key) -> str:
    if key in _expected_memberships():
        return "platform-db roles create"
    member, role = key[0].removeprefix("the role "), key[1].removeprefix("membership in ")
    return f'REVOKE "{role}" FROM {member}'


def _names() -> list[str]:
    return [role_name(role) for role in Role]


_OF_SCHEMA = "relnamespace = 'platform'::regnamespace"

# Some are missing where nothing is migrated yet.
_OURS = "({})".format(", ".join(f"to_regnamespace('{schema}')" for schema in (*SCHEMAS, PARTITIONS)))

_IN_OURS = f"relnamespace IN {_OURS}"

_CALLED = " ".join(
    f"WHEN proname = '{name}' THEN '{kind} '" for kind, names in CALLED_AS_OWNER.items() for name in names
)

_KIND = f"""CASE WHEN relkind = 'S' THEN 'sequence'
              WHEN relnamespace = to_regnamespace('{PARTITIONS}') THEN 'partition' ELSE 'table' END"""

_PREFIX = "nullif(relnamespace::regnamespace || '.', 'platform.')"

_OWNER = "(SELECT nspowner FROM pg_namespace WHERE nspname = 'platform')"

# Each object with what is granted on it, if anything. Grantee 0 is everybody; acldefault() is what holds
# where nothing was ever granted or revoked.
_READ_GRANTS = sa.text(f"""
    SELECT kind, name, role, verb
    FROM (
        SELECT {_KIND} AS kind, concat({_PREFIX}, relname) AS name, NULL AS column_name,
               relacl AS acl, relowner AS owner
        FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND {_IN_OURS}
        UNION ALL
        SELECT {_KIND}, concat({_PREFIX}, relname), attname::text, attacl, relowner
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        WHERE {_IN_OURS} AND attacl IS NOT NULL
        UNION ALL
        SELECT CASE {_CALLED}
                    WHEN prosecdef OR prorettype = 'trigger'::regtype THEN 'internal ' ELSE '' END
               || 'function', proname || '(' || pg_get_function_identity_arguments(oid) || ')', NULL,
               coalesce(proacl, acldefault('f', proowner)), proowner
        FROM pg_proc WHERE pronamespace = 'platform'::regnamespace
        UNION ALL
        SELECT 'type', typname, NULL, coalesce(typacl, acldefault('T', typowner)), typowner
        FROM pg_type WHERE typnamespace = 'platform'::regnamespace AND typcategory <> 'A'
        UNION ALL
        SELECT CASE nspname WHEN '{PARTITIONS}' THEN 'partition' ELSE 'schema' END, nspname, NULL, nspacl,
               nspowner
        FROM pg_namespace WHERE oid IN {_OURS}
        UNION ALL
        SELECT 'database', 'itself', NULL, coalesce(datacl, acldefault('d', datdba)), datdba
        FROM pg_database WHERE datname = current_database() AND pg_has_role(datdba, 'USAGE')
        UNION ALL
        SELECT '{_DEFAULT}', 'FOR ROLE ' || defaclrole::regrole
               || CASE defaclnamespace WHEN 0 THEN '' ELSE ' IN SCHEMA ' || defaclnamespace::regnamespace END
               || ' ON ' || CASE defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES'
                            WHEN 'f' THEN 'FUNCTIONS' WHEN 'T' THEN 'TYPES' END, NULL, defaclacl, defaclrole
        FROM pg_default_acl
        WHERE defaclnamespace IN {_OURS}
           OR (defaclnamespace = 0 AND defaclobjtype IN ('r', 'S'))
    ) AS object
    LEFT JOIN LATERAL (
        SELECT coalesce(quote_ident(rolname), '{EVERYBODY}') AS role,
               privilege_type || coalesce(' (' || column_name || ')', '')
               || CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END AS verb
        FROM aclexplode(acl) LEFT JOIN pg_roles ON pg_roles.oid = grantee
        WHERE grantee = 0 OR rolname = ANY (:names)
           OR (kind <> 'database' AND grantee NOT IN (owner, {_OWNER}) AND NOT rolsuper)
    ) AS granted ON true
    """)

# What belongs to another than the schema's owner is that role's to change, whatever is granted on it.
_READ_OWNERS = sa.text(f"""
    SELECT name AS on_, quote_ident(rolname) AS role, 'ownership' AS found,
           'ALTER ' || word || CASE WHEN word = 'SCHEMA' OR name LIKE '%.%' THEN ' ' ELSE ' platform.' END
           || name || ' OWNER TO ' || {_OWNER}::regrole AS mend
    FROM (
        SELECT 'SCHEMA' AS word, nspname AS name, nspowner AS owner FROM pg_namespace WHERE oid IN {_OURS}
        UNION ALL
        SELECT 'TABLE', concat({_PREFIX}, quote_ident(relname)), relowner
        FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND {_IN_OURS}
        UNION ALL
        SELECT 'ROUTINE', quote_ident(proname) || '(' || pg_get_function_identity_arguments(oid) || ')',
               proowner
        FROM pg_proc WHERE pronamespace = 'platform'::regnamespace
        UNION ALL
        SELECT 'TYPE', quote_ident(typname), typowner
        FROM pg_type
        WHERE typnamespace = 'platform'::regnamespace AND typrelid = 0 AND typcategory <> 'A'
    ) AS object JOIN pg_roles ON pg_roles.oid = owner
    WHERE owner <> {_OWNER} AND NOT rolsuper ORDER BY name
    """)

# A function there may stand in for one of the server's in a statement that does not name the schema.
_READ_SHADOWING = sa.text(f"""
    SELECT 'schema public' AS on_, role, 'CREATE' AS found,
           'REVOKE CREATE ON SCHEMA public FROM ' || role AS mend
    FROM pg_namespace CROSS JOIN LATERAL aclexplode(nspacl) LEFT JOIN pg_roles ON pg_roles.oid = grantee
    CROSS JOIN LATERAL (SELECT coalesce(quote_ident(rolname), '{EVERYBODY}') AS role) AS grantee_
    WHERE nspname = 'public' AND privilege_type = 'CREATE' AND rolsuper IS NOT TRUE
      AND grantee NOT IN (nspowner, {_OWNER}, 'pg_database_owner'::regrole)
    """)

# Of the roles and of their members: a login keeps its attributes while it acts as a role. Citus logs in to
# other nodes as the tenants' role.
_READ_ATTRIBUTES = sa.text(f"""
    SELECT 'the server' AS on_, quote_ident(rolname) AS role, string_agg(attribute, ', ') AS found,
           'ALTER ROLE ' || quote_ident(rolname) || ' ' || string_agg('NO' || attribute, ' ') AS mend
    FROM pg_roles CROSS JOIN LATERAL (
        VALUES (rolsuper, 'SUPERUSER'), (rolbypassrls, 'BYPASSRLS'), (rolcreaterole, 'CREATEROLE'),
               (rolcreatedb, 'CREATEDB'), (rolreplication, 'REPLICATION'),
               (rolcanlogin AND rolname = ANY (:names)
                AND NOT (rolname = :tenant AND {IS_DISTRIBUTED}), 'LOGIN')
    ) AS has (it, attribute)
    WHERE it AND oid <> {_OWNER} AND EXISTS (
        SELECT FROM pg_roles AS ours
        WHERE ours.rolname = ANY (:names)
          AND (pg_roles.oid = ours.oid
               OR CASE WHEN pg_roles.rolsuper  -- of which each role seems to be a member
                  THEN EXISTS (SELECT FROM pg_auth_members WHERE roleid = ours.oid AND member = pg_roles.oid)
                  ELSE pg_has_role(pg_roles.oid, ours.oid, 'USAGE') END))
    GROUP BY rolname ORDER BY rolname
    """)

_READ_MARK = sa.text("SELECT obj_description(to_regnamespace('platform'), 'pg_namespace')")

_READ_SECURITY = sa.text(f"""
    SELECT relname, 'everybody',
           CASE WHEN relforcerowsecurity THEN 'forced ' ELSE '' END
           || CASE WHEN relrowsecurity THEN 'row-level security' ELSE 'but disabled row-level security' END
    FROM pg_class
    WHERE relkind IN ('r', 'p') AND (relrowsecurity OR relforcerowsecurity) AND {_OF_SCHEMA}
    """)

_READ_POLICIES = sa.text("""
    SELECT tablename, 'policy ' || policyname,
           concat(permissive, ' FOR ', cmd, ' TO ', array_to_string(roles, ', '),
                  ' USING ', coalesce(qual, 'None'), ' WITH CHECK ', coalesce(with_check, 'None'))
    FROM pg_policies WHERE schemaname = 'platform'
    """)

_READ_MEMBERSHIPS = sa.text("""
    SELECT DISTINCT 'the role ' || member.rolname, 'membership in ' || role.rolname, 'a member'
    FROM pg_auth_members
    JOIN pg_roles AS member ON member.oid = pg_auth_members.member
    JOIN pg_roles AS role ON role.oid = roleid
    WHERE member.rolname = ANY (:names)
    """)
