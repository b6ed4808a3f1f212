"""The database's roles: made once for the server, and given their privileges in each database.

No migration does this, because roles belong to the whole server. All of it can be run again, by several at
once and for several databases; what is there already is left as it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.privileges import Role, Verbs, privileges, sees_every_tenant
from platform_db.types import SCHEMA

ATTEMPTS = 20

# SQLSTATEs of another run that made the same role at the same time: duplicate_object, unique_violation, and
# internal_error for "tuple concurrently updated".
_CONCURRENT = frozenset({"42710", "23505", "XX000"})


@dataclass(frozen=True)
class Difference:
    """A privilege or a policy in which the database differs from the table of privileges."""

    table: str
    role: str
    expected: str
    found: str


def create_statements() -> list[str]:
    """Return the SQL that makes the roles, for an administrator; roles that exist are left as they are."""
    return [
        *(
            f"DO $$ BEGIN CREATE ROLE {role.value} NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
            for role in Role
        ),
        f"GRANT {Role.tenant.value} TO {Role.service.value}",
    ]


def grant_statements() -> list[str]:
    """Return the SQL that gives the roles their privileges and policies in one database."""
    statements = [f"GRANT USAGE ON SCHEMA {SCHEMA} TO {', '.join(role.value for role in Role)}"]
    for table, by_role in privileges().items():
        for role in Role:
            statements.append(f"REVOKE ALL ON {SCHEMA}.{table} FROM {role.value}")
            if verbs := by_role.get(role):
                statements.append(f"GRANT {', '.join(verbs)} ON {SCHEMA}.{table} TO {role.value}")
    for table, commands in sees_every_tenant().items():
        for role, command in commands.items():
            statements.append(f"DROP POLICY IF EXISTS {policy_name(role)} ON {SCHEMA}.{table}")
            statements.append(
                f"CREATE POLICY {policy_name(role)} ON {SCHEMA}.{table} FOR {command} TO {role.value}"
                f" USING (true){' WITH CHECK (true)' if command == 'ALL' else ''}"
            )
    statements.append(
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {SCHEMA} TO {Role.service.value}, {Role.tenant.value}"
    )
    return statements


def policy_name(role: Role) -> str:
    """Return the name of the role's own policy on a tenant's table."""
    return role.name


def create_roles(factory: Callable[[], Session]) -> list[str]:
    """Make the roles that are missing, in transactions of its own, and return their names.

    :raises errors.RolesMissing: roles are missing and this login may not make any.
    """
    with factory() as session:
        missing = _missing(session)
        may_create = session.execute(_MAY_CREATE).scalar_one()
    if missing and not may_create:
        raise errors.RolesMissing(
            f"this login may not create roles, and {', '.join(missing)} "
            f"{'are' if len(missing) > 1 else 'is'} missing: have an administrator run the SQL that"
            " platform-db roles create --sql prints"
        )
    for role in missing:
        _run_again_if_concurrent(factory, f"CREATE ROLE {role} NOLOGIN", partial(_exists, role))
    if may_create:
        _run_again_if_concurrent(
            factory, f"GRANT {Role.tenant.value} TO {Role.service.value}", _service_may_become_tenant
        )
    return missing


def grant_privileges(factory: Callable[[], Session], *, to: str | None = None) -> None:
    """Give the roles their privileges and policies in this database, in a transaction of its own.

    :param to: a login that is to be a member of ``platform_service``.
    :raises errors.RolesMissing: the roles were not made yet.
    """
    with factory() as session, session.begin():
        if missing := _missing(session):
            raise errors.RolesMissing(f"there is no role {', '.join(missing)}")
        # Two runs in one database would stumble over each other's changes of the catalogue.
        session.execute(_LOCK)
        if differences(session) or not _may_use_schema(session):
            for statement in grant_statements():
                session.connection().exec_driver_sql(statement)
    if to is not None:
        quoted = postgresql.dialect().identifier_preparer.quote(to)  # type: ignore[no-untyped-call]
        _run_again_if_concurrent(
            factory,
            f"GRANT {Role.service.value} TO {quoted}",
            partial(_is_member, to),
        )


def differences(session: Session) -> list[Difference]:
    """Return in what the database's grants and policies differ from the table of privileges."""
    found = read_grants(session)
    expected = {
        (table, role.value): verbs
        for table, by_role in privileges().items()
        for role, verbs in by_role.items()
    }
    policies = {(row.tablename, row.policyname): row.cmd for row in session.execute(_READ_POLICIES)}
    wanted = {
        (table, policy_name(role)): command
        for table, commands in sees_every_tenant().items()
        for role, command in commands.items()
    }
    result = [
        Difference(*key, _listed(expected.get(key)), _listed(found.get(key)))
        for key in sorted({*expected, *found})
        if set(expected.get(key, ())) != set(found.get(key, ()))
    ]
    result += [
        Difference(
            *key, f"policy for {wanted.get(key, 'nothing')}", f"policy for {policies.get(key, 'nothing')}"
        )
        for key in sorted({*wanted, *policies})
        if wanted.get(key) != policies.get(key)
    ]
    return result


def read_grants(session: Session) -> dict[tuple[str, str], Verbs]:
    """Return what the database grants the roles, by table and role."""
    grants: dict[tuple[str, str], Verbs] = {}
    for row in session.execute(_READ_GRANTS):
        grants[row.relname, row.rolname] = tuple(row.verbs)
    return grants


def _listed(verbs: Verbs | None) -> str:
    return ", ".join(verbs) if verbs else "nothing"


def _may_use_schema(session: Session) -> bool:
    """Tell whether every role may look into the schema at all."""
    return all(session.execute(_MAY_USE_SCHEMA, {"role": role.value}).scalar_one() for role in Role)


def _missing(session: Session) -> list[str]:
    existing = set(session.execute(_READ_ROLES).scalars())
    return [role.value for role in Role if role.value not in existing]


def _exists(role: str, session: Session) -> bool:
    return role not in _missing(session)


def _is_member(login: str, session: Session) -> bool:
    is_member: bool = session.execute(_IS_MEMBER, {"login": login}).scalar_one()
    return is_member


def _service_may_become_tenant(session: Session) -> bool:
    is_member: bool = session.execute(_IS_TENANT).scalar_one()
    return is_member


def _run_again_if_concurrent(
    factory: Callable[[], Session], statement: str, done: Callable[[Session], bool]
) -> None:
    """Run a statement on the server's roles, unless it is done; another run may do it meanwhile."""
    for attempt in range(ATTEMPTS):
        try:
            with factory() as session, session.begin():
                if not done(session):
                    session.connection().exec_driver_sql(statement)
            return
        except sa.exc.DBAPIError as error:
            if getattr(error.orig, "pgcode", None) not in _CONCURRENT or attempt == ATTEMPTS - 1:
                raise
            time.sleep(0.01 * attempt)


_LOCK = sa.text(f"SELECT pg_advisory_xact_lock(hashtextextended('{SCHEMA}.roles', 0))")

_NAMES = ", ".join(f"'{role.value}'" for role in Role)

_READ_ROLES = sa.text(f"SELECT rolname FROM pg_roles WHERE rolname IN ({_NAMES})")

_MAY_CREATE = sa.text("SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user")

_IS_TENANT = sa.text(f"SELECT pg_has_role('{Role.service.value}', '{Role.tenant.value}', 'MEMBER')")

_IS_MEMBER = sa.text(f"SELECT pg_has_role(:login, '{Role.service.value}', 'MEMBER')")

_MAY_USE_SCHEMA = sa.text(f"SELECT has_schema_privilege(:role, '{SCHEMA}', 'USAGE')")

_READ_GRANTS = sa.text(
    f"""
    SELECT relname, rolname, array_agg(privilege_type ORDER BY privilege_type) AS verbs
    FROM pg_class CROSS JOIN LATERAL aclexplode(relacl) JOIN pg_roles ON pg_roles.oid = grantee
    WHERE relnamespace = '{SCHEMA}'::regnamespace AND relkind IN ('r', 'p', 'v') AND rolname IN ({_NAMES})
    GROUP BY relname, rolname
    """
)

_READ_POLICIES = sa.text(
    f"SELECT tablename, policyname, cmd FROM pg_policies"
    f" WHERE schemaname = '{SCHEMA}' AND policyname <> 'tenant'"
)
