"""Reading a list a page at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ENUM
from sqlalchemy.orm import Session

from platform_db import cursors
from platform_db.bounds import require_limit
from platform_db.cursors import Page
from platform_db.database.id_column import Id

T = TypeVar("T")

MOMENT = sa.bindparam("moment", None, sa.DateTime(timezone=True))
"""The time of a list's first page, which its cursors carry: an order may use it; at first it is NULL."""

LIMIT = sa.bindparam("limit", type_=sa.Integer)
"""How many rows a page's statement reads: one more than the page has."""


class Place(NamedTuple):
    """Where a page begins, and which way it reads.

    :param way: ``>`` reads on, and ``<`` back, from behind the key; with ``=`` the key's own row is read,
        too.
    :param moment: the time of the list's first page.
    :param key: the order's values of a row.
    """

    way: str
    moment: Any
    key: Sequence[Any]


class Direction(NamedTuple):
    """How a page is read: what of its place decides about the statement.

    :param way: that of the place, and empty for a first page.
    :param is_null: whether the first value of the place's key is NULL.
    """

    way: str = ""
    is_null: bool = False

    @property
    def is_forward(self) -> bool:
        """Whether it reads on, and not back."""
        return not self.way.startswith("<")


def page_statement(
    statement: sa.Select[T],
    order: Sequence[Any],
    direction: Direction,
    *,
    descending: bool = True,
    heads: Callable[[sa.Select[Any], bool], sa.ColumnElement[bool]] | None = None,
) -> sa.Select[Any]:
    """Select a page of a list, for :func:`read_page`.

    :param statement: selects the objects, without order and limit.
    :param order: what the rows are ordered by, with an id or number at the end. Only the first may be NULL;
        rows in which it is come last in both directions.
    :param heads: is given the page as a statement, and whether that reads from the greatest down; returns a
        condition that all of its rows meet.
    """
    forward = direction.is_forward
    if direction.way:
        statement = statement.where(_beyond(order, direction, up=forward != descending))
    page = statement.order_by(*ordered(order, descending, forward)).limit(LIMIT)
    if heads is not None:
        page = page.where(heads(page, descending == forward))
    moment = sa.func.coalesce(MOMENT, sa.func.statement_timestamp(), type_=MOMENT.type)
    return page.add_columns(moment, *order)


def read_page(
    session: Session,
    statement: Callable[[Direction], sa.Select[Any]],
    order: Sequence[Any],
    *,
    query: Sequence[object],
    limit: int,
    cursor: str | None,
    values: Mapping[str, Any] = MappingProxyType({}),
    execution_options: Mapping[str, Any] = MappingProxyType({}),
) -> Page[Any]:
    """Return a page of a list of objects.

    A cursor has the order's values as they are stored: an object that the session made may hold another
    time than the one that the database gave its row.

    :param statement: returns the :func:`page_statement` for a direction.
    :param order: the statement's.
    :param query: what the cursor is bound to: the list's name, then its filters.
    :param limit: how many rows at most, up to :data:`~platform_db.bounds.LARGEST_LIMIT`.
    :param values: of the parameters that the statement has besides.
    :param execution_options: as :meth:`sqlalchemy.orm.Session.execute` takes them.
    :raises errors.InvalidIdentifier: this list gave no such cursor.
    :raises errors.InvalidArgument: the limit is out of range.
    """
    require_limit(limit)
    place = None if cursor is None else _decode(query, cursor, order)
    values = {**values, "limit": limit + 1, "moment": None}
    direction = Direction()
    if place is not None:
        direction = Direction(place.way, place.key[0] is None)
        values.update(moment=place.moment, **{f"key_{n}": value for n, value in enumerate(place.key)})
    forward = direction.is_forward
    found = session.execute(statement(direction), values, execution_options=execution_options).all()
    rows, more = list(found[:limit]), len(found) > limit
    if not forward:
        rows.reverse()

    def cursor_at(row: Any, way: str) -> str:
        return _encode(query, Place(way, row[1], row[2:]))

    if not rows:
        if place is None:
            return Page([], None)
        # What was there is gone: the way back begins at the place itself.
        back = _encode(query, Place("<=" if forward else ">=", place.moment, place.key))
        return Page([], None, back) if forward else Page([], back, None)
    return Page(
        [row[0] for row in rows],
        cursor_at(rows[-1], ">") if more or not forward else None,
        cursor_at(rows[0], "<") if (direction.way == ">" if forward else more) else None,
    )


def ordered(order: Sequence[Any], descending: bool, forward: bool = True) -> list[Any]:
    """Return what a statement is ordered by; backwards, all of it is turned round."""
    down = descending == forward
    first, *rest = [column.desc() if down else column.asc() for column in order]
    if _is_nullable(order[0]):
        first = first.nulls_last() if forward else first.nulls_first()
    return [first, *rest]


def _beyond(order: Sequence[Any], direction: Direction, *, up: bool) -> sa.ColumnElement[bool]:
    """Return the condition that a row comes after the place.

    :param up: whether greater values come after smaller ones.
    """
    values = [sa.bindparam(f"key_{number}", type_=column.type) for number, column in enumerate(order)]
    nulls_follow = _is_nullable(order[0]) and direction.is_forward
    if not direction.is_null:
        beyond = _compared(order, values, direction.way, up)
        return sa.or_(beyond, order[0].is_(None)) if nulls_follow else beyond
    beyond = sa.and_(order[0].is_(None), _compared(order[1:], values[1:], direction.way, up))
    return beyond if nulls_follow else sa.or_(beyond, order[0].is_not(None))


def _compared(columns: Sequence[Any], values: Sequence[Any], way: str, up: bool) -> sa.ColumnElement[bool]:
    here, there = sa.tuple_(*columns), sa.tuple_(*values)
    if way.endswith("="):
        return here >= there if up else here <= there
    return here > there if up else here < there


def _is_nullable(column: Any) -> bool:
    return getattr(column, "nullable", True) is not False


def _encode(query: Sequence[object], place: Place) -> str:
    values = [place.moment, *place.key]
    texts = [value.isoformat() if hasattr(value, "isoformat") else value for value in values]
    return cursors.encode(query, [place.way, *(getattr(text, "value", text) for text in texts)])


def _decode(query: Sequence[object], cursor: str, order: Sequence[Any]) -> Place:
    first, *rest = map(_reader_of, order)
    first = _or_none(first) if _is_nullable(order[0]) else first
    way, moment, *key = cursors.decode(query, cursor, _way, cursors.time, first, *rest)
    return Place(way, moment, key)


def _way(part: str) -> str:
    if part not in (">", ">=", "<", "<="):
        raise ValueError(part)
    return part


def _reader_of(column: Any) -> Callable[[str], Any]:
    """Return what reads the values of a column in a cursor."""
    type_ = column.type
    if isinstance(type_, sa.Integer):
        return cursors.number
    if isinstance(type_, Id):
        return cursors.id_
    if isinstance(type_, ENUM):
        return type_.enum_class or cursors.text
    return cursors.text if isinstance(type_, sa.String) else cursors.stored_time


def _or_none(read: Callable[[str], Any]) -> Callable[[str | None], Any]:
    return lambda part: None if part is None else read(part)
