"""The role and the tenant's id on the connection of a transaction, and what keeps them there.

``SET LOCAL`` ends with the transaction, and a rollback to a savepoint undoes what was set since. So a
connection that was in a scope is watched until its transaction ends, whoever rolls back.
"""

from __future__ import annotations

import uuid
import weakref
from typing import Any

import sqlalchemy as sa
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, TRANSACTION_STATUS_INERROR
from sqlalchemy import event
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.database.sqlstates import INSUFFICIENT_PRIVILEGE, INVALID_PARAMETER_VALUE, sqlstate_of
from platform_db.tenancy.privileges import Role
from platform_db.tenancy.scopes import Scope, owns, scope_of, tenant_of


def enter(session: Session, connection: sa.Connection, tenant: uuid.UUID | None, *, remember: bool) -> None:
    """Set the role and the tenant, until the transaction ends.

    :param remember: whether the scope may end before the transaction, which then goes on as it was before.
    :raises errors.PlatformDBError: the connection commits each statement, so nothing can be set.
    :raises errors.Refused: the connection is not the session's own.
    :raises errors.RolesMissing: the database's roles are missing, or this login may not use them.
    """
    if not owns(session, connection):
        raise errors.Refused(
            "a tenant's scope needs a session on an engine: this one is bound to a connection,"
            " which others may use, and which would stay in the scope"
        )
    if getattr(connection.connection.dbapi_connection, "autocommit", False):
        raise errors.PlatformDBError(
            "a tenant's scope needs transactions: the connection commits each statement"
        )
    watch = _watches.get(connection)
    if watch is None:
        watch = _watches[connection] = _Watch(session)
        for name in ("begin", "before_cursor_execute", "after_cursor_execute"):
            event.listen(connection, name, getattr(watch, name))
    if remember:
        watch.outside = _read(connection)
    try:
        _set(connection, Role.tenant.value, str(tenant or ""))
    except sa.exc.DBAPIError as error:
        if sqlstate_of(error) in _NO_ROLE:
            raise errors.RolesMissing(
                f"this login cannot become {Role.tenant.value}: {error.orig.diag.message_primary}"  # type: ignore[union-attr]
            ) from None
        raise


def set_again(connection: sa.Connection) -> None:
    """Set what the session's scope, or its end, wants on the connection, if its transaction goes on."""
    watch = _watches.get(connection)
    if watch is None or connection.closed or connection.invalidated or not connection.in_transaction():
        return
    if _status(connection) != TRANSACTION_STATUS_INERROR:  # What ends the error sets it.
        watch.set_again(connection)


class _Watch:
    """Keeps a connection in the scope of its session, and out of it afterwards."""

    def __init__(self, session: Session) -> None:
        self._session = weakref.ref(session)
        self._ended = False
        self.outside: tuple[str, str] | None = None

    def begin(self, connection: sa.Connection) -> None:
        """Take note of a transaction that does not begin with the session's: it is outside the scope."""
        self._ended = True  # Raising here would leave the connection half-way into the transaction.

    def before_cursor_execute(self, connection: sa.Connection, cursor: Any, statement: str, *_: Any) -> None:
        """Refuse a statement outside the scope's transaction, or in that of another tenant."""
        session, scope = self._session(), self._scope()
        if session is None or scope is None or statement.startswith(_ALWAYS_ALLOWED):
            return
        if self._ended:
            raise errors.Refused(_ENDED)
        tenant_of(session, scope)

    def after_cursor_execute(self, connection: sa.Connection, cursor: Any, statement: str, *_: Any) -> None:
        """Set again what a rollback to a savepoint has undone; refuse what ends the transaction itself."""
        if _status(connection) == TRANSACTION_STATUS_IDLE:
            if self._scope() is not None:
                connection.invalidate()  # Each further statement would commit by itself, outside the scope.
                raise errors.Refused(_ENDED)
        elif statement.lstrip()[:8].upper() == "ROLLBACK":
            self.set_again(connection)

    def set_again(self, connection: sa.Connection) -> None:
        """Set the scope's tenant, or what was set before the scope."""
        scope = self._scope()
        if scope is not None:
            _set(connection, Role.tenant.value, str(scope.tenant or ""))
        elif self.outside is not None:
            _set(connection, *self.outside)

    def _scope(self) -> Scope | None:
        session = self._session()
        return None if session is None else scope_of(session)


_watches: weakref.WeakKeyDictionary[sa.Connection, _Watch] = weakref.WeakKeyDictionary()

_ENDED = "the transaction of a tenant's scope was ended on its connection: end it on the session"

# What must be possible whoever is the tenant: leaving, and rolling back.
_ALWAYS_ALLOWED = ("SET LOCAL ROLE ", "SET LOCAL platform.user_id ", "ROLLBACK TO SAVEPOINT ")


def _set(connection: sa.Connection, role: str, user_id: str) -> None:
    connection.exec_driver_sql("SET LOCAL ROLE " + connection.dialect.identifier_preparer.quote(role))
    connection.execute(_SET_USER_ID, {"value": user_id})


def _read(connection: sa.Connection) -> tuple[str, str]:
    row = connection.execute(_READ).one()
    return row.role, row.user_id


def _status(connection: sa.Connection) -> int:
    driver: Any = connection.connection.dbapi_connection
    status: int = driver.info.transaction_status
    return status


# There is no such role, or the login is not its member.
_NO_ROLE = frozenset({INVALID_PARAMETER_VALUE, INSUFFICIENT_PRIVILEGE})

_READ = sa.text(
    "SELECT current_setting('role') AS role, "
    " coalesce(current_setting('platform.user_id', true), '') AS user_id"
)

_SET_USER_ID = sa.text("SET LOCAL platform.user_id = :value")
