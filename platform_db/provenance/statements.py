"""The statement that writes rows of one table: arrays as literals, one statement however many rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cache
from operator import itemgetter
from typing import Any

from platform_db.database.arrays import array
from platform_db.provenance.tables import TABLES

Values = tuple[Any, ...]
"""A row's values, in the order of the table's columns."""


def insert(table: str, owner_id: str, rows: Sequence[Values]) -> tuple[str, list[str]]:
    """Return the statement that writes rows, and its parameters.

    :raises UnicodeEncodeError: a text has half of a surrogate pair.
    """
    definition = TABLES[table]
    if definition.is_sorted:
        rows = sorted(rows, key=itemgetter(0))  # the key is the first column of each sorted table
    arrays = [
        array(None if value is None else encode(value) for value in column)
        for column, encode in zip(zip(*rows, strict=True), _encoders(table), strict=True)
    ]
    owners = [owner_id] * (2 if definition.condition else 1)
    return _insert(table), [owners[0], *arrays, *owners[1:]]


# The jobs whose execution is missing, and the executions whose job is. Foreign keys that are checked at the commit
# name one such row only.
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
    WHERE execution.job_id IS NOT NULL AND NOT EXISTS (
        SELECT FROM platform.call_job AS job
        WHERE job.owner_id = execution.owner_id AND job.id = execution.job_id
    )
"""


@cache
def _insert(table: str) -> str:
    definition = TABLES[table]
    columns = ", ".join(f'"{name}"' for name in definition.columns)
    arrays = ", ".join(f"%s::{type_}[]" for type_ in definition.types.values())
    key = ", ".join(("owner_id", *definition.key))
    return (
        f"INSERT INTO platform.{table} (owner_id, {columns})"
        f" SELECT %s::uuid, u.* FROM unnest({arrays}) AS u ({columns}) {definition.condition}"
        f" ON CONFLICT ({key}) {definition.conflict}"
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
