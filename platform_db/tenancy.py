"""Working for one tenant: inside a scope, a session sees that tenant's rows and no others.

Two things hold this, each without the other. In the database, every transaction of the scope runs as the role
``platform_tenant`` with the setting ``platform.user_id``, and row-level security compares the owner of each
row with it. In the ORM, every statement gets the owner's ``= …``, so that it has the prefix of an index and
goes to one shard.

This is for a service's own mistakes: a forgotten WHERE, a wrong join, a bug in a query builder. It does not
hold against SQL that a tenant writes, which could set another role or another id.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from psycopg2.extensions import TRANSACTION_STATUS_INERROR
from sqlalchemy import event, orm
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction

from platform_db import errors
from platform_db.models import Base, User
from platform_db.privileges import Role
from platform_db.types import parse_id

Tenant = User | uuid.UUID | str

CurrentTenant = Callable[[], uuid.UUID | str | None]

_TENANT = "platform_db.tenant"

_NO_TENANT = uuid.UUID(int=0)


@contextmanager
def tenant_scope(session: Session, user: Tenant) -> Iterator[None]:
    """Let the session see and write nothing but the user's rows within this block.

    What the session has pending is written first, outside the scope; what it has loaded is read anew when
    it is next used, inside and afterwards. The block may span several transactions, and scopes may be
    nested: the inner one counts. What is shared with the user is not the user's own: read it outside.

    :raises errors.InvalidIdentifier: that is no id; nothing is changed.
    :raises errors.RolesMissing: the database's roles are missing, or this login may not use them.
    """
    tenant = user.id_ if isinstance(user, User) else parse_id(user, "user id")
    session.flush()
    session.expire_all()
    outer = session.info.get(_TENANT)
    before = _read(session.connection())
    session.info[_TENANT] = lambda: tenant
    try:
        _enter(session.connection(), tenant)
        yield
        session.flush()
    except BaseException:
        # Or else the next flush would write it, outside the scope.
        for row in [*session.new, *session.deleted]:
            session.expunge(row)
        raise
    finally:
        if outer is None:
            del session.info[_TENANT]
        else:
            session.info[_TENANT] = outer
        session.expire_all()
        _leave(session, before)


def tenant_sessionmaker(
    bind: sa.Engine | None, current_tenant: CurrentTenant, **options: Any
) -> orm.sessionmaker[Session]:
    """Return a maker of sessions of which every transaction is in the scope of the current tenant.

    :param bind: the database.
    :param current_tenant: is asked at the beginning of each transaction, and of each ORM statement; where
        it gives None, nothing is seen and nothing can be written.
    :param options: further arguments of :class:`sqlalchemy.orm.sessionmaker`.
    """
    info = {**options.pop("info", {}), _TENANT: current_tenant}
    return orm.sessionmaker(bind, info=info, **options)


def in_tenant_scope(session: Session) -> bool:
    """Tell whether the session sees one tenant's rows only."""
    return _TENANT in session.info


@event.listens_for(Session, "after_begin")
def enter_scope(session: Session, transaction: SessionTransaction, connection: sa.Connection) -> None:
    """Put each transaction of a session with a tenant into its scope. A savepoint is in it already."""
    current = session.info.get(_TENANT)
    if current is not None and not transaction.nested:
        _enter(connection, _asked(current))


@event.listens_for(Session, "after_soft_rollback")
def enter_scope_again(session: Session, transaction: SessionTransaction) -> None:
    """Enter the scope again after a rollback to a savepoint from before it, which undoes the settings."""
    current = session.info.get(_TENANT)
    if current is not None and transaction.nested and session.is_active:
        _enter(session.connection(), _asked(current))


@event.listens_for(Session, "do_orm_execute")
def add_owner(state: ORMExecuteState) -> None:
    """Add the owner's ``= …`` to each ORM statement of a session with a tenant, relationship loads too."""
    current = state.session.info.get(_TENANT)
    if current is None or state.is_column_load or not (state.is_select or state.is_update or state.is_delete):
        return
    state.statement = state.statement.options(_criteria(_asked(current) or _NO_TENANT))


def _asked(current: CurrentTenant) -> uuid.UUID | None:
    tenant = current()
    return None if tenant is None else parse_id(tenant, "user id")


def _criteria(tenant: uuid.UUID) -> Any:
    """Return the criteria for all tenants' tables, whatever a statement mentions.

    As one function, whose parameter is bound: an option for each table would take some milliseconds of every
    statement. It is not propagated to loaders: an object must not carry its tenant out of the scope.
    """
    return orm.with_loader_criteria(
        Base, lambda cls: cls.owned_by(tenant), include_aliases=True, propagate_to_loaders=False
    )


def _enter(connection: sa.Connection, tenant: uuid.UUID | None) -> None:
    """Set the role and the tenant, until the transaction ends.

    :raises errors.PlatformDBError: the connection commits each statement, so nothing can be set.
    """
    if getattr(connection.connection.dbapi_connection, "autocommit", False):
        raise errors.PlatformDBError(
            "a tenant's scope needs transactions: the connection commits each statement"
        )
    try:
        connection.exec_driver_sql(f"SET LOCAL ROLE {Role.tenant.value}")
    except sa.exc.DBAPIError as error:
        if getattr(error.orig, "pgcode", None) in _NO_ROLE:
            raise errors.RolesMissing(
                f"this login cannot become {Role.tenant.value}: {error.orig.diag.message_primary}"  # type: ignore[union-attr]
            ) from None
        raise
    # The id is a UUID of ours: no text of anybody else's gets into the statement.
    connection.exec_driver_sql(f"SET LOCAL platform.user_id = '{tenant or ''}'")


def _read(connection: sa.Connection) -> tuple[str, str]:
    row = connection.execute(_READ).one()
    return row.role, row.user_id


def _leave(session: Session, before: tuple[str, str]) -> None:
    """Give the transaction back the role and the tenant that it had, if it goes on."""
    if not session.in_transaction() or not session.is_active:
        return
    connection = session.connection()
    driver: Any = connection.connection.dbapi_connection
    if connection.invalidated or driver.info.transaction_status == TRANSACTION_STATUS_INERROR:
        return  # Whatever ends the error, a rollback to a savepoint or of all, ends these settings, too.
    role, user_id = before
    connection.exec_driver_sql("SET LOCAL ROLE " + connection.dialect.identifier_preparer.quote(role))
    connection.execute(_SET_USER_ID, {"value": user_id})


# invalid_parameter_value: there is no such role; insufficient_privilege: the login is not its member.
_NO_ROLE = frozenset({"22023", "42501"})

_READ = sa.text(
    "SELECT current_setting('role') AS role, "
    " coalesce(current_setting('platform.user_id', true), '') AS user_id"
)

_SET_USER_ID = sa.text("SET LOCAL platform.user_id = :value")
