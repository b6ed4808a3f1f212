"""The scope that a session is in: whose it is, and for whom the session's objects were read."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.identifiers import parse_id

CurrentTenant = Callable[[], uuid.UUID | str | None]

_SCOPE = "platform_db.scope"


@dataclass
class Scope:
    """A session's scope.

    :ivar current: is asked for the tenant.
    :ivar tenant: for whom the session's objects were read, and its transaction began.
    :ivar used: whether there are any such objects yet.
    """

    current: CurrentTenant
    tenant: uuid.UUID | None = None
    used: bool = False


def in_tenant_scope(session: Session) -> bool:
    """Tell whether the session sees one tenant's rows only."""
    return _SCOPE in session.info


def scope_of(session: Session) -> Scope | None:
    """Return the scope that the session is in."""
    scope: Scope | None = session.info.get(_SCOPE)
    return scope


def put_in_scope(session: Session, scope: Scope | None) -> None:
    """Let the session be in this scope, or in none."""
    if scope is None:
        session.info.pop(_SCOPE, None)
    else:
        session.info[_SCOPE] = scope


def tenant_of(session: Session, scope: Scope, *, beginning: sa.Connection | None = None) -> uuid.UUID | None:
    """Return whose the scope is now. Where that has changed, the session forgets what it read before.

    :param beginning: a connection whose transaction is just beginning.
    :raises errors.Refused: it has changed, and a transaction or changes for the tenant before are not ended.
    """
    asked = scope.current()
    tenant = None if asked is None else parse_id(asked, "user id")
    if scope.used and tenant != scope.tenant:
        others = [connection for connection in connections_of(session) if connection is not beginning]
        if others or session.dirty or session.deleted:
            raise errors.Refused(
                "the current tenant changed in the middle of a transaction: commit it or roll it back before"
            )
        # Read again, another tenant's row is not there; what is pending has its owner checked when written.
        session.expire_all()
    scope.tenant, scope.used = tenant, True
    return tenant


def connections_of(session: Session) -> list[sa.Connection]:
    """Return the connections of the session's transaction (for which SQLAlchemy 2.0 has no public name)."""
    transaction = session.get_transaction()
    if transaction is None:
        return []
    return list(dict.fromkeys(connection for connection, *_ in transaction._connections.values()))


def owns(session: Session, connection: sa.Connection) -> bool:
    """Tell whether the session took the connection from an engine, and gives it back with its transaction."""
    transaction = session.get_transaction()
    return transaction is not None and transaction._connections[connection][3]
