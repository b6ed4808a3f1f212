"""Where a reader stands that pages on, such that it misses nothing and sees nothing twice.

Rows are ordered by the time at which they were written, but transactions commit in another order: a row may
appear *behind* a reader that has passed its place already. So a reader remembers the snapshot
(``pg_current_snapshot()``) in which it read its last page. What that snapshot did not show is new, wherever
it stands; a row says by its ``transaction_id`` which transaction wrote it.

Nobody waits for slow transactions that way, and no permission to look at others is needed.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from platform_db import errors

# A row that a transaction older than this commits behind a reader's first page stays unseen by that reader.
LONGEST_TRANSACTION = timedelta(days=1)

# A row's time is read an instant before its transaction has a number, and clocks are set back now and then.
CLOCK_MARGIN = timedelta(minutes=1)

# What a statement reads along with its rows, to know what it saw.
WHAT_IS_SEEN = """
    SELECT pg_current_snapshot()::text AS snapshot,
           coalesce(pg_current_xact_id_if_assigned()::text, '0') AS own, now() AS read_at
"""

# That a row was not seen: neither committed by then, nor written by the reader's own transaction before.
UNSEEN = """
    NOT pg_visible_in_snapshot(transaction_id::text::xid8, CAST(:snapshot AS pg_snapshot))
    AND transaction_id <> CAST(:own AS bigint)
"""


@dataclass(frozen=True)
class Seen:
    """What a reader has seen.

    :param snapshot: the snapshot of its last page, ``xmin:xmax:in progress``.
    :param own: the transaction that the reader itself was writing in, ``"0"`` if none.
    :param read_at: a time before that snapshot.
    :param floor: what is still unseen was written after this time.
    """

    snapshot: str
    own: str
    read_at: datetime
    floor: datetime

    @classmethod
    def of(cls, row: Any, before: Seen | None) -> Seen:
        """Return what is seen after a page whose rows came with :data:`WHAT_IS_SEEN`."""
        floor = row.read_at - LONGEST_TRANSACTION if before is None else before.floor
        if before is not None and _bounds(row.snapshot)[0] >= _bounds(before.snapshot)[1]:
            # Whatever was going on at the page before has ended: only what began since can be unseen.
            floor = before.read_at - CLOCK_MARGIN
        return cls(row.snapshot, row.own, row.read_at, floor)

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of :data:`UNSEEN`, and the floor."""
        return {"snapshot": self.snapshot, "own": self.own, "floor": self.floor}

    def pack(self) -> list[str]:
        """Return it for :func:`to_token`."""
        return [self.snapshot, self.own, self.read_at.isoformat(), self.floor.isoformat()]

    @classmethod
    def unpack(cls, packed: list[str]) -> Seen:
        """Return what :meth:`pack` was given."""
        snapshot, own, read_at, floor = packed
        _bounds(snapshot)
        return cls(snapshot, str(int(own)), datetime.fromisoformat(read_at), datetime.fromisoformat(floor))


def _bounds(snapshot: str) -> tuple[int, int]:
    xmin, xmax, _ = snapshot.split(":")
    return int(xmin), int(xmax)


def to_token(kind: str, content: list[Any]) -> str:
    """Return the content as an opaque text that is safe in URLs."""
    text = json.dumps([kind, *content], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode("ascii").rstrip("=")


def from_token(kind: str, token: str) -> list[Any]:
    """Return what :func:`to_token` was given.

    :raises errors.InvalidIdentifier: it never gave this.
    """
    try:
        padded = token.encode("ascii") + b"=" * (-len(token) % 4)
        found, *content = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, TypeError):
        found, content = None, []
    if found != kind:
        raise errors.InvalidIdentifier("this token was not given by the page before")
    return list(content)
