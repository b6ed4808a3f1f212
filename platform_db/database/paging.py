"""Reading a list a page at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import cursors
from platform_db.bounds import require_limit
from platform_db.cursors import Page

T = TypeVar("T")


def read_page(
    session: Session,
    statement: sa.Select[T],
    order: Sequence[Any],
    *,
    query: Sequence[object],
    limit: int,
    cursor: str | None,
    descending: bool = True,
) -> Page[T]:
    """Return a page of a list of objects, each of which has the columns of its order.

    :param statement: selects the objects, without order and limit.
    :param order: a time and an id or number, as mapped attributes; an index has them in this order.
    :param query: what the cursor is bound to: the list's name, then its filters.
    :param limit: how many rows at most, up to :data:`~platform_db.bounds.LARGEST_LIMIT`.
    :raises errors.InvalidIdentifier: this list gave no such cursor.
    :raises errors.InvalidArgument: the limit is out of range.
    """
    require_limit(limit)
    by_time, by_key = order
    read_key = cursors.number if isinstance(by_key.type, sa.Integer) else cursors.id_
    if cursor is not None:
        place = cursors.decode(query, cursor, cursors.time, read_key)
        here = sa.tuple_(*order)
        there = sa.tuple_(*(sa.literal(part, column.type) for part, column in zip(place, order, strict=True)))
        statement = statement.where(here < there if descending else here > there)
    ordered = statement.order_by(*(column.desc() if descending else column for column in order))
    rows = session.scalars(ordered.limit(limit + 1)).all()
    if len(rows) <= limit:
        return Page(rows, None)
    last: Any = rows[limit - 1]
    place = [getattr(last, by_time.key).isoformat(), getattr(last, by_key.key)]
    return Page(rows[:limit], cursors.encode(query, place))
