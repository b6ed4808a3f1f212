"""platform-db's errors where services catch SQLAlchemy's.

Services roll back and answer on ``IntegrityError``, ``StatementError`` and ``SQLAlchemyError``. So what the
database refuses, or a column, is raised as an error that is both: of its own class, and of one of these.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine.interfaces import ExceptionContext

from platform_db import errors
from platform_db.database.driver_errors import raise_own_error


def raise_both(context: ExceptionContext) -> None:
    """Turn an error of platform-db's into one that is SQLAlchemy's, too."""
    try:
        raise_own_error(context)
    except errors.PlatformDBError as error:
        other = sa.exc.IntegrityError if isinstance(error, errors.Refused) else sa.exc.StatementError
        if not isinstance(error, other):
            own = type(error)
            members = {"__str__": Exception.__str__, "code": own.code}
            error.__class__ = type(own.__name__, (own, other), members)
        raise


# In its place: of two that raise, the first one's error counts.
event.remove(sa.Engine, "handle_error", raise_own_error)
event.listen(sa.Engine, "handle_error", raise_both)
