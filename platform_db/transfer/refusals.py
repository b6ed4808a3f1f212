"""What the database refuses: whether a row is at fault."""

from __future__ import annotations

from platform_db.database import sqlstates


def is_of_rows(error: BaseException) -> bool:
    """Tell whether a row is at fault, and not the connection or the right to write."""
    return (sqlstates.sqlstate_of(error) or "").startswith(_CLASSES_OF_ROWS)


_CLASSES_OF_ROWS = (
    sqlstates.DATA_EXCEPTION_CLASS,
    sqlstates.CONSTRAINT_CLASS,
    sqlstates.PROGRAM_LIMIT_CLASS,
    "PD",
)
