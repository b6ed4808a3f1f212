"""Finding the rows that spoil a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from platform_db import errors
from platform_db.database import sqlstates
from platform_db.database.arrays import array
from platform_db.database.distribution import execute_for
from platform_db.database.driver_errors import reason_of
from platform_db.provenance import statements
from platform_db.provenance.batch import Batch, Entry
from platform_db.provenance.tables import TABLES

Refused = tuple[str, Any, str]
"""The table and the key of a row, and why it cannot be stored."""

Items = Sequence[tuple[Any, Entry]]

UNWRITABLE = (errors.WrongUsage, errors.Refused, TypeError, ValueError, AttributeError)
"""What a row is refused with, beside the server's errors: a text, the quota, a value of another type."""


def is_refusal(error: sa.exc.DBAPIError) -> bool:
    """Tell whether rows of a batch caused an error, as two of one key do, too."""
    return (
        sqlstates.is_refused_value(error) or sqlstates.sqlstate_of(error) == sqlstates.CARDINALITY_VIOLATION
    )


def find_refused(connection: sa.Connection, owner_id: str, batch: Batch) -> list[Refused]:
    """Return the rows of a batch that cannot be stored, also those that others of them keep from it.

    It writes the batch in the transaction of the connection, halving a table's rows until each one that is
    refused stands alone. Roll it back.
    """
    refused: list[Refused] = []
    for table in TABLES:
        # In the order in which others lock them, too: each half keeps the locks of those before it.
        items = sorted(batch.rows.get(table, {}).items(), key=lambda item: str(item[0]))
        if items:
            search = _Search(connection, owner_id, table, max(1, len(items) // 32))
            refused += search.refused(items)
    return refused + _find_orphans(connection, owner_id, batch, refused)


class _Search(NamedTuple):
    """A search through the rows of one table.

    :param coarse: how many rows the owner's quota refuses together: each one alone would take minutes.
    """

    connection: sa.Connection
    owner_id: str
    table: str
    coarse: int

    def refused(self, items: Items) -> Iterator[Refused]:
        """Write rows, and yield those that are refused."""
        error = self._try(items)
        if error is None:
            return
        if len(items) > (self.coarse if isinstance(error, errors.QuotaExceeded) else 1):
            middle = len(items) // 2
            yield from self.refused(items[:middle])
            yield from self.refused(items[middle:])
        else:
            yield from ((self.table, key, reason_of(error)) for key, _ in items)

    def _try(self, items: Items) -> Exception | None:
        given = {self.table: [entry.values for _, entry in items]}
        try:
            with self.connection.begin_nested():
                for statement, values in statements.insert_all(self.owner_id, given, in_parts=True):
                    execute_for(self.connection, self.owner_id, statement, tuple(values))
        except UNWRITABLE as error:
            return error
        except sa.exc.DBAPIError as error:
            if not is_refusal(error):
                raise
            return error
        return None


def _find_orphans(
    connection: sa.Connection, owner_id: str, batch: Batch, refused: list[Refused]
) -> list[Refused]:
    """Return the jobs without an execution, and the executions without a job: the commit refuses them."""
    found = {(table, key) for table, key, _ in refused}
    tried = {
        table: array(key for key in batch.rows.get(table, {}) if (table, key) not in found)
        for table in ("call_job", "call_execution")
    }
    rows = connection.exec_driver_sql(
        statements.ORPHANS, (tried["call_job"], owner_id, tried["call_execution"], owner_id)
    )
    missing = {"call_job": "its execution is not stored", "call_execution": "its first job is not stored"}
    return [(table, key, missing[table]) for table, key in rows]
