"""Values of calls as they are stored: bytes as they are, all else as JSON, each known by its hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from platform_db import errors

JSON, BYTES, ERROR = "json", "bytes", "error"
"""The types of values that this package records. Others are those of integrations, such as redun's."""

ERRORS = (ERROR, "redun.ErrorValue")
"""The types of values that stand for a failure."""

_FORMATS = {JSON: "application/json", ERROR: "application/json", BYTES: "application/octet-stream"}


@dataclass(frozen=True)
class Result:
    """What a call returned. Given as an argument, or within one, it says where the argument came from.

    :param is_cached: whether it was found in the cache.
    """

    value: Any
    value_hash: str
    call_hash: str
    is_cached: bool = False


class Value(NamedTuple):
    """A value as it is stored.

    :param type: the name of its type.
    :param format: the media type of its content.
    :param sources: the calls whose results are in it.
    """

    hash: str
    type: str
    format: str
    data: bytes
    sources: tuple[str, ...] = ()

    def row(self) -> dict[str, Any]:
        """Return the row of the table ``value``."""
        return {
            "value_hash": self.hash,
            "type": self.type,
            "format": self.format,
            "value": self.data,
            "size": len(self.data),
        }


def encode_value(value: Any, *, is_error: bool = False) -> Value:
    """Return a value as it is stored; equal values have one hash, whatever the order of their keys.

    :param value: bytes, or anything that JSON has; a :class:`Result` in it stands for what the call returned.
    :raises errors.InvalidArgument: it is something else.
    """
    sources: dict[str, None] = {}

    def plain(part: Any) -> Any:
        if not isinstance(part, Result):
            raise TypeError(f"{type(part).__name__} is neither")
        sources[part.call_hash] = None
        return part.value

    if isinstance(value, bytes | bytearray | memoryview):
        type_, data = BYTES, bytes(value)
    else:
        type_ = ERROR if is_error else JSON
        try:
            text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=plain)
            data = text.encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise errors.InvalidArgument(f"a value is bytes or what JSON has: {error}") from None
    return Value(hash_of("value", type_, data), type_, _FORMATS[type_], data, tuple(sources))


def decode_value(format_: str, data: bytes) -> Any:
    """Return what was recorded; where it is neither JSON nor bytes, its bytes."""
    return json.loads(bytes(data)) if format_ == _FORMATS[JSON] else bytes(data)


def hash_of(kind: str, *parts: str | bytes | Sequence[str] | Mapping[str, str] | None) -> str:
    """Return the hash of something that consists of these parts, as 40 hexadecimal digits."""
    *plain, last = (kind, *parts)
    content = last if isinstance(last, bytes) else b""
    texts = plain if isinstance(last, bytes) else [*plain, last]
    start = json.dumps(texts, sort_keys=True).encode()
    return hashlib.blake2b(start + b"\0" + content, digest_size=20).hexdigest()
