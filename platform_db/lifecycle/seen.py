"""What a reader that pages on has seen, such that it misses nothing and sees nothing twice.

Rows are ordered by numbers, which they draw when they are written, but transactions commit in another order:
a row may appear *behind* a reader that has passed its place already. So a reader remembers the snapshot
(``pg_current_snapshot()``) in which it read its last page. What that snapshot did not show is new, wherever
it stands; a row says by its ``transaction_id`` which transaction wrote it.

So no reader waits for slow transactions, and needs no permission to look at others. A snapshot does not tell
how old the oldest running transaction is: its upper bound is the latest transaction that has *ended*, and a
running one may lie beyond it. That is why late rows are found by their transaction, and not by their number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from platform_db import cursors

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

    def parts(self) -> list[str]:
        """Return it as parts of a cursor."""
        return [self.snapshot, self.own, self.read_at.isoformat()]


def read_snapshot(part: str) -> str:
    """Read a snapshot as the server writes it, so that it takes it again: ``xmin:xmax:in progress``."""
    found = _SNAPSHOT.fullmatch(part)
    if found is None:
        raise ValueError(part)
    xmin, xmax = cursors.number(found[1]), cursors.number(found[2])
    running = [cursors.number(number) for number in found[3].split(",") if number]
    if not 0 < xmin <= xmax or sorted(set(running)) != running:
        raise ValueError(part)
    if running and not xmin <= running[0] <= running[-1] < xmax:
        raise ValueError(part)
    return part


_SNAPSHOT = re.compile(r"([0-9]+):([0-9]+):([0-9,]*)", re.ASCII)

READERS = (read_snapshot, lambda part: str(cursors.number(part)), cursors.time)
"""Read the parts of a :class:`Seen` in a cursor."""


def _oldest_running(snapshot: str) -> int:
    """Return the snapshot's ``xmin``: whatever a transaction before it wrote is in the snapshot."""
    return int(snapshot.partition(":")[0])
