"""Cursors: where the next page of a list begins.

A cursor is opaque, safe in URLs, and bound to the query that made it: the same list, with the same filters.
It is checked in full before anything reaches the server, so that a wrong one leaves the transaction usable.
"""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from typing import Any, Generic, NamedTuple, TypeVar

from platform_db import errors

VERSION = 1
LARGEST_NUMBER = 2**63 - 1

T = TypeVar("T")


class Total(NamedTuple):
    """How many rows a list has.

    :param number: so many, or so many at least.
    :param is_exact: whether there are no more.
    """

    number: int
    is_exact: bool

    def __str__(self) -> str:
        """Return it for people, such as ``10,000+``."""
        return f"{self.number:,}{'' if self.is_exact else '+'}"


class Page(NamedTuple, Generic[T]):
    """A page of a list.

    :param rows: what is on it.
    :param cursor: to ask for the next page with; None where this was the last one.
    :param previous: to ask for the page before with; None where this was the first one.
    :param total: how many rows there are on all pages, where that was asked for.
    """

    rows: Sequence[T]
    cursor: str | None
    previous: str | None = None
    total: Total | None = None


def read_all(ask: Callable[[str | None], Page[T]]) -> Iterator[T]:
    """Yield the rows of all pages of a list.

    :param ask: returns the page that begins at a cursor, the first one for None.
    """
    page = ask(None)
    yield from page.rows
    while page.cursor is not None:
        page = ask(page.cursor)
        yield from page.rows


def encode(query: Sequence[object], place: Sequence[object]) -> str:
    """Return the cursor of a place in the list that ``query`` names: its kind first, then its filters."""
    content = [VERSION, _digest(query), *(None if part is None else str(part) for part in place)]
    text = json.dumps(content, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode("ascii").rstrip("=")


def decode(query: Sequence[object], cursor: str, *readers: Callable[[Any], Any]) -> list[Any]:
    """Return the place that a cursor of this list names, each part as its reader gives it.

    :param readers: raise ValueError, TypeError or OverflowError for what is no such part.
    :raises errors.InvalidIdentifier: this list gave no such cursor.
    """
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        version, digest, *place = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        if [version, digest] == [VERSION, _digest(query)]:
            return [read(part) for read, part in zip(readers, place, strict=True)]
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        pass
    raise errors.InvalidIdentifier("this list gave no such cursor; begin again without one") from None


def number(part: str) -> int:
    """Read a number that fits into ``bigint``."""
    if not part.isascii() or not part.isdigit() or int(part) > LARGEST_NUMBER:
        raise ValueError(part)
    return int(part)


def time(part: str) -> datetime:
    """Read a time with its zone, in ISO 8601, as one in UTC: PostgreSQL takes fewer zones than Python."""
    found = stored_time(part)
    if not 1 < found.year < 9999:  # so that there is a time before it and after it, in each zone
        raise ValueError(part)
    return found


def stored_time(part: str) -> datetime:
    """Read a time as :func:`time` does, one of any year that a row can have."""
    found = datetime.fromisoformat(part)
    if found.tzinfo is None:
        raise ValueError(part)
    return found.astimezone(timezone.utc)


def text(part: str) -> str:
    """Read a text that the database can hold."""
    part.encode()  # A half of a surrogate pair raises an error that is a ValueError.
    if "\0" in part:
        raise ValueError(part)
    return part


def id_(part: str) -> uuid.UUID:
    """Read an id."""
    return uuid.UUID(part)


def _digest(query: Sequence[object]) -> str:
    text = "\0".join(map(str, query)).encode("utf-8", "surrogatepass")
    return base64.b64encode(hashlib.sha256(text).digest()[:9]).decode("ascii")
