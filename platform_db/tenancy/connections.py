"""The role and the tenant's id on the connection of a transaction, and the watch that keeps them there.

``SET LOCAL`` ends with the transaction, and what is set before any savepoint outlives each rollback to one.
So only the end of the transaction ends the scope. The watch looks for it in the state of the connection, not
in the text of statements, which can be written in too many ways.

The driver knows that state without asking the server. Whether a transaction goes on is not enough:
``COMMIT; BEGIN`` in one text leaves one behind, outside the scope. So a third setting marks the scope's
transaction: ``application_name``, which the server reports by itself whenever it changes.
"""

from __future__ import annotations

import uuid
from typing import Any

import sqlalchemy as sa
from psycopg2.extensions import TRANSACTION_STATUS_INERROR, TRANSACTION_STATUS_INTRANS
from sqlalchemy import event

from platform_db import errors
from platform_db.database.sqlstates import NO_ROLE, sqlstate_of
from platform_db.tenancy.privileges import Role, role_name

MARK = "scope: "


def enter(connection: sa.Connection, tenant: uuid.UUID | None) -> None:
    """Set the role and the tenant until the transaction ends, and watch for its end.

    :raises errors.PlatformDBError: the connection commits each statement, so nothing can be set.
    :raises errors.RolesMissing: the database's roles are missing, or this login may not use them.
    """
    driver: Any = connection.connection.driver_connection
    if driver.autocommit:
        raise errors.PlatformDBError(
            "a tenant's scope needs transactions: the connection commits each statement"
        )
    role, name = role_name(Role.tenant), driver.info.parameter_status("application_name")
    try:
        connection.exec_driver_sql(f"SET LOCAL ROLE {role}")
    except sa.exc.DBAPIError as error:
        if sqlstate_of(error) in NO_ROLE:
            raise errors.RolesMissing(
                f"this login cannot become {role}: {error.orig.diag.message_primary}"  # type: ignore[union-attr]
            ) from None
        raise
    connection.execute(_SET_USER_ID, {"value": str(tenant or "")})
    connection.execute(_SET_MARK, {"value": f"{MARK}{name}"})
    _watch(connection, driver.info)


def _watch(connection: sa.Connection, info: Any) -> None:
    """Refuse each statement, its result and the commit once the transaction is not the scope's any more."""
    mark = info.parameter_status("application_name")

    def check(connection: sa.Connection, *_: Any) -> None:
        if info.transaction_status in _GOES_ON and info.parameter_status("application_name") == mark:
            return
        connection.invalidate()  # What the text did after the scope's transaction is not committed, then.
        raise errors.Refused(
            "the transaction of a tenant's scope was ended on its connection: end it on the session"
        )

    for moment in ("before_cursor_execute", "after_cursor_execute", "commit"):
        event.listen(connection, moment, check)


_GOES_ON = frozenset({TRANSACTION_STATUS_INTRANS, TRANSACTION_STATUS_INERROR})

_SET_USER_ID = sa.text("SET LOCAL platform.user_id = :value")

_SET_MARK = sa.text("SET LOCAL application_name = :value")
