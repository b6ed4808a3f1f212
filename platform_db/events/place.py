"""Where a watcher is among the events, such that it misses none.

Events have numbers, which they draw when they are written, and transactions commit in another order: an event
may appear *behind* a watcher. So a place holds a number and a look: the snapshot in which all up to that
number was read. What a transaction wrote that was open then is *late*: it is found by its transaction.

These transactions are known. A snapshot lists those that were open, and its upper bound is the latest one
that had ended. Beyond that bound are only those that had begun before the next transaction id was looked up,
after the snapshot and after the number. So late events cost what they are, however long ago the look was.

The late ones of a page may be very many, after one large transaction. They are read in parts: the place then
holds, beside its own look, the later one that they are read up to, and the number of the last one read.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, NamedTuple

import sqlalchemy as sa

from platform_db import cursors, errors
from platform_db.database.distribution import is_distributed
from platform_db.lifecycle.seen import LONGEST_TRANSACTION, read_snapshot

Since = str | int | datetime
"""``beginning``, ``latest``, the number or the time of an event, or a cursor."""

_QUERY = ("events",)


class Look(NamedTuple):
    """What a statement saw.

    :param snapshot: its snapshot, as the server writes it.
    :param next: no transaction from this one on had begun. Only the first look of a transaction knows it.
    :param at: a time before it.
    """

    snapshot: str
    next: int
    at: datetime

    @property
    def open(self) -> list[int]:
        """Return the transactions below the snapshot's upper bound that had not ended."""
        return [int(number) for number in self.snapshot.split(":")[2].split(",") if number]

    @property
    def upper(self) -> int:
        """Return the snapshot's upper bound."""
        return int(self.snapshot.split(":")[1])

    @property
    def is_quiet(self) -> bool:
        """Whether no transaction was open, so that what it saw was all that there was."""
        return not self.open and self.upper == self.next


class Place(NamedTuple):
    """Where to read on.

    :param number: all up to this one was read, as far as ``look`` saw it.
    :param late: of those that ``look`` did not see, and ``then`` does, all up to this number were read, too.
    :param then: the look up to which late ones are read, while there are more of them; else None.
    """

    number: int
    look: Look
    late: int = 0
    then: Look | None = None

    def in_any_transaction(self) -> Place:
        """Return the same place, whose look may not have been the first one of its transaction."""
        return self._replace(look=self.look._replace(next=cursors.LARGEST_NUMBER))

    def parameters(self) -> dict[str, Any]:
        """Return those of the statement that reads on."""
        return {
            "number": self.number,
            "open": self.look.open,
            "upper": self.look.upper,
            "next": self.look.next,
            "earliest": self.look.at - LONGEST_TRANSACTION,
            "late": self.late,
            "then": None if self.then is None else self.then.snapshot,
        }

    def cursor(self) -> str:
        """Return it as text."""
        parts = (self.number, *self.look, self.late, *(self.then or (None, None, None)))
        return cursors.encode(_QUERY, [p.isoformat() if isinstance(p, datetime) else p for p in parts])

    @classmethod
    def of(cls, cursor: str) -> Place:
        """Return the place of a cursor.

        :raises errors.InvalidIdentifier: it is none.
        """
        look = (read_snapshot, cursors.number, cursors.time)
        readers = (cursors.number, *look, cursors.number, *map(_or_none, look))
        number, *first, late, snapshot, next_, at = cursors.decode(_QUERY, cursor, *readers)
        then = None if snapshot is None or next_ is None or at is None else Look(snapshot, next_, at)
        return cls(number, Look(*first), late, then)


BEGINNING = Place(0, Look("1:1:", 1, datetime(2000, 1, 1, tzinfo=timezone.utc)))


def last_number(connection: sa.Connection) -> int:
    """Return the last number that was drawn, by whatever transaction."""
    return int(connection.execute(_LAST).scalar_one())


def settled(connection: sa.Connection) -> Place:
    """Return the place before which no event comes late, where tables are distributed.

    Each machine has transactions of its own there, and no snapshot is of all of them.
    """
    number, at = connection.execute(_SETTLED).one()
    return Place(number - 1, Look("1:1:", 1, at))


def place_of(connection: sa.Connection, since: Since) -> Place:
    """Return where to begin. What is beyond the last event is the last event.

    :raises errors.InvalidIdentifier: the text is none of the words and no cursor.
    :raises errors.InvalidArgument: the number is out of range, or the time has no zone.
    """
    if since == "beginning":
        return BEGINNING
    # Where tables are distributed, what is written now may have any number from the settled one on.
    last = settled(connection).number if is_distributed(connection) else last_number(connection)
    if isinstance(since, str) and since != "latest":
        try:
            place = Place.of(since)
        except errors.InvalidIdentifier:
            choice = "beginning, latest, an event's number, a time or a cursor of events"
            raise errors.InvalidIdentifier(f"watch since {choice}, not {since!r}") from None
        return place if place.number <= last else Place(last, look(connection))
    if isinstance(since, datetime):
        if since.tzinfo is None:
            raise errors.InvalidArgument("a time to watch from needs a time zone")
        last = int(connection.execute(_BEFORE, {"since": since}).scalar_one())
    elif isinstance(since, int):
        if not 0 <= since <= cursors.LARGEST_NUMBER:
            raise errors.InvalidArgument("the number of an event is one that a bigint column holds")
        last = min(since, last)
    return Place(last, look(connection))


def look(connection: sa.Connection) -> Look:
    """Look now."""
    return Look(*connection.execute(sa.text(f"SELECT {LOOK}")).one())


def _or_none(read: Callable[[str], Any]) -> Callable[[str | None], Any]:
    return lambda part: None if part is None else read(part)


# The age of a transaction is counted from the next one, or from the session's own, which tells nothing here.
# The server looks the next one up once in a transaction of the session, and keeps it.
LOOK = """
    pg_current_snapshot()::text AS snapshot,
    CASE WHEN pg_current_xact_id_if_assigned() IS NULL
         THEN pg_snapshot_xmax(pg_current_snapshot())::text::bigint
              + age(pg_snapshot_xmax(pg_current_snapshot())::xid)
         ELSE 9223372036854775807 END AS next,
    now() AS look_at
"""
_LAST = sa.text("SELECT platform.last_number()")
_SETTLED = sa.text("SELECT platform.settled_number() AS number, now() AS at")

# Numbers and times are drawn one right after the other. What comes after the time is to be read anyway.
_BEFORE = sa.text(
    "SELECT greatest(0, {})".format(
        ", ".join(
            f"(SELECT number FROM platform.{table} WHERE at < CAST(:since AS timestamptz)"
            " ORDER BY number DESC LIMIT 1)"
            for table in ("row_event", "status_change", "note")
        )
    )
)
