"""Messages as JSON text that loses nothing: times, bytes and numbers that JSON lacks are tagged.

A time is ``{"$date": "2026-11-21T07:30:00+00:00"}``, bytes are ``{"$hex": "00ff"}``, and NaN and the
infinities are ``{"$float": "nan"}``. A dictionary of the user's own that looks like one of these gets
another ``$`` before its key. The text is ASCII, with NUL and halves of surrogate pairs escaped.
"""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Callable
from datetime import datetime
from numbers import Integral, Real
from typing import Any

# How often the encoder has met what it tags: when a text has more that looks like a tag, a user wrote it.
_met = threading.local()

_LOOKS_LIKE_A_TAG = '{"$'
_ESCAPED = re.compile(r"\$+(date|hex|float)")


def encode_message(value: Any) -> str:
    """Return a value as JSON text.

    :raises TypeError: a part of it is of a type that has no JSON.
    :raises ValueError: it contains itself, or is nested too deep.
    """
    _met.tags = 0
    try:
        try:
            text = _ENCODER.encode(value)
        except ValueError:  # NaN or an infinity; what contains itself fails below, too
            return _ENCODER.encode(_tagged(value))
        if _met.tags != text.count(_LOOKS_LIKE_A_TAG):
            return _ENCODER.encode(_tagged(value))
        return text
    except RecursionError:
        raise ValueError("a value of a task record is nested too deep") from None


def decode_message(text: str) -> Any:
    """Return what :func:`encode_message` was given; tuples and sets come back as lists, keys as texts."""
    # The scanner itself: what the database has stored is JSON and nothing else.
    return (_scan_tags if _LOOKS_LIKE_A_TAG in text else _scan)(text, 0)[0]


def _convert(value: Any) -> Any:
    """Return what stands for a value that JSON has no place for."""
    if isinstance(value, datetime):
        _met.tags += 1
        return {"$date": value.isoformat()}
    if isinstance(value, bytes | bytearray | memoryview):
        _met.tags += 1
        return {"$hex": value.hex()}
    if isinstance(value, Integral):  # such as NumPy's
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, set | frozenset):
        return list(value)
    raise TypeError(f"a {type(value).__name__} cannot be stored in a task record")


def _tagged(value: Any) -> Any:
    """Return a copy with what JSON lacks tagged, and with the user's own tags escaped."""
    if isinstance(value, dict):
        if len(value) == 1 and isinstance(key := next(iter(value)), str) and _ESCAPED.fullmatch(key):
            return {f"${key}": _tagged(value[key])}
        return {key: _tagged(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_tagged(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(float(value))}
    if value is None or isinstance(value, str | int | float):
        return value
    converted = _convert(value)
    return _tagged(converted) if isinstance(converted, list | float) else converted


def _untagged(found: dict[str, Any]) -> Any:
    if len(found) == 1:
        ((key, value),) = found.items()
        if key in _TAGS:
            return _TAGS[key](value)
        if _ESCAPED.fullmatch(key):
            return {key[1:]: value}
    return found


_TAGS: dict[str, Callable[[str], Any]] = {
    "$date": datetime.fromisoformat,
    "$hex": bytes.fromhex,
    "$float": float,
}
_ENCODER = json.JSONEncoder(default=_convert, allow_nan=False)
_Scan = Callable[[str, int], tuple[Any, int]]
_scan: _Scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
_scan_tags: _Scan = json.JSONDecoder(object_hook=_untagged).scan_once  # type: ignore[attr-defined]
