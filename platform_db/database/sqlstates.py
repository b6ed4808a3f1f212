"""What the server's SQLSTATEs mean that this package acts on.

The standard ones are in https://www.postgresql.org/docs/current/errcodes-appendix.html. Those that begin with
PD are platform-db's own; its functions in the database raise them.
"""

from __future__ import annotations

INVALID_PARAMETER_VALUE = "22023"
FOREIGN_KEY_VIOLATION = "23503"
UNIQUE_VIOLATION = "23505"
CARDINALITY_VIOLATION = "21000"
SERIALIZATION_FAILURE = "40001"
DEADLOCK_DETECTED = "40P01"
INSUFFICIENT_PRIVILEGE = "42501"
DUPLICATE_OBJECT = "42710"
DUPLICATE_DATABASE = "42P04"
LOCK_NOT_AVAILABLE = "55P03"
QUERY_CANCELED = "57014"
INTERNAL_ERROR = "XX000"

READ_ONLY_TRANSACTION = "25006"

DATA_EXCEPTION_CLASS = "22"
CONSTRAINT_CLASS = "23"
ROLLBACK_CLASS = "40"
RESOURCES_CLASS = "53"
PROGRAM_LIMIT_CLASS = "54"
SYSTEM_CLASS = "58"
CONNECTION_EXCEPTION_CLASS = "08"
SHUTDOWN_CLASS = "57P"

OWN_CLASS = "PD"

_REFUSED_VALUES = (DATA_EXCEPTION_CLASS, CONSTRAINT_CLASS, PROGRAM_LIMIT_CLASS, INTERNAL_ERROR, OWN_CLASS)

# A full disk or memory, a broken one, a standby; a statement that waited or took too long; a deadlock.
NOT_WRITABLE = (
    ROLLBACK_CLASS,
    RESOURCES_CLASS,
    SYSTEM_CLASS,
    READ_ONLY_TRANSACTION,
    LOCK_NOT_AVAILABLE,
    QUERY_CANCELED,
)

# There is no such role, the login is not its member, or it has not the privileges.
NO_ROLE = (INVALID_PARAMETER_VALUE, INSUFFICIENT_PRIVILEGE)

INVALID_TRANSITION = "PD001"
APPEND_ONLY = "PD002"
REFUSED = "PD003"
NO_SUCH_RUN = "PD004"
QUOTA_EXCEEDED = "PD005"
CYCLE = "PD006"


def sqlstate_of(error: BaseException | None) -> str | None:
    """Return the SQLSTATE of an error of the driver, or of SQLAlchemy's around it; None where there is none.

    Without one the driver itself gave up.
    """
    return getattr(getattr(error, "orig", error), "pgcode", None)


def is_refused_value(error: BaseException) -> bool:
    """Tell whether a row's own values caused an error; from any other every row would suffer."""
    sqlstate = sqlstate_of(error) or ""
    return sqlstate.startswith(_REFUSED_VALUES) and sqlstate not in NO_ROLE
