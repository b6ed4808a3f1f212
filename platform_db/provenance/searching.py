"""Finding the rows that spoil a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from platform_db import errors
from platform_db.database import sqlstates
from platform_db.database.arrays import array
from platform_db.provenance import statements
from platform_db.provenance.batch import Batch, Entry
from platform_db.provenance.tables import TABLES

Refused = tuple[str, Any, str]
"""The table and the key of a row, and why it cannot be stored."""

Items = Sequence[tuple[Any, Entry]]


def find_refused(connection: sa.Connection, owner_id: str, batch: Batch) -> list[Refused]:
    """Return the rows of a batch that cannot be stored, also those that others of them keep from it.

    It writes the batch in the transaction of the connection, halving a table's rows until each one that is
    refused stands alone. Roll it back.
    """
    refused: list[Refused] = []
    for table in TABLES:
        refused += _try(connection, owner_id, table, list(batch.rows.get(table, {}).items()))
    return refused + _find_orphans(connection, owner_id, batch, refused)


def _try(connection: sa.Connection, owner_id: str, table: str, items: Items) -> Iterator[Refused]:
    if not items:
        return
    statement, parameters = statements.insert(table, owner_id, [entry.values for _, entry in items])
    try:
        with connection.begin_nested():
            connection.exec_driver_sql(statement, tuple(parameters))
        return
    except (errors.WrongUsage, errors.Refused) as error:
        reason = str(error)
    except sa.exc.DBAPIError as error:
        if not (sqlstates.sqlstate_of(error) or "").startswith(sqlstates.REFUSED_VALUES):
            raise
        reason = str(error.orig).partition("\n")[0]
    if len(items) == 1:
        yield table, items[0][0], reason
        return
    middle = len(items) // 2
    yield from _try(connection, owner_id, table, items[:middle])
    yield from _try(connection, owner_id, table, items[middle:])


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
