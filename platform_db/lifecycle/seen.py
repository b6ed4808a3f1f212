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
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import sqlalchemy as sa

from platform_db import cursors

# A row that a transaction older than this commits behind a reader's page stays unseen by that reader. This
# keeps rows that were restored from another server from coming again when this one's numbers reach theirs.
LONGEST_TRANSACTION = timedelta(days=1)

# That a row was not seen: neither committed by then, nor written by the reader's own transaction before. What
# can be read, though a transaction to come wrote it, was restored from another server, and is not new. The
# bounds come first as an index has them.
_UNSEEN = """
    transaction_id >= CAST(:oldest AS bigint)
    AND transaction_id <= greatest(pg_snapshot_xmax(pg_current_snapshot())::text::bigint - 1,
                                   pg_current_xact_id_if_assigned()::text::bigint)
    AND NOT pg_visible_in_snapshot(transaction_id::text::xid8, CAST(:snapshot AS pg_snapshot))
    AND transaction_id <> CAST(:own AS bigint)
    AND at >= CAST(:earliest AS timestamptz)
"""


def read_new(
    connection: sa.Connection,
    pages: Sequence[sa.TextClause],
    parameters: Mapping[str, Any],
    *,
    query: Sequence[object],
    cursor: str | None,
    limit: int,
) -> tuple[list[Any], bool, str]:
    """Return what a reader has not seen.

    :param pages: the statements that :func:`pages_of` makes.
    :param query: what the cursor is bound to: the list's name, then its filters.
    :param limit: how many rows to return at most, beside the late ones.
    :returns: rows, the late ones first; whether that was all; and the cursor to read on from.
    :raises errors.InvalidIdentifier: this list gave no such cursor.
    """
    first, later = pages
    place = _BEGINNING if cursor is None else cursors.decode(query, cursor, *_READERS)
    number, snapshot, own, read_at = place
    seen = {
        "number": number,
        "snapshot": snapshot,
        "oldest": int(snapshot.partition(":")[0]),  # What transactions before this wrote is in the snapshot.
        "own": own,
        "earliest": read_at - LONGEST_TRANSACTION,
    }
    page = first if cursor is None else later
    found = connection.execute(page, {**parameters, **seen, "limit": limit}).all()
    rows = [row for row in found if row.number is not None]
    ahead = [row for row in rows if not row.late]
    last, now = ahead[-1].number if ahead else number, found[0]
    place = [last, now.snapshot, now.own, now.read_at.isoformat()]
    return rows, len(ahead) < limit, cursors.encode(query, place)


def pages_of(source: str, columns: str = "*", late: str = "true") -> tuple[str, str]:
    """Return the SQL that reads a first page, and that of a later one: late rows, then the next by number.

    The first page reads its source once, so that PostgreSQL need not store what a ``WITH`` query gives.

    :param source: the rows, as after FROM.
    :param late: what is true of late rows, too, and lets an index find them.
    """
    missed = f"SELECT {columns}, true AS late FROM {source} WHERE number <= :number AND {late} AND {_UNSEEN}"
    first, later = (
        f"""
        SELECT seen.*, page.* FROM (
            SELECT pg_current_snapshot()::text AS snapshot,
                   coalesce(pg_current_xact_id_if_assigned()::text, '0') AS own, now() AS read_at
        ) AS seen LEFT JOIN (
            {before}
            (SELECT {columns}, false AS late FROM {source} WHERE number > :number
             ORDER BY number LIMIT :limit)
        ) AS page ON true
        ORDER BY late DESC, number
        """
        for before in ("", f"{missed} UNION ALL")
    )
    return first, later


def read_snapshot(part: str) -> str:
    """Read a snapshot as the server writes it, so that it takes it again: ``xmin:xmax:in progress``."""
    found = _SNAPSHOT.fullmatch(part)
    if found is None:
        raise ValueError(part)
    xmin, xmax = cursors.number(found[1]), cursors.number(found[2])
    running = [cursors.number(number) for number in found[3].split(",") if number]
    known = all(xmin <= number < xmax for number in running)
    if not 0 < xmin <= xmax or sorted(set(running)) != running or not known:
        raise ValueError(part)
    return part


_SNAPSHOT = re.compile(r"([0-9]+):([0-9]+):([0-9,]*)", re.ASCII)

# The parts of a cursor: the number of the last row that came in order, the snapshot of its page, the
# transaction that the reader itself was writing in ("0" if none), and a time before that snapshot.
_READERS = (cursors.number, read_snapshot, lambda part: str(cursors.number(part)), cursors.time)

# Before all rows. The rest stands for what a first page does not ask.
_BEGINNING = (0, "1:1:", "0", datetime(2000, 1, 1, tzinfo=timezone.utc))
