"""Records as columns hold them: each key's value encoded, so that nothing of it is lost or shared."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple

from platform_db.tasks.messages import decode_message, encode_message

Record = dict[str, Any]
"""What users give and get: a value by each key."""

EXTRA = "extra"


class Encoded(NamedTuple):
    """A record as columns hold it, or changes of one; it is never changed in place.

    :param values: JSON text, text, framed bytes, or times in UTC, by column. ``extra`` is a dictionary of
        JSON text; None stands there for a value that was taken away.
    :param size: bytes of the values; times do not count.
    """

    values: dict[str, Any]
    size: int


def encode_text(text: str) -> str:
    r"""Return text that the database can store: NUL and half surrogates are U+E000 and four digits."""
    return text if text.isascii() and "\0" not in text else _UNSTORABLE.sub(_as_digits, text)


def decode_text(text: str) -> str:
    """Return what :func:`encode_text` was given."""
    return text if text.isascii() or _MARK not in text else _DIGITS.sub(_as_character, text)


_MARK = "\ue000"
_UNSTORABLE = re.compile(f"[\0\ud800-\udfff{_MARK}]")
_DIGITS = re.compile(f"{_MARK}([0-9a-f]{{4}})")


def _as_digits(found: re.Match[str]) -> str:
    return f"{_MARK}{ord(found[0]):04x}"


def _as_character(found: re.Match[str]) -> str:
    return chr(int(found[1], 16))


def encode_time(time: datetime) -> datetime:
    """Return a time in UTC; one without a zone is local time.

    :raises ValueError: it is no time, or none that UTC has.
    """
    if not isinstance(time, datetime):
        raise ValueError(f"a time must be None or a datetime, not a {type(time).__name__}")
    try:
        return time.astimezone(timezone.utc)
    except OverflowError:
        raise ValueError("a time is out of range") from None


def _decode_time(time: datetime) -> datetime:
    """Return a time in UTC; the driver gives it in the zone of the server."""
    return time if time.tzinfo is timezone.utc else time.astimezone(timezone.utc)


def _frame(buffers: Sequence[Any]) -> bytes:
    views = [memoryview(buffer) for buffer in buffers]
    return struct.pack(f"<{len(views) + 1}Q", len(views), *(view.nbytes for view in views)) + b"".join(views)


def _unframe(framed: Any) -> list[bytes]:
    data = bytes(framed)
    count = int.from_bytes(data[:8], "little")
    place, buffers = 8 * (count + 1), []
    for length in struct.unpack_from(f"<{count}Q", data, 8):
        buffers.append(data[place : place + length])
        place += length
    return buffers


MESSAGES = (
    "header",
    "metadata",
    "content",
    "result_header",
    "result_metadata",
    "result_content",
    "execute_result",
    "error",
)
BUFFERS = ("buffers", "result_buffers")
TIMES = ("submitted", "started", "completed", "received")
TEXTS = (
    "client_uuid",
    "engine_uuid",
    "resubmitted",
    "queue",
    "label",
    "execute_input",
    "stdout",
    "stderr",
)
COLUMNS = (*MESSAGES, *BUFFERS, *TIMES, *TEXTS)
"""The keys that have a column, beside ``msg_id``."""

_ENCODERS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(MESSAGES, encode_message),
    **dict.fromkeys(BUFFERS, _frame),
    **dict.fromkeys(TIMES, encode_time),
    **dict.fromkeys(TEXTS, encode_text),
}
_DECODERS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(MESSAGES, decode_message),
    **dict.fromkeys(BUFFERS, _unframe),
    **dict.fromkeys(TIMES, _decode_time),
    **dict.fromkeys(TEXTS, decode_text),
}


_NOTHING = dict.fromkeys(COLUMNS)


def encode_record(record: Mapping[str, Any], *, changes: bool = False) -> Encoded:
    """Return the columns of a record.

    :param changes: whether these are changes of one: then what is None takes a value away.
    :raises ValueError: a time is none.
    :raises TypeError: a value cannot be encoded.
    """
    encoded: dict[str, Any] = {}
    extra: dict[str, str | None] = {}
    for key, value in record.items():
        encode = _ENCODERS.get(key)
        if encode is None:
            if key != "msg_id":
                extra[encode_text(key)] = encode_message(value)
        elif value is None:
            encoded[key] = None
            if changes and encode is encode_text:
                extra[key] = None
        elif encode is encode_text and not isinstance(value, str):
            encoded[key], extra[key] = None, encode_message(value)
        else:
            encoded[key] = encode(value)
    if extra:
        encoded[EXTRA] = extra
    return Encoded(encoded, _size_of(encoded))


def merge(encoded: Encoded, changes: Encoded) -> Encoded:
    """Return a record, or changes of it, with more changes."""
    merged = {**encoded.values, **changes.values}
    if EXTRA in changes.values and encoded.values.get(EXTRA):
        merged[EXTRA] = {**encoded.values[EXTRA], **changes.values[EXTRA]}
    return Encoded(merged, _size_of(merged))


def decode_record(
    msg_id: str, values: Iterable[tuple[str, Any]], keys: Collection[str] | None = None
) -> Record:
    """Return the record whose columns have these values.

    :param values: pairs of a column and its value; ``extra`` may be a dictionary or its JSON text.
    :param keys: the keys to return beside ``msg_id``; by default all columns', and those without one.
    :raises KeyError: names a key that the record does not have.
    """
    wanted = _NOTHING if keys is None else dict.fromkeys(key for key in keys if key in _DECODERS)
    record: Record = {"msg_id": msg_id, **wanted}
    extra: Any = None
    for key, value in values:
        if value is not None:
            if key in record:
                record[key] = _DECODERS[key](value)
            elif key == EXTRA:
                extra = json.loads(value) if isinstance(value, str) else value
    for encoded_key, text in (extra or {}).items():
        key = decode_text(encoded_key)
        if text is not None and record.get(key) is None and (keys is None or key in keys):
            record[key] = decode_message(text)
    for key in keys or ():
        if key not in record:
            raise KeyError(key)
    return record


def _size_of(values: Mapping[str, Any]) -> int:
    size = 0
    for value in values.values():
        if isinstance(value, str):
            size += len(value) if value.isascii() else len(value.encode())
        elif isinstance(value, bytes):
            size += len(value)
        elif isinstance(value, dict):
            size += len(json.dumps(value, ensure_ascii=False).encode())
    return size
