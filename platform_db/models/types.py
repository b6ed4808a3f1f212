"""Column types that the models share."""

from __future__ import annotations

import enum
import json
import math
import re
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ENUM, JSONB

from platform_db import errors
from platform_db.identifiers import SCHEMA

Timestamp = sa.DateTime(timezone=True)

# Ordered by bytes: prefixes are found by an index, and comparisons are Python's.
ByteOrdered = sa.Text(collation="C")


class Json(sa.TypeDecorator[Any]):
    """A column of ``jsonb``. What that has no place for is refused before it reaches the server.

    There it would end the transaction: NUL, half of a surrogate pair, and numbers that are none.
    """

    impl = JSONB(none_as_null=True)
    cache_ok = True

    def bind_processor(self, dialect: sa.Dialect) -> Callable[[Any], str | None]:
        """Return what makes a value the text that the server reads."""
        return encode_json


def encode_json(value: Any) -> str | None:
    """Return a value as JSON text; None, which the database stores as NULL, has none.

    :raises errors.InvalidText: names the place, as ``labels.team[0]`` without the column.
    :raises errors.InvalidArgument: a part of it is of a type that JSON does not have, or it is too deep.
    """
    if value is None or isinstance(value, sa.Null):
        return None
    if value is sa.JSON.NULL:
        return "null"
    try:
        text = _ENCODER.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        if _CIRCLE not in str(error):
            _require_storable(value, "")
        raise errors.InvalidArgument(f"this cannot be stored as JSON: {error}") from None
    # The text is ASCII. Only where it has one of these, the value is looked through.
    if "\\u0000" in text or "\\ud" in text:
        _require_storable(value, "")
    return text


_ENCODER = json.JSONEncoder(allow_nan=False)
_CIRCLE = "Circular reference"  # The encoder's own words.


def _require_storable(value: Any, place: str) -> None:
    if isinstance(value, str) and not is_text(value):
        raise errors.InvalidText(f"the text{place and f' at {place}'} has a NUL or half of a surrogate pair")
    if isinstance(value, float) and not math.isfinite(value):
        raise errors.InvalidText(f"{value}{place and f' at {place}'} is no number that JSON has")
    if isinstance(value, dict):
        for key, part in value.items():
            shown = str(key).encode("unicode_escape").decode("ascii")
            _require_storable(key, f"the key {shown}")
            _require_storable(part, f"{place}.{shown}".lstrip("."))
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            _require_storable(part, f"{place}[{number}]")


def is_text(text: str) -> bool:
    """Tell whether the database can store ``text``: it has no NUL and no half of a surrogate pair."""
    return _UNSTORABLE.search(text) is None


_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def storable(text: str) -> str:
    """Return the text with what the database has no place for, NUL and half surrogate pairs, spelt out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")


def native_enum(members: type[enum.Enum], name: str) -> ENUM:
    """Return the native enumeration ``platform.<name>`` that stores the members' values."""
    return ENUM(
        members,
        name=name,
        schema=SCHEMA,
        values_callable=lambda enumeration: [member.value for member in enumeration],
    )
