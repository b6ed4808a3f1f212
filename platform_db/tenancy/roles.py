"""The database's roles: made once for the server, and given their privileges in each database.

No migration does this, because roles belong to the whole server. All of it can be run again, by several at
once and for several databases; what is there already is left as it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.database.session import SessionFactory
from platform_db.database.sqlstates import (
    DUPLICATE_OBJECT,
    INTERNAL_ERROR,
    UNIQUE_VIOLATION,
    sqlstate_of,
)
from platform_db.tenancy.drift import describe, differences
from platform_db.tenancy.privileges import COUNTING, Role, policy_name, privileges, sees_every_tenant

ATTEMPTS = 20

# Of another run that made the same role at the same time; INTERNAL_ERROR is "tuple concurrently updated".
_CONCURRENT = frozenset({DUPLICATE_OBJECT, UNIQUE_VIOLATION, INTERNAL_ERROR})


def create_statements() -> list[str]:
    """Return the SQL that makes the roles, for an administrator; roles that exist are left as they are."""
    return [
        *(
            f"DO $$ BEGIN CREATE ROLE {role.value} NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
            for role in Role
        ),
        f"GRANT {Role.tenant.value} TO {Role.service.value}",
    ]


def grant_statements(to: str | None = None) -> list[str]:
    """Return the SQL that gives the roles their privileges and policies in one database, and others none.

    :param to: a login that is to be a member of ``platform_service``.
    """
    roles = ", ".join(role.value for role in Role)
    statements = [
        f"REVOKE ALL ON SCHEMA platform FROM PUBLIC, {roles}",
        f"GRANT USAGE ON SCHEMA platform TO {roles}",
        f"REVOKE ALL ON ALL TABLES IN SCHEMA platform FROM PUBLIC, {roles}",
        f"REVOKE ALL ON ALL SEQUENCES IN SCHEMA platform FROM PUBLIC, {roles}",
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA platform TO {', '.join(role.value for role in COUNTING)}",
    ]
    callers = ", ".join(role.value for role in COUNTING)
    statements.append(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA platform TO {callers}")
    for table, by_role in privileges().items():
        for role, verbs in by_role.items():
            statements.append(f"GRANT {', '.join(verbs)} ON platform.{table} TO {role.value}")
    for table, commands in sees_every_tenant().items():
        for role, command in commands.items():
            statements.append(f"DROP POLICY IF EXISTS {policy_name(role)} ON platform.{table}")
            statements.append(
                f"CREATE POLICY {policy_name(role)} ON platform.{table} FOR {command} TO {role.value}"
                f" USING (true){' WITH CHECK (true)' if command == 'ALL' else ''}"
            )
    return statements if to is None else [*statements, _membership(to)]


def create_roles(factory: SessionFactory) -> list[str]:
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


def grant_privileges(factory: SessionFactory, *, to: str | None = None) -> None:
    """Give the roles their privileges and policies in this database, in a transaction of its own.

    What a migration or an administrator must have changed is not changed back: it is told.

    :param to: a login that is to be a member of ``platform_service``.
    :raises errors.RolesMissing: the roles were not made yet, or the database still differs when all is
        granted.
    """
    with factory() as session, session.begin():
        if missing := _missing(session):
            raise errors.RolesMissing(f"there is no role {', '.join(missing)}")
        # Two runs in one database would stumble over each other's changes of the catalogue.
        session.execute(_LOCK)
        if left := differences(session):
            for statement in grant_statements():
                session.connection().exec_driver_sql(statement)
            left = differences(session)
    if to is not None:
        _run_again_if_concurrent(factory, _membership(to), partial(_is_member, to))
    if left:
        raise errors.RolesMissing(f"what could be granted is granted, but {describe(left)}")


def _membership(login: str) -> str:
    name = login.replace('"', '""')
    return f'GRANT {Role.service.value} TO "{name}"'


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
    factory: SessionFactory, statement: str, done: Callable[[Session], bool]
) -> None:
    """Run a statement on the server's roles, unless it is done; another run may do it meanwhile."""
    for attempt in range(ATTEMPTS):
        try:
            with factory() as session, session.begin():
                if not done(session):
                    session.connection().exec_driver_sql(statement.replace("%", "%%"))
            return
        except sa.exc.DBAPIError as error:
            if sqlstate_of(error) not in _CONCURRENT or attempt == ATTEMPTS - 1:
                raise
            time.sleep(0.01 * attempt)


_LOCK = sa.text("SELECT pg_advisory_xact_lock(hashtextextended('platform.roles', 0))")

_NAMES = ", ".join(f"'{role.value}'" for role in Role)

_READ_ROLES = sa.text(f"SELECT rolname FROM pg_roles WHERE rolname IN ({_NAMES})")

_MAY_CREATE = sa.text("SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user")

_IS_TENANT = sa.text(f"SELECT pg_has_role('{Role.service.value}', '{Role.tenant.value}', 'MEMBER')")

_IS_MEMBER = sa.text(f"SELECT pg_has_role(:login, '{Role.service.value}', 'MEMBER')")
