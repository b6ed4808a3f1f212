"""Watching: yielding events as they are committed."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from sqlalchemy.engine import URL

from platform_db.bounds import require_limit, require_seconds
from platform_db.database.session import SessionFactory
from platform_db.events.checkpoints import Checkpoint
from platform_db.events.event import Event, filters
from platform_db.events.place import Place, Since, last_number, place_of
from platform_db.events.reading import PlacedPage, read_page
from platform_db.events.waking import listening
from platform_db.models.identity import UserOrId

# Seconds between two looks: after an event, and at most.
SHORTEST_PAUSE = 0.05
LONGEST_PAUSE = 1.0

# Seconds after which a checkpoint is stored though no event came, so that pruning knows that it lives.
STORE_EVERY = 60.0


def watch(
    factory: SessionFactory,
    *,
    name: str | None = None,
    kinds: Collection[str] | None = None,
    entities: Collection[str] | None = None,
    owners: Collection[UserOrId] | None = None,
    since: Since = "beginning",
    wait: float | None = 10.0,
    limit: int = 100,
    listen: URL | str | None = None,
) -> Iterator[Event]:
    """Yield events as they are committed, until none came for ``wait`` seconds.

    Each event comes at least once, also where its transaction commits late
    (:func:`~platform_db.events.read_events`), and the events of each row come in order. Each page is read in
    a short transaction of its own; none is open while the caller works on an event. A change is heard of
    within a second, and 50 ms after another one; with ``listen`` within a tenth of a second.

    :param name: store the place under this name whenever the caller asks for what follows a page. A later
        call with this name goes on there. A process that was killed repeats at most a page.
    :param kinds: only these kinds of events: ``created``, ``status``, ``note``, ``deleted``.
    :param entities: only events of these tables' rows, such as ``workflow``.
    :param owners: only events of these users' rows.
    :param since: where to begin, as :func:`~platform_db.events.read_events` takes it. The stored place of a
        name counts more. What is beyond the last event is the last event.
    :param wait: seconds after which it ends; 0 as soon as all was read, None never.
    :param limit: how many events to read at once.
    :param listen: the URL of a direct connection, to hear what :func:`~platform_db.events.wake` sends.
    :raises errors.WatcherReplaced: another process watches under this name now, or it was forgotten.
    """
    require_limit(limit)
    if wait is not None:
        require_seconds(wait, "time to wait")
    return _watch(factory, name, filters(kinds, entities, owners), since, wait, limit, listen)


def _watch(
    factory: SessionFactory,
    name: str | None,
    wanted: Mapping[str, Any],
    since: Since,
    wait: float | None,
    limit: int,
    listen: URL | str | None,
) -> Iterator[Event]:
    with listening(listen) as sleep:
        with factory() as session, session.begin():
            checkpoint = None if name is None else Checkpoint(session, name, since)
            place = place_of(session.connection(), since) if checkpoint is None else checkpoint.place
        heard_at = stored_at = time.monotonic()
        pause = SHORTEST_PAUSE
        while True:
            page = _look(factory, place, wanted, limit, fully=pause >= LONGEST_PAUSE)
            yield from page.events
            place = page.place
            now = time.monotonic()
            if page.events:
                heard_at, pause = now, SHORTEST_PAUSE
            ends = page.drained and wait is not None and now - heard_at >= wait
            if checkpoint is not None and (page.events or ends or now - stored_at >= STORE_EVERY):
                with factory() as session, session.begin():
                    checkpoint.store(session, place, page.seen_at)
                stored_at = now
            if ends:
                return
            if page.drained:
                rest = pause if wait is None else heard_at + wait - now
                pause = SHORTEST_PAUSE if sleep(min(pause, rest)) else min(2 * pause, LONGEST_PAUSE)


def _look(
    factory: SessionFactory, place: Place, wanted: Mapping[str, Any], limit: int, *, fully: bool
) -> PlacedPage:
    """Read a page, unless there can be nothing: no number was drawn, and no transaction was open."""
    with factory() as session, session.begin():
        connection = session.connection()
        last = last_number(connection)
        if not fully and place.then is None and place.look.is_quiet and place.number == last:
            return PlacedPage([], place, True, None)
        return read_page(connection, place, wanted, limit, last=last)
