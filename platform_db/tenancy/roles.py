"""The database's roles: made once for the server, and given their privileges in each database.

No migration does this, because roles belong to the whole server. All of it can be run again, by several at
once and for several databases; what is there already is left as it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.database.session import SessionFactory
from platform_db.database.sqlstates import DUPLICATE_OBJECT, INTERNAL_ERROR, UNIQUE_VIOLATION, sqlstate_of
from platform_db.schema.objects import PARTITIONS, SCHEMAS, qualified
from platform_db.tenancy.drift import MARK, as_error, differences
from platform_db.tenancy.privileges import (
    CALLED_AS_OWNER,
    OTHERS,
    Role,
    privileges,
    role_name,
    sees_every_tenant,
)

ATTEMPTS = 20

# Of another run that made the same role at the same time; INTERNAL_ERROR is "tuple concurrently updated".
_CONCURRENT = frozenset({DUPLICATE_OBJECT, UNIQUE_VIOLATION, INTERNAL_ERROR})


def create_statements() -> list[str]:
    """Return the SQL that makes the roles, for an administrator; roles that exist are left as they are."""
    return [
        *(
            f"DO $$ BEGIN CREATE ROLE {name} NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
            for name in map(role_name, Role)
        ),
        _tenant_to_service(),
    ]


def grant_statements(to: str | None = None, role: Role = Role.service) -> list[str]:
    """Return the SQL that gives the roles their privileges and policies in one database, and others none.

    :param to: a login that is to be a member of the role.
    """
    everybody = f"PUBLIC, {_names(Role)}"
    statements = [
        *(
            statement
            for schema in SCHEMAS
            for statement in (
                f"REVOKE ALL ON SCHEMA {schema} FROM {everybody} CASCADE",
                f"GRANT USAGE ON SCHEMA {schema} TO {_names(OTHERS['schema'])}",
                f"REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM {everybody} CASCADE",
            )
        ),
        _for_each(
            "oid::regnamespace",
            f"pg_namespace WHERE nspname = '{PARTITIONS}'",
            f"'REVOKE ALL ON SCHEMA ' || object || ' FROM {everybody} CASCADE'",
        ),
        _for_each(
            "oid::regclass",
            f"pg_class WHERE relnamespace = to_regnamespace('{PARTITIONS}') AND relkind = 'r'",
            f"'REVOKE ALL ON ' || object || ' FROM {everybody} CASCADE'",
        ),
        f"REVOKE ALL ON ALL SEQUENCES IN SCHEMA platform FROM {everybody} CASCADE",
        *(
            f"GRANT {', '.join(verbs)} ON ALL SEQUENCES IN SCHEMA platform TO {role_name(role)}"
            for role, verbs in OTHERS["sequence"].items()
        ),
        f"REVOKE ALL ON ALL ROUTINES IN SCHEMA platform FROM {everybody} CASCADE",
        _for_each(
            "oid::regprocedure",
            "pg_proc WHERE pronamespace = 'platform'::regnamespace"
            " AND NOT prosecdef AND prorettype <> 'trigger'::regtype",
            f"'GRANT EXECUTE ON ROUTINE ' || object || ' TO {_names(OTHERS['function'])}'",
        ),
        *(
            _for_each(  # Some are there on several machines alone.
                "oid::regprocedure",
                "pg_proc WHERE pronamespace = 'platform'::regnamespace"
                f" AND proname IN ({', '.join(map(repr, names))})",
                f"'GRANT EXECUTE ON ROUTINE ' || object || ' TO {_names(OTHERS[f'{kind} function'])}'",
            )
            for kind, names in CALLED_AS_OWNER.items()
        ),
        _for_each(
            "oid::regtype",
            "pg_type WHERE typnamespace = 'platform'::regnamespace AND typcategory <> 'A'",
            f"'REVOKE ALL ON TYPE ' || object || ' FROM {everybody} CASCADE'",
        ),
        # Logins without a role have no business in this database, but for the schema's owner.
        *(
            _for_each(
                "quote_ident(datname)",
                "pg_database WHERE datname = current_database() AND pg_has_role(datdba, 'USAGE')",
                statement,
            )
            for statement in (
                f"'REVOKE ALL ON DATABASE ' || object || ' FROM {everybody} CASCADE'",
                f"'GRANT CONNECT ON DATABASE ' || object || ' TO {_names(OTHERS['database'])}, ' || {_OWNER}",
            )
        ),
    ]
    for table, by_role in privileges().items():
        for granted, verbs in by_role.items():
            statements.append(f"GRANT {', '.join(verbs)} ON {qualified(table)} TO {role_name(granted)}")
    for table, commands in sees_every_tenant().items():
        for granted, command in commands.items():
            statements.append(f"DROP POLICY IF EXISTS {granted.name} ON platform.{table}")
            statements.append(
                f"CREATE POLICY {granted.name} ON platform.{table} FOR {command}"
                f" TO {role_name(granted)} USING (true){' WITH CHECK (true)' if command == 'ALL' else ''}"
            )
    statements.append(f"COMMENT ON SCHEMA platform IS '{MARK}'")
    return statements if to is None else [*statements, _membership(to, role)]


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
            factory, _tenant_to_service(), partial(_is_member, role_name(Role.service), Role.tenant)
        )
    return missing


def grant_privileges(factory: SessionFactory, *, to: str | None = None, role: Role = Role.service) -> None:
    """Give the roles their privileges and policies in this database, in a transaction of its own.

    What a migration or an administrator changed is reported, not changed back. The database is closed to
    logins without a role where this login acts as the database's owner.

    :param to: a login that is to be a member of the role.
    :raises errors.RolesMissing: the roles were not made yet, or the database still differs when all is
        granted.
    :raises errors.NotFound: there is no such login.
    """
    with factory() as session, session.begin():
        if missing := _missing(session):
            raise errors.RolesMissing(f"there is no role {', '.join(missing)}")
        if to is not None and to not in session.execute(_READ_ROLES, {"names": [to]}).scalars():
            raise errors.NotFound(f"there is no login {to!r}", hint="create it first: CREATE ROLE … LOGIN")
        # Two runs in one database would stumble over each other's changes of the catalogue.
        session.execute(_LOCK)
        if left := differences(session):
            for statement in grant_statements():
                session.connection().exec_driver_sql(statement)
            left = differences(session)
    if to is not None:
        _run_again_if_concurrent(factory, _membership(to, role), partial(_is_member, to, role))
    if left:
        raise as_error(left, before="what could be granted is granted, but ")


def _names(roles: Iterable[Role]) -> str:
    return ", ".join(map(role_name, roles))


def _tenant_to_service() -> str:
    return f"GRANT {role_name(Role.tenant)} TO {role_name(Role.service)}"


def _membership(login: str, role: Role) -> str:
    name = login.replace('"', '""')
    return f'GRANT {role_name(role)} TO "{name}"'


def _for_each(object_: str, source: str, statement: str) -> str:
    """Return a statement that runs another one on each object of a catalogue, by its quoted name."""
    return (
        f"DO $$ DECLARE object text; BEGIN FOR object IN SELECT {object_} FROM {source}"
        f" LOOP EXECUTE {statement}; END LOOP; END $$"
    )


def _missing(session: Session) -> list[str]:
    existing = set(session.execute(_READ_ROLES, {"names": [*map(role_name, Role)]}).scalars())
    return [name for name in map(role_name, Role) if name not in existing]


def _exists(role: str, session: Session) -> bool:
    return role not in _missing(session)


def _is_member(login: str, role: Role, session: Session) -> bool:
    names = {"login": login, "role": role_name(role)}
    is_member: bool = session.execute(_IS_MEMBER, names).scalar_one()
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

_OWNER = "(SELECT nspowner::regrole FROM pg_namespace WHERE nspname = 'platform')"

_READ_ROLES = sa.text("SELECT rolname FROM pg_roles WHERE rolname = ANY (:names)")

_MAY_CREATE = sa.text("SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user")

_IS_MEMBER = sa.text("SELECT pg_has_role(:login, :role, 'MEMBER')")
