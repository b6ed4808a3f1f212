"""Checkpoints: how far a watcher with a name has come, so that it goes on there after it was ended."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.bounds import require_amount
from platform_db.database.session import takes_session
from platform_db.events.event import Event
from platform_db.events.place import BEGINNING, Place, Since, last_number, place_of
from platform_db.lifecycle.seen import LONGEST_TRANSACTION
from platform_db.models.types import is_text, storable
from platform_db.settings import get_settings

LONGEST_ERROR = 1000
"""How many characters of an error are stored."""


class Watcher(NamedTuple):
    """A watcher, as its checkpoint has it.

    :param number: the last event that it has passed.
    :param behind: how many numbers have been drawn since, for events that it may want or not.
    :param seen_at: it has seen what was written a day before this; None until it has passed a page.
    :param moved_at: when it last stored its checkpoint.
    :param failed: how many events its handler failed on and were skipped.
    :param holds: whether pruning keeps what it has not seen.
    """

    name: str
    number: int
    behind: int
    seen_at: datetime | None
    moved_at: datetime
    failed: int
    holds: bool


@takes_session
def watchers(session: Session) -> list[Watcher]:
    """Return the watchers that have a checkpoint, by their names."""
    connection = session.connection()
    last = last_number(connection)
    rows = connection.execute(_WATCHERS, {"hold": hold(), "last": last, "unmoved": BEGINNING.look.at})
    return [Watcher(*row) for row in rows]


@takes_session
def forget(session: Session, name: str) -> None:
    """Delete a watcher's checkpoint, with the events that it skipped; a process that still watches ends.

    :raises errors.NotFound: there is no such watcher.
    """
    if not session.connection().execute(_FORGET, {"name": name}).rowcount:
        raise errors.NotFound(f"there is no watcher {name!r}")


@takes_session
def stale_watchers(session: Session) -> tuple[str, ...]:
    """Return the names of the watchers that pruning does not wait for any more."""
    return tuple(watcher.name for watcher in watchers(session) if not watcher.holds)


def hold() -> timedelta:
    """Return for how long a checkpoint that does not move keeps old rows from being pruned."""
    return timedelta(days=get_settings().watcher_hold_days)


class Checkpoint:
    """The checkpoint of the process that watches under its name.

    :param place: where it begins.
    """

    def __init__(self, session: Session, name: str, since: Since) -> None:
        """Take the checkpoint over, or make it, where there is none.

        :raises errors.InvalidArgument: the name is too long, or empty.
        :raises errors.InvalidText: it has a character that cannot be stored.
        """
        if not is_text(name):
            raise errors.InvalidText
        require_amount(len(name.encode()), "length of a watcher's name in bytes", smallest=1, largest=255)
        self.name = name
        connection = session.connection()
        taken = connection.execute(_TAKE, {"name": name}).one_or_none()
        if taken is None:
            seen_at = since if isinstance(since, datetime) else BEGINNING.look.at
            place = place_of(connection, since)
            values = {
                "name": name,
                "cursor": place.cursor(),
                "number": place.number,
                "seen_at": place.look.at if since == "latest" else seen_at,
            }
            taken = connection.execute(_MAKE, values).one()
        self.place = place_of(connection, taken.cursor)
        self._version = taken.version

    def store(self, session: Session, place: Place, seen_at: datetime | None) -> None:
        """Store how far the process has come.

        :raises errors.WatcherReplaced: another process has taken the checkpoint over.
        """
        values = {
            "name": self.name,
            "version": self._version,
            "cursor": place.cursor(),
            "number": place.number,
            "seen_at": seen_at,
        }
        if not session.connection().execute(_STORE, values).rowcount:
            raise errors.WatcherReplaced(self.name)
        self._version += 1


def record_failure(session: Session, name: str, event: Event, error: Exception, attempts: int) -> None:
    """Store that a watcher skipped an event, and why; nothing, where the watcher was forgotten."""
    text = storable(errors.hide_tokens(f"{type(error).__name__}: {error}"))
    values = {
        "name": name,
        "number": event.number,
        "event": json.dumps(event.as_dict()),
        "error": text[:LONGEST_ERROR],
        "attempts": attempts,
    }
    session.connection().execute(_FAILED, values)


HELD_SINCE = f"""(
    SELECT coalesce(min(seen_at), 'infinity') - interval '{LONGEST_TRANSACTION.days} days'
    FROM platform.event_checkpoint WHERE moved_at > now() - CAST(:hold AS interval)
)"""
"""SQL for the time from which on a watcher may not have seen what was written; ``:hold`` is :func:`hold`."""

_WATCHERS = sa.text("""
    SELECT name, number, greatest(0, :last - number),
           nullif(seen_at, CAST(:unmoved AS timestamptz)), moved_at, failed,
           moved_at > now() - CAST(:hold AS interval)
    FROM platform.event_checkpoint ORDER BY name
""")
_FORGET = sa.text("DELETE FROM platform.event_checkpoint WHERE name = :name")
# It has not moved yet: a process that fails on the same event at each start must not hold old rows for ever.
_TAKE = sa.text("""
    UPDATE platform.event_checkpoint SET version = version + 1 WHERE name = :name RETURNING cursor, version
""")
# Two processes that begin at once: the second one takes over what the first has made. Versions count from the
# time, so that a process whose checkpoint was forgotten cannot write the one that was made after it. What is
# written after a time to come is not seen before it is written.
_MAKE = sa.text("""
    INSERT INTO platform.event_checkpoint AS made (name, cursor, number, seen_at, version)
    VALUES (:name, :cursor, :number, least(CAST(:seen_at AS timestamptz), now()),
            (extract(epoch FROM statement_timestamp()) * 1000000)::bigint)
    ON CONFLICT (name) DO UPDATE SET version = made.version + 1
    RETURNING cursor, version
""")
_STORE = sa.text("""
    UPDATE platform.event_checkpoint
    SET version = version + 1, cursor = :cursor, number = :number, moved_at = statement_timestamp(),
        seen_at = greatest(seen_at, CAST(:seen_at AS timestamptz))
    WHERE name = :name AND version = :version
""")
_FAILED = sa.text("""
    WITH stored AS (
        INSERT INTO platform.event_failure (name, number, event, error, attempts)
        SELECT name, :number, CAST(:event AS jsonb), :error, :attempts
        FROM platform.event_checkpoint WHERE name = :name FOR KEY SHARE
        ON CONFLICT (name, number) DO NOTHING RETURNING true
    )
    UPDATE platform.event_checkpoint SET failed = failed + 1 FROM stored WHERE name = :name
""")
