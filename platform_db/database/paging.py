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
    """Return a page of a list of objects.

    The cursor has the order's values as they are stored: an object that the session made may hold another
    time than the one that the database gave its row.

    :param statement: selects the objects, without order and limit.
    :param order: a time and an id or number, as mapped attributes; an index has them in this order.
    :param query: what the cursor is bound to: the list's name, then its filters.
    :param limit: how many rows at most, up to :data:`~platform_db.bounds.LARGEST_LIMIT`.
    :raises errors.InvalidIdentifier: this list gave no such cursor.
    :raises errors.InvalidArgument: the limit is out of range.
    """
    require_limit(limit)
    read_key = cursors.number if isinstance(order[1].type, sa.Integer) else cursors.id_
    if cursor is not None:
        place = cursors.decode(query, cursor, cursors.time, read_key)
        here = sa.tuple_(*order)
        there = sa.tuple_(*(sa.literal(part, column.type) for part, column in zip(place, order, strict=True)))
        statement = statement.where(here < there if descending else here > there)
    ordered = statement.order_by(*(column.desc() if descending else column for column in order))
    found = session.execute(ordered.add_columns(*order).limit(limit + 1)).all()
    rows: list[T] = [row[0] for row in found[:limit]]
    if len(found) <= limit:
        return Page(rows, None)
    *_, time, key = found[limit - 1]
    return Page(rows, cursors.encode(query, [time.isoformat(), key]))
