"""Reading rows of redun: what cannot be stored is refused, the rest is brought into one form and digested."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any, NamedTuple

from platform_db.integrations.redun_import.tables import OPTIONAL, Table
from platform_db.models.types import is_text, storable

LARGEST_BYTES = 500 * 1024**2
"""What a row may hold: a line of COPY has 1 GiB, and a byte takes two characters of it."""


class BadRow(Exception):
    """A row cannot be stored; the message says why, without a value of it."""


class Row(NamedTuple):
    """A row in the form in which both sides digest it.

    :param id: its key, as the report names it.
    :param values: its values as text, by column.
    :param references: for each column that names a row, whether that exists.
    :param size: how many bytes it stands for.
    :param data: its bytes, once they were read.
    :param compared: what its bytes are compared by: their number, or their digest once they were read.
    """

    id: str
    values: dict[str, str | None]
    references: Sequence[bool] = ()
    size: int = 0
    data: bytes | None = None
    compared: str = ""

    def with_data(self, data: bytes, size: int) -> Row:
        """Return it with its bytes."""
        digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
        return self._replace(data=data, size=size, compared=digest)


def read(table: Table, raw: Sequence[Any]) -> Row:
    """Return a row that the source gave.

    :raises BadRow: one of its values cannot be stored.
    """
    count = len(table.columns)
    values: dict[str, str | None] = {}
    for (column, type_), value in zip(table.columns.items(), raw, strict=False):
        kind = type_.removesuffix(OPTIONAL)
        if value is None:
            if kind == type_:
                raise BadRow(f"its {column} is missing")
            values[column] = None
            continue
        try:
            values[column] = _READERS[kind](value)
        except BadRow as error:
            raise BadRow(f"its {column} {error}") from None
    length = values["value"] if table.columns.get("value") == "bytes" else None
    return Row(
        id_of(table, raw),
        values,
        raw[count : count + len(table.references)],
        int(length or 0),
        compared=length or "",
    )


def id_of(table: Table, raw: Sequence[Any]) -> str:
    """Return the key of a row that may be one that cannot be stored; no two keys are shown alike."""
    at = list(table.columns).index
    return " ".join(storable(str(raw[at(column)]).replace("\\", "\\\\")) for column in table.key)


def digest(values: Iterable[str | None]) -> str:
    """Return the digest of values, as the database makes it of the stored ones (:mod:`.target`)."""
    text = "".join(":" if value is None else f"{len(value)}:{value}" for value in values)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise BadRow("is no text")
    if not is_text(value):
        raise BadRow("has a NUL character, or bytes that are not UTF-8")
    return value


def _number(value: Any) -> str:
    if not isinstance(value, int) or not -(2**31) <= value < 2**31:
        raise BadRow("is no number of 32 bits")
    return str(value)


def _flag(value: Any) -> str:
    if value not in (0, 1):
        raise BadRow("is neither true nor false")
    return "true" if value else "false"


def _time(value: Any) -> str:
    try:
        time = datetime.fromisoformat(value.removesuffix(" AD"))
        if time.tzinfo is not None:
            time = time.astimezone(timezone.utc).replace(tzinfo=None)
    except (AttributeError, ValueError, OverflowError):
        raise BadRow("is no time that the calendar has") from None
    return time.isoformat(" ", "microseconds")


def _json(value: Any) -> str:
    text = _text(value)
    try:
        read = json.dumps(
            json.loads(text, parse_constant=_refuse, parse_float=_number_of), ensure_ascii=False
        )
    except (ValueError, ArithmeticError, RecursionError):
        raise BadRow("is no JSON, or has a number that is none here") from None
    if not is_text(read) or _NUL.search(read):
        raise BadRow("has a NUL character, or half of a surrogate pair")
    return text


_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def _number_of(text: str) -> float:
    if abs(Decimal(text).adjusted()) > 10_000:  # The database has 131,072 digits.
        raise ValueError(text)
    return float(text)


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _length(value: Any) -> str:
    if value > LARGEST_BYTES:
        raise BadRow(f"is larger than {LARGEST_BYTES} bytes, and belongs into a value store")
    return str(value)


_READERS = {"text": _text, "number": _number, "flag": _flag, "time": _time, "json": _json, "bytes": _length}


def batches(rows: Iterable[Row], at_most: int, bytes_: int) -> Iterator[list[Row]]:
    """Yield the rows in lists of so many, or of so many bytes, at most."""
    batch: list[Row] = []
    size = 0
    for row in rows:
        own = row.size + sum(len(value) for value in row.values.values() if value)
        if batch and (len(batch) == at_most or size + own > bytes_):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += own
    if batch:
        yield batch
