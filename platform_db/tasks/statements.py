"""The statements that write a batch of records."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from functools import cache
from typing import Any, NamedTuple

from platform_db.database.arrays import array
from platform_db.tasks.encoding import BUFFERS, COLUMNS, EXTRA, MESSAGES, TEXTS, TIMES, Encoded

TABLE = "platform.task_record"

_TYPES = {
    **dict.fromkeys(COLUMNS, "text"),
    **dict.fromkeys(MESSAGES, "json"),
    **dict.fromkeys(BUFFERS, "bytea"),
    **dict.fromkeys(TIMES, "timestamptz"),
    EXTRA: "jsonb",
}

WRITTEN = (*COLUMNS, EXTRA)
"""The columns with a record's values."""

COPY = f"COPY {TABLE} (owner_id, cluster, msg_id, {', '.join(WRITTEN)}, size) FROM STDIN"

Parameters = list[str]


class History(NamedTuple):
    """Whose records these are, and under what name; both as text."""

    owner_id: str
    cluster: str

    @property
    def lock_totals(self) -> tuple[str, Parameters]:
        """The statement that goes before one that changes or deletes records.

        So two writers do not deadlock. ``COPY`` is the exception, for its speed: it locks the totals after
        its new rows, and where another store adds the same id at that moment, one of the two tries again.
        """
        return _LOCK_TOTALS, [self.owner_id]


_LOCK_TOTALS = """SELECT FROM platform.user_resource WHERE owner_id = %s::uuid
    ORDER BY owner_id, resource_id FOR NO KEY UPDATE"""


def copied(history: History, records: Mapping[str, Encoded]) -> io.StringIO:
    """Return what ``COPY`` reads: a line for each record, in the order of their ids."""
    start = f"{history.owner_id}\t{_copied(history.cluster)}\t"
    return io.StringIO(
        "".join(
            f"{start}{_copied(msg_id)}\t{_line(record.values)}{record.size}\n"
            for msg_id, record in sorted(records.items())
        )
    )


def _line(values: Mapping[str, Any]) -> str:
    fields = []
    for name, copy in _COPIED.items():
        value = values.get(name)
        fields.append("\\N\t" if value is None else f"{copy(value)}\t")
    return "".join(fields)


def _copied(text: str) -> str:
    if text.isalnum():
        return text
    return text.replace("\\", r"\\").replace("\n", r"\n").replace("\r", r"\r").replace("\t", r"\t")


# JSON text has no line ends or tabs.
_COPIED: dict[str, Callable[[Any], str]] = {
    **dict.fromkeys(COLUMNS, _copied),
    **dict.fromkeys(MESSAGES, lambda text: text.replace("\\", r"\\")),
    **dict.fromkeys(BUFFERS, lambda framed: rf"\\x{framed.hex()}"),
    **dict.fromkeys(TIMES, datetime.isoformat),
    EXTRA: lambda values: _copied(json.dumps(values, ensure_ascii=False)),
}


def insert(history: History, records: Mapping[str, Encoded]) -> tuple[str, Parameters]:
    """Return the statement that stores records, also in the place of those of the same ids."""
    msg_ids = sorted(records)
    rows = [records[msg_id] for msg_id in msg_ids]
    arrays = [array(msg_ids), *_columns(rows, WRITTEN), array(str(row.size) for row in rows)]
    return _INSERT, [*history, *arrays]


def update(history: History, changes: Mapping[str, Encoded]) -> Iterable[tuple[str, Parameters]]:
    """Yield a statement for each set of columns, that changes the records that are there."""
    sets: dict[tuple[str, ...], list[str]] = {}
    for msg_id in sorted(changes):
        sets.setdefault(tuple(sorted(changes[msg_id].values)), []).append(msg_id)
    for names, msg_ids in sets.items():
        arrays = _columns([changes[msg_id] for msg_id in msg_ids], names)
        yield _update(names), [history.owner_id, array(msg_ids), *arrays, history.cluster]


def select_text(names: Sequence[str]) -> str:
    """Return the expressions that read these columns, with JSON as the text that it is."""
    return ", ".join(f"{name}::text" if _TYPES.get(name, "").startswith("json") else name for name in names)


READ = "SELECT * FROM platform.read_task_record(%s::uuid, %s, %s)"
"""Reads one record, by its history and its id."""


def read_record(texts: Sequence[str] | None, buffers: Any, result_buffers: Any, size: int) -> Encoded | None:
    """Return the record of the row that :data:`READ` gives; None where there is none."""
    if texts is None:
        return None
    values: dict[str, Any] = dict(zip(_READ_AS_TEXT, texts, strict=True))
    for name in TIMES:
        if values[name] is not None:
            values[name] = _EPOCH + timedelta(microseconds=int(values[name]))
    if values[EXTRA] is not None:
        values[EXTRA] = json.loads(values[EXTRA])
    return Encoded({**values, **dict(zip(BUFFERS, (buffers, result_buffers), strict=True))}, size)


_READ_AS_TEXT = (*MESSAGES, *TIMES, *TEXTS, EXTRA)  # schema/sql/task_records.sql
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def _columns(rows: Sequence[Encoded], names: Iterable[str]) -> list[str]:
    return [array(_as_text(row.values.get(name)) for row in rows) for name in names]


def _as_text(value: Any) -> str | None:
    """Return a column's value as the server reads it."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return f"\\x{value.hex()}"
    return json.dumps(value, ensure_ascii=False)


def _arrays(names: Iterable[str]) -> str:
    return "".join(f", %s::{_TYPES[name]}[]" for name in names)


_INSERT = f"""
    INSERT INTO {TABLE} (msg_id, {", ".join(WRITTEN)}, size, owner_id, cluster)
    SELECT added.*, %s::uuid, %s::text FROM unnest(%s::text[]{_arrays(WRITTEN)}, %s::bigint[]) AS added
    ON CONFLICT (owner_id, msg_id) DO UPDATE
    SET cluster = excluded.cluster, size = excluded.size,
        {", ".join(f"{name} = excluded.{name}" for name in WRITTEN)}
"""


@cache
def _update(names: tuple[str, ...]) -> str:
    """Return the statement that changes these columns.

    The owner stands in a materialized row source, and the cluster in an expression: as constants, they would
    let an index that starts with them win against the primary key, where statistics do not know them yet.
    """
    new = {name: f"changed.{name}" for name in names}
    if EXTRA in new:
        new[EXTRA] = f"nullif(jsonb_strip_nulls(coalesce(record.{EXTRA}, '{{}}') || changed.{EXTRA}), '{{}}')"
    grown = "".join(
        f" + {_length(name, value)} - {_length(name, f'record.{name}')}"
        for name, value in new.items()
        if name not in TIMES
    )
    return f"""
        WITH changed AS MATERIALIZED (
            SELECT %s::uuid AS owner_id, * FROM unnest(%s::text[]{_arrays(names)})
                AS changed (msg_id, {", ".join(names)})
        )
        UPDATE {TABLE} AS record
        SET {", ".join(f"{name} = {value}" for name, value in new.items())}, size = record.size{grown}
        FROM changed
        WHERE record.owner_id = changed.owner_id AND record.msg_id = changed.msg_id
            AND record.cluster || '' = %s
    """


def _length(name: str, value: str) -> str:
    return f"coalesce(octet_length({value if name in BUFFERS else f'({value})::text'}), 0)"
