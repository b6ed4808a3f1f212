"""The statement that writes rows of one table: arrays as literals, one statement however many rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from operator import itemgetter
from typing import Any

import sqlalchemy as sa

from platform_db.database.arrays import array
from platform_db.provenance.tables import TABLES

Row = Mapping[str, Any]
"""Values by column; a column that is missing is NULL."""

Values = tuple[Any, ...]
"""A row's values, in the order of the table's columns."""


# What the encoding of a row takes beside its texts and bytes, roughly.
ROW_BYTES = 100

_SIZED = (str, bytes)  # not a union, which each row would make again

# The server ends a connection that sends 1 GiB at once, and a byte takes up to four in a statement.
LARGEST_STATEMENT = 128 * 1024**2


def write(connection: sa.Connection, owner_id: object, rows: Mapping[str, Mapping[Any, Row]]) -> None:
    """Write rows in the transaction of a connection.

    :param rows: rows by their keys, by table.
    """
    given = {
        table: [values_of(table, row) for row in by_key.values()] for table, by_key in rows.items() if by_key
    }
    for statement, parameters in insert_all(str(owner_id), given, in_parts=True):
        connection.exec_driver_sql(statement, tuple(parameters))


def values_of(table: str, row: Row) -> Values:
    """Return a row's values in the order of the table's columns."""
    return tuple(map(row.get, TABLES[table].types))


def size_of(values: Values) -> int:
    """Return the bytes of a row, roughly."""
    return ROW_BYTES + sum([len(value) for value in values if isinstance(value, _SIZED)])


def insert_all(
    owner_id: str, rows: Mapping[str, Sequence[Values]], *, in_parts: bool = False
) -> Iterator[tuple[str, list[str]]]:
    """Yield the statements that write rows of any tables, in an order that the foreign keys allow.

    :param in_parts: whether to yield several statements of a table where one would be too long.
    """
    for table in TABLES:
        if rows.get(table):
            for part in _in_parts(table, rows[table]) if in_parts else [rows[table]]:
                yield insert(table, owner_id, part)


def _in_parts(table: str, rows: Sequence[Values]) -> Iterator[Sequence[Values]]:
    part: list[Values] = []
    size = 0
    for row in _sorted(table, rows):
        more = size_of(row)
        if part and size + more > LARGEST_STATEMENT:
            yield part
            part, size = [], 0
        part.append(row)
        size += more
    yield part


def insert(table: str, owner_id: str, rows: Sequence[Values]) -> tuple[str, list[str]]:
    """Return the statement that writes rows of one table, and its parameters."""
    rows = _sorted(table, rows)
    arrays = [
        array(None if value is None and encode is not json.dumps else encode(value) for value in column)
        for column, encode in zip(zip(*rows, strict=True), _encoders(table), strict=True)
    ]
    before = [owner_id, arrays[0]] if table == "value" else []
    return _insert(table), [*before, owner_id, *arrays]


def _sorted(table: str, rows: Sequence[Values]) -> Sequence[Values]:
    # The key is the first column of each sorted table.
    return sorted(rows, key=itemgetter(0)) if TABLES[table].is_sorted else rows


# The jobs whose execution is missing, and the executions whose job is: of these foreign keys, which are
# checked at the commit, an error names one row alone.
ORPHANS = """
    SELECT 'call_job', job.id FROM unnest(%s::text[]) AS given (id)
    JOIN platform.call_job AS job ON job.owner_id = %s::uuid AND job.id = given.id COLLATE "C"
    WHERE NOT EXISTS (
        SELECT FROM platform.call_execution AS execution
        WHERE execution.owner_id = job.owner_id AND execution.id = job.execution_id
    )
    UNION ALL
    SELECT 'call_execution', execution.id FROM unnest(%s::text[]) AS given (id)
    JOIN platform.call_execution AS execution
        ON execution.owner_id = %s::uuid AND execution.id = given.id COLLATE "C"
    WHERE NOT EXISTS (
        SELECT FROM platform.call_job AS job
        WHERE job.owner_id = execution.owner_id AND job.id = execution.job_id
    )
"""


@cache
def _insert(table: str) -> str:
    definition = TABLES[table]
    columns = ", ".join(f'"{name}"' for name in definition.types)
    written = ", ".join(definition.instead.get(name, f'u."{name}"') for name in definition.types)
    arrays = ", ".join(f"%s::{type_}[]" for type_ in definition.types.values())
    # Values that are there already are kept from being pruned until the batch commits.
    before = "SELECT platform.keep_values(%s::uuid, %s::text[]);" if table == "value" else ""
    return (
        f"{before}INSERT INTO platform.{table} (owner_id, {columns})"
        f" SELECT o.owner_id, {written} FROM (SELECT %s::uuid AS owner_id) AS o"
        f" CROSS JOIN unnest({arrays}) AS u ({columns}) {definition.condition}"
        f" ON CONFLICT (owner_id, {', '.join(definition.key)}) {definition.conflict}"
    )


@cache
def _encoders(table: str) -> tuple[Callable[[Any], str], ...]:
    return tuple(_ENCODERS[type_] for type_ in TABLES[table].types.values())


_ENCODERS: dict[str, Callable[[Any], str]] = {
    "text": str,
    "uuid": str,
    "integer": str,
    "bigint": str,
    "boolean": lambda value: "t" if value else "f",
    "bytea": lambda data: f"\\x{data.hex()}",
    "timestamptz": datetime.isoformat,
    "jsonb": json.dumps,
}
