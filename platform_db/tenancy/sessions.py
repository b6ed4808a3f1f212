"""Sessions in a tenant's scope: for a block, or all of a service's."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, orm
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction

from platform_db import errors
from platform_db.identifiers import parse_id
from platform_db.models import Base, User
from platform_db.tenancy import connections
from platform_db.tenancy.scopes import CurrentTenant, Scope, connections_of, put_in_scope, scope_of, tenant_of

Tenant = User | uuid.UUID | str

_NO_TENANT = uuid.UUID(int=0)


@contextmanager
def tenant_scope(session: Session | orm.scoped_session[Session], user: Tenant) -> Iterator[None]:
    """Let the session see and write nothing but the user's rows within this block.

    What the session has pending is written first, outside the scope; what it has loaded is read anew when
    it is next used, inside and afterwards. The block may span several transactions and savepoints, and scopes
    may be nested: the inner one counts. What is shared with the user is not the user's own: read it outside.

    :raises errors.InvalidIdentifier: that is no id; nothing is changed.
    :raises errors.RolesMissing: the database's roles are missing, or this login may not use them.
    :raises errors.Refused: the session is bound to a connection instead of an engine.
    """
    tenant = user.id_ if isinstance(user, User) else parse_id(user, "user id")
    session = session() if isinstance(session, orm.scoped_session) else session
    session.flush()
    session.expire_all()
    session.connection()
    outer = scope_of(session)
    put_in_scope(session, Scope(lambda: tenant, tenant, used=True))
    try:
        for connection in connections_of(session):
            connections.enter(session, connection, tenant, remember=outer is None)
        yield
        session.flush()
    except BaseException:
        # Or else the next flush would write it, outside the scope.
        for row in [*session.new, *session.deleted]:
            session.expunge(row)
        raise
    finally:
        put_in_scope(session, outer)
        session.expire_all()
        for connection in connections_of(session):
            connections.set_again(connection)


def tenant_sessionmaker(
    bind: sa.Engine | None, current_tenant: CurrentTenant, **options: Any
) -> orm.sessionmaker[Session]:
    """Return a maker of sessions of which every transaction is in the scope of the current tenant.

    A transaction and the objects in a session's memory are one tenant's. When the current tenant changes
    between two transactions, the session forgets what it has loaded; in the middle of one, whatever would
    read or write raises :class:`errors.Refused <platform_db.errors.Refused>` until it is ended.

    :param bind: the database.
    :param current_tenant: is asked at the beginning of each transaction, at each statement, and at each look
        into the session's memory; where it gives None, nothing is seen and nothing can be written.
    :param options: further arguments of :class:`sqlalchemy.orm.sessionmaker`.
    """
    base = options.pop("class_", Session)
    scoped = type(base.__name__, (_TenantSession, base), {})
    return orm.sessionmaker(bind, class_=scoped, current_tenant=current_tenant, **options)


class _TenantSession(Session):
    """A session that is always in the scope of the current tenant."""

    def __init__(self, *args: Any, current_tenant: CurrentTenant, **options: Any) -> None:
        super().__init__(*args, **options)
        put_in_scope(self, Scope(current_tenant))

    def get_bind(self, *args: Any, **options: Any) -> sa.Engine | sa.Connection:
        bind = super().get_bind(*args, **options)
        if isinstance(bind, sa.Connection):
            raise errors.Refused("a tenant's session needs an engine: it is bound to a connection")
        return bind

    # What SQLAlchemy asks before it gives an object from its memory, where no statement is run: ``get()``,
    # a relationship to one, ``merge()``.

    def _identity_lookup(self, *args: Any, **options: Any) -> Any:
        _ask(self)
        return super()._identity_lookup(*args, **options)

    def _merge(self, *args: Any, **options: Any) -> Any:
        _ask(self)
        return super()._merge(*args, **options)


@event.listens_for(Session, "after_begin")
def enter_scope(session: Session, transaction: SessionTransaction, connection: sa.Connection) -> None:
    """Put each transaction of a session with a tenant into its scope. A savepoint is in it already."""
    scope = scope_of(session)
    if scope is None or transaction.nested:
        return
    try:
        tenant = tenant_of(session, scope, beginning=connection)
        connections.enter(session, connection, tenant, remember=not isinstance(session, _TenantSession))
    except BaseException:
        # The session would use it for its next statement, outside the scope.
        connection.invalidate()
        raise


@event.listens_for(Session, "after_soft_rollback")
def forget_again(session: Session, transaction: SessionTransaction) -> None:
    """Forget what a rollback to a savepoint brought back: what was deleted since, as it was read before."""
    if scope_of(session) is not None:
        session.expire_all()


@event.listens_for(Session, "do_orm_execute")
def add_owner(state: ORMExecuteState) -> None:
    """Add the owner's ``= …`` to each ORM statement of a session with a tenant, relationship loads too."""
    tenant = _ask(state.session)
    if scope_of(state.session) is None or state.is_column_load:
        return
    if state.is_select or state.is_update or state.is_delete:
        state.statement = state.statement.options(_criteria(tenant or _NO_TENANT))


def _ask(session: Session) -> uuid.UUID | None:
    scope = scope_of(session)
    return None if scope is None else tenant_of(session, scope)


def _criteria(tenant: uuid.UUID) -> Any:
    """Return the criteria for all tenants' tables, whatever a statement mentions.

    As one function, whose parameter is bound: an option for each table would take some milliseconds of every
    statement. It is not propagated to loaders: an object must not carry its tenant out of the scope.
    """
    return orm.with_loader_criteria(
        Base, lambda cls: cls.owned_by(tenant), include_aliases=True, propagate_to_loaders=False
    )
