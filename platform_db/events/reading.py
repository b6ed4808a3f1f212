"""Reading a page of events from a place, in one statement."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.bounds import require_limit
from platform_db.database.distribution import is_distributed
from platform_db.database.session import takes_session
from platform_db.events.event import Event, filters
from platform_db.events.place import LOOK, Look, Place, Since, last_number, place_of, settled
from platform_db.models.identity import UserOrId
from platform_db.tenancy import tenant_of

LATE_AT_ONCE = 10_000
"""How many late events a page has at most; each further part of them looks through them again."""


class EventPage(NamedTuple):
    """A page of events.

    :param events: late ones first.
    :param cursor: where to read on.
    :param drained: whether this was all that there was.
    """

    events: list[Event]
    cursor: str
    drained: bool


@takes_session
def read_events(
    session: Session,
    since: Since = "beginning",
    *,
    kinds: Collection[str] | None = None,
    entities: Collection[str] | None = None,
    owners: Collection[UserOrId] | None = None,
    limit: int = 100,
) -> EventPage:
    """Return a page of events, of all owners that the session may see.

    Nothing is missed, whatever the order in which others commit, as long as none of their transactions is
    older than a day. The events of each row come in order. What is committed behind a page comes at the head
    of the next one, beside ``limit``.

    :param since: ``beginning``, ``latest`` (what is committed from now on), the number of an event (what
        comes after it), a time (what was written then or later), or the cursor of the page before.
    :param kinds: only these kinds of events: ``created``, ``status``, ``note``, ``deleted``.
    :param entities: only events of these tables' rows.
    :param owners: only events of these users' rows.
    :param limit: how many to return.
    :raises errors.InvalidIdentifier: the text is no cursor.
    :raises errors.InvalidArgument: a parameter is out of range.
    """
    require_limit(limit)
    if owners is None and (tenant := tenant_of(session)) is not None:
        owners = [tenant]
    wanted = filters(kinds, entities, owners)
    session.flush()
    connection = session.connection()
    place = place_of(connection, since).in_any_transaction()
    page = read_page(connection, place, wanted, limit)
    return EventPage(page.events, page.place.cursor(), page.drained)


class PlacedPage(NamedTuple):
    """A page of events.

    :param place: where to read on.
    :param seen_at: all that was written a day before this was read, or comes late.
    """

    events: list[Event]
    place: Place
    drained: bool
    seen_at: datetime | None


def read_page(
    connection: sa.Connection, place: Place, wanted: Mapping[str, Any], limit: int, *, last: int | None = None
) -> PlacedPage:
    """Return the page that begins at a place.

    :param wanted: what :func:`~platform_db.events.event.filters` gives.
    :param last: the last number that was drawn, if the caller has asked in this transaction.
    """
    if is_distributed(connection):
        return _read_settled(connection, place, wanted, limit)
    # Before the statement: what draws a number up to this one has begun before that one's look.
    last = last_number(connection) if last is None else last
    found = connection.execute(
        _page(wanted["owners"] is not None),
        {
            **wanted,
            **place.parameters(),
            "late_limit": LATE_AT_ONCE,
            "limit": limit if place.then is None else 0,
        },
    ).all()
    now = Look(found[0].snapshot, found[0].next, found[0].look_at)
    rows = [row for row in found if row.number is not None]
    late = [row for row in rows if row.is_late]
    if len(late) == LATE_AT_ONCE:
        after = Place(place.number, place.look, late[-1].number, place.then or now)
        return PlacedPage(_events(late), after, False, None)
    if place.then is not None:
        return PlacedPage(_events(late), Place(place.number, place.then), False, None)
    ahead = rows[len(late) :]
    if len(ahead) == limit:
        return PlacedPage(_events(rows), Place(ahead[-1].number, now), False, ahead[-1].at)
    number = max(place.number, last, *(row.number for row in ahead[-1:]))
    return PlacedPage(_events(rows), Place(number, now), True, now.at)


def _read_settled(
    connection: sa.Connection, place: Place, wanted: Mapping[str, Any], limit: int
) -> PlacedPage:
    """Return the page that begins at a place, of the events that no transaction can come behind any more."""
    end = settled(connection)
    asked = {**wanted, "number": place.number, "end": end.number, "limit": limit}
    rows = list(connection.execute(_settled_page(wanted["owners"] is not None), asked))
    if len(rows) == limit:
        return PlacedPage(_events(rows), Place(rows[-1].number, end.look), False, rows[-1].at)
    return PlacedPage(_events(rows), Place(max(place.number, end.number), end.look), True, end.look.at)


def _events(rows: list[Any]) -> list[Event]:
    return [Event(*(getattr(row, field.name) for field in fields(Event))) for row in rows]


@cache
def _page(owners_are_known: bool) -> sa.TextClause:
    owned = "WHERE owner_id = ANY(CAST(:owners AS uuid[]))" if owners_are_known else ""
    events = f"({' UNION ALL '.join(_parts(owned))}) AS event"
    # What can be read, though a transaction to come wrote it, was restored from another server, and is not
    # late. OFFSET 0 keeps the order out of the choice of the index: the one by number would read the whole
    # history.
    late = f"""
        SELECT * FROM (
            SELECT * FROM {events}
            WHERE (transaction_id = ANY(CAST(:open AS bigint[]))
                   OR (transaction_id >= CAST(:upper AS bigint)
                       AND transaction_id < least(CAST(:next AS bigint),
                                                  pg_snapshot_xmax(pg_current_snapshot())::text::bigint)))
              AND number <= :number AND number > :late AND at >= CAST(:earliest AS timestamptz)
              AND (CAST(:then AS pg_snapshot) IS NULL
                   OR pg_visible_in_snapshot(transaction_id::text::xid8, CAST(:then AS pg_snapshot)))
              AND {_WANTED}
            OFFSET 0
        ) AS late ORDER BY number LIMIT :late_limit
    """
    return sa.text(f"""
        SELECT look.*, page.* FROM (SELECT {LOOK}) AS look LEFT JOIN (
            (SELECT true AS is_late, * FROM ({late}) AS late)
            UNION ALL
            (SELECT false, * FROM {events} WHERE number > :number AND {_WANTED} ORDER BY number LIMIT :limit)
        ) AS page ON true
        ORDER BY is_late DESC, number
        """)


@cache
def _settled_page(owners_are_known: bool) -> sa.TextClause:
    owned = "WHERE owner_id = ANY(CAST(:owners AS uuid[]))" if owners_are_known else ""
    pages = " UNION ALL ".join(
        f"""(SELECT * FROM ({part}) AS event
             WHERE number > :number AND number <= :end AND {_WANTED} ORDER BY number LIMIT :limit)"""
        for part in _parts(owned)
    )
    return sa.text(f"SELECT * FROM ({pages}) AS page ORDER BY number LIMIT :limit")


def _parts(owned: str) -> tuple[str, ...]:
    # Columns have the same types in each part, so that the planner merges the parts in the order of numbers.
    return (
        f"""
        SELECT number, kind, entity, entity_id, owner_id, at, revision,
               CASE kind WHEN 'deleted' THEN status END AS before,
               CASE kind WHEN 'created' THEN status END AS after,
               NULL::text AS actor, NULL::text AS reason, NULL::text AS topic, NULL::text AS message,
               NULL::jsonb AS details, transaction_id
        FROM platform.row_event {owned}
        """,
        f"""
        SELECT number, 'status'::text AS kind, entity, entity_id, owner_id, at, revision,
               from_status AS before, to_status AS after, actor, reason, NULL::text AS topic,
               NULL::text AS message, NULL::jsonb AS details, transaction_id
        FROM platform.status_change {owned}
        """,
        f"""
        SELECT number, 'note'::text AS kind, entity, entity_id, owner_id, at, NULL::integer AS revision,
               NULL::text AS before, NULL::text AS after, NULL::text AS actor, NULL::text AS reason,
               topic, message, details, transaction_id
        FROM platform.note {owned}
        """,
    )


_WANTED = """
    (CAST(:kinds AS text[]) IS NULL OR kind = ANY(CAST(:kinds AS text[])))
    AND (CAST(:entities AS text[]) IS NULL OR entity = ANY(CAST(:entities AS text[])))
"""
