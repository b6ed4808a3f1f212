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

DATA_EXCEPTION_CLASS = "22"
CONSTRAINT_CLASS = "23"
ROLLBACK_CLASS = "40"
PROGRAM_LIMIT_CLASS = "54"
CONNECTION_EXCEPTION_CLASS = "08"
SHUTDOWN_CLASS = "57P"

# What a row's own values cause; of anything else every row would suffer.
REFUSED_VALUES = (DATA_EXCEPTION_CLASS, CONSTRAINT_CLASS, PROGRAM_LIMIT_CLASS, INTERNAL_ERROR)

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
