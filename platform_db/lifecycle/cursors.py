"""Where a reader stands that pages on, such that it misses nothing and sees nothing twice.

Rows are ordered by the time at which they were written, but transactions commit in another order: a row may
appear *behind* a reader that has passed its place already. So a reader remembers the snapshot
(``pg_current_snapshot()``) in which it read its last page. What that snapshot did not show is new, wherever
it stands; a row says by its ``transaction_id`` which transaction wrote it.

Nobody waits for slow transactions that way, and no permission to look at others is needed. Since when the
oldest of them is going on, no snapshot tells: its upper bound is the latest transaction that has *ended*, and
a running one may lie beyond it. So what may be new is found by its transaction, and not by its time.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from platform_db import errors

# A row that a transaction older than this commits behind a reader's page stays unseen by that reader. This
# keeps rows that were restored from another server from coming again when this one's numbers reach theirs.
LONGEST_TRANSACTION = timedelta(days=1)

# What a statement reads along with its rows, to know what it saw.
WHAT_IS_SEEN = """
    SELECT pg_current_snapshot()::text AS snapshot,
           coalesce(pg_current_xact_id_if_assigned()::text, '0') AS own, now() AS read_at
"""

# That a row was not seen: neither committed by then, nor written by the reader's own transaction before. What
# can be read, though a transaction to come wrote it, was restored from another server, and is not new. The
# bounds come first as an index has them.
UNSEEN = """
    transaction_id >= CAST(:oldest AS bigint)
    AND transaction_id <= greatest(pg_snapshot_xmax(pg_current_snapshot())::text::bigint - 1,
                                   pg_current_xact_id_if_assigned()::text::bigint)
    AND NOT pg_visible_in_snapshot(transaction_id::text::xid8, CAST(:snapshot AS pg_snapshot))
    AND transaction_id <> CAST(:own AS bigint)
    AND at >= CAST(:earliest AS timestamptz)
"""


@dataclass(frozen=True)
class Seen:
    """What a reader has seen.

    :param snapshot: the snapshot of its last page, ``xmin:xmax:in progress``.
    :param own: the transaction that the reader itself was writing in, ``"0"`` if none.
    :param read_at: a time before that snapshot.
    """

    snapshot: str
    own: str
    read_at: datetime

    @classmethod
    def of(cls, row: Any) -> Seen:
        """Return what is seen after a page whose rows came with :data:`WHAT_IS_SEEN`."""
        return cls(row.snapshot, row.own, row.read_at)

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of :data:`UNSEEN`."""
        return {
            "snapshot": self.snapshot,
            "oldest": _oldest_running(self.snapshot),
            "own": self.own,
            "earliest": self.read_at - LONGEST_TRANSACTION,
        }

    def pack(self) -> list[str]:
        """Return it for :func:`to_token`."""
        return [self.snapshot, self.own, self.read_at.isoformat()]

    @classmethod
    def unpack(cls, packed: list[str]) -> Seen:
        """Return what :meth:`pack` was given."""
        snapshot, own, read_at = packed
        _oldest_running(snapshot)
        return cls(snapshot, str(int(own)), datetime.fromisoformat(read_at))


def _oldest_running(snapshot: str) -> int:
    """Return the snapshot's ``xmin``: whatever a transaction before it wrote is in the snapshot."""
    xmin, _, _ = snapshot.split(":")
    return int(xmin)


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
