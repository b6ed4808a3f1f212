"""Sessions of one tenant: for a block, or all of a service's."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, orm
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction

from platform_db import diagnostics, errors
from platform_db.database.session import AnySession, PlatformSession, takes_session
from platform_db.models import Base
from platform_db.models.identity import UserOrId, user_id_of
from platform_db.tenancy import connections

CurrentTenant = Callable[[], UserOrId | None]


@contextmanager
def tenant_scope(
    source: sa.Engine | orm.sessionmaker[Any] | orm.scoped_session[Any], user: UserOrId
) -> Iterator[Session]:
    """Give a new session of the user's rows alone; commit at the end, roll back on an error, close it.

    The session may commit in between: each of its transactions is in the scope. What others share with the
    user is not the user's own: read it with a session outside the scope.

    :param source: the database, or what makes sessions on it, whose options the new session gets.
    :raises errors.InvalidIdentifier: that is no id.
    :raises errors.RolesMissing: the database's roles are missing, or this login may not use them.
    :raises errors.Refused: the source is a connection or a session instead of an engine.
    """
    if isinstance(source, orm.scoped_session):
        source = source.session_factory
    options: dict[str, Any] = {"bind": source}
    if isinstance(source, orm.sessionmaker):
        options = {**source.kw, "class_": source.class_}
    with tenant_sessionmaker(**{**options, "current_tenant": user})() as session:
        session.connection()
        yield session
        session.commit()


def tenant_sessionmaker(
    bind: sa.Engine | None, current_tenant: CurrentTenant | UserOrId, **options: Any
) -> orm.sessionmaker[Session]:
    """Return a maker of sessions that belong to one tenant each, from their beginning to their end.

    :param bind: the database.
    :param current_tenant: a user, or what is asked for the tenant when a session is made; where it gives
        None, the session sees nothing and can write nothing. It is asked again when a transaction begins:
        with another answer, the session is one that an earlier request has left open, and
        :class:`errors.Refused <platform_db.errors.Refused>` is raised.
    :param options: further arguments of :class:`sqlalchemy.orm.sessionmaker`.
    """
    if not callable(current_tenant):
        tenant = _id_of(current_tenant)
        return tenant_sessionmaker(bind, lambda: tenant, **options)
    class_ = _of_one_tenant(options.pop("class_", PlatformSession))
    return orm.sessionmaker(bind, class_=class_, current_tenant=current_tenant, **options)


@takes_session
def in_tenant_scope(session: Session) -> bool:
    """Tell whether the session sees one tenant's rows only."""
    return isinstance(session, _TenantSession)


def tenant_of(session: AnySession) -> uuid.UUID | None:
    """Return the id of the tenant whose rows alone the session sees; None outside of any tenant's scope."""
    if isinstance(session, orm.scoped_session):
        session = session()
    return session.tenant if isinstance(session, _TenantSession) else None


class _TenantSession(PlatformSession):
    def __init__(self, *args: Any, current_tenant: CurrentTenant, **options: Any) -> None:
        super().__init__(*args, **options)
        self.current_tenant = current_tenant
        self.logged_before: tuple[str | None] | None = None
        self.tenant = _id_of(current_tenant())

    def get_bind(self, *args: Any, **options: Any) -> sa.Engine | sa.Connection:
        bind = super().get_bind(*args, **options)
        if not isinstance(bind, sa.Engine):
            raise errors.Refused(
                f"a tenant's session needs an engine: it is bound to a {type(bind).__name__.lower()}, which"
                " others may use, and which would stay in the scope"
            )
        return bind


@cache
def _of_one_tenant(base: type[Session]) -> type[Session]:
    return base if issubclass(base, _TenantSession) else type(base.__name__, (_TenantSession, base), {})


def _id_of(user: UserOrId | None) -> uuid.UUID | None:
    return None if user is None else user_id_of(user)


@event.listens_for(_TenantSession, "after_begin")
def enter_scope(session: _TenantSession, transaction: SessionTransaction, connection: sa.Connection) -> None:
    """Put each transaction on each connection into the tenant's scope. A savepoint is in it already."""
    if transaction.nested:
        return
    try:
        if _id_of(session.current_tenant()) != session.tenant:
            raise errors.Refused(
                "this session belongs to another tenant than the current one: close it when its request ends"
            )
        connections.enter(connection, session.tenant)
    except BaseException:
        # The session would use it for its next statement, outside the scope.
        connection.invalidate()
        raise
    if session.logged_before is None:  # else it has begun on another connection
        session.logged_before = (diagnostics.tenant.get(),)
    diagnostics.tenant.set(str(session.tenant) if session.tenant else None)


@event.listens_for(_TenantSession, "after_transaction_end")
def leave_scope(session: _TenantSession, transaction: SessionTransaction) -> None:
    """Let log lines after the outermost transaction be about the tenant of before it."""
    if transaction.parent is None and session.logged_before is not None:
        diagnostics.tenant.set(*session.logged_before)
        session.logged_before = None


@event.listens_for(_TenantSession, "do_orm_execute")
def add_owner(state: ORMExecuteState) -> None:
    """Add the owner's ``= …`` to each ORM statement, relationship loads too."""
    tenant = state.session.tenant  # type: ignore[attr-defined]
    if tenant is None or state.is_column_load:
        return
    if state.is_select or state.is_update or state.is_delete:
        state.statement = state.statement.options(_criteria(tenant))


def _criteria(tenant: uuid.UUID) -> Any:
    """Return the criteria for all tenants' tables, whatever a statement mentions.

    As one function, whose parameter is bound: an option for each table would take some milliseconds of every
    statement. It is not propagated to loaders: an object must not carry its tenant out of the scope.
    """
    return orm.with_loader_criteria(
        Base, lambda cls: cls.owned_by(tenant), include_aliases=True, propagate_to_loaders=False
    )
