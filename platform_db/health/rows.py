"""The rows of any table: their keys in order, and what one of them holds. No secret is ever read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import unquote

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from platform_db import cursors, errors
from platform_db.crypto.column import Sealed
from platform_db.cursors import Page
from platform_db.database.id_column import Id
from platform_db.database.paging import page_statement, read_page
from platform_db.database.session import takes_session
from platform_db.health.tables import table_of
from platform_db.query.lookup import SHOWN_CANDIDATES, id_range, require_one
from platform_db.tenancy.privileges import Role, privileges

WITHHELD = "(withheld)"
"""Stands for what the readers' role may not read."""

LARGEST_VALUE = 4096
"""Of a longer value, so many characters are shown."""


@takes_session
def list_keys(
    session: Session, table: str, *, prefix: str = "", limit: int = 50, cursor: str | None = None
) -> Page[dict[str, Any]]:
    """Return a page of a table's primary keys, in their order.

    :param prefix: only keys that begin so: the values of their columns with ``/`` between them, of which the
        last may be the beginning of an id or a text. A ``/`` within a value is written ``%2F``.
    :param limit: how many keys at most.
    :param cursor: that of the page before.
    :raises errors.NotFound: there is no such table.
    :raises errors.InvalidIdentifier: no key can begin so, or this list gave no such cursor.
    :raises errors.Refused: the keys are secret.
    """
    found = table_of(table)
    columns = _key_of(found)
    conditions = _begin(found, columns, prefix)
    named = (part for column in columns for part in (sa.literal(column.name, sa.Text), column))
    # JSON, unlike JSONB, keeps their order.
    key = sa.func.json_build_object(*named, type_=sa.JSON)
    statement = sa.select(key).select_from(found).where(*conditions)
    return read_page(
        session,
        lambda direction: page_statement(statement, columns, direction, descending=False),
        columns,
        query=("keys", found.name, prefix),
        limit=limit,
        cursor=cursor,
    )


@takes_session
def read_row(session: Session, table: str, *key: str, full: bool = False) -> dict[str, Any]:
    """Return a row by its columns' names, its values as JSON has them.

    What the readers' role may not read is not read, and shown as :data:`WITHHELD`.

    :param key: the id, or the beginning of one, where the table's rows have ids; otherwise the values of the
        primary key, also as one text with ``/`` between them.
    :param full: also return long values whole, which otherwise are cut, with their size after them.
    :raises errors.NotFound: there is no such table or row.
    :raises errors.AmbiguousIdentifier: several ids begin so; names them.
    :raises errors.InvalidIdentifier: the table has no such keys.
    :raises errors.Refused: the keys are secret.
    """
    found = table_of(table)
    condition = _where(session, found, key)
    shown = {column.name: (_whole if full else _cut)(column) for column in found.columns if _is_shown(column)}
    query = sa.select(*(value.label(name) for name, value in shown.items())).where(condition)
    row = session.execute(query).mappings().one_or_none()
    if row is None:
        raise errors.NotFound(f"there is no {found.name} {' '.join(key)}")
    return {column.name: row.get(column.name, WITHHELD) for column in found.columns}


def _where(session: Session, table: sa.Table, key: Sequence[str]) -> sa.ColumnElement[bool]:
    """Return the condition that finds the row of this key alone."""
    columns = _key_of(table)
    id_ = table.columns.get("id_")
    if len(key) == 1 and "/" not in key[0] and id_ is not None and isinstance(id_.type, Id):
        ids = sa.select(id_).where(id_.between(*id_range(key[0]))).order_by(id_).limit(SHOWN_CANDIDATES + 1)
        found = session.scalars(ids).all()
        require_one(table.name, key[0], found)
        return id_ == sa.literal(found[0])
    if len(key) == 1 and len(columns) > 1:
        key = [unquote(part) for part in key[0].split("/")]
    if len(key) != len(columns):
        raise errors.InvalidIdentifier(f"a row of {table.name} is named by {_named(columns)}")
    return sa.and_(*(column == _read(column, part) for column, part in zip(columns, key, strict=True)))


def _begin(table: sa.Table, columns: Sequence[sa.Column[Any]], prefix: str) -> list[sa.ColumnElement[bool]]:
    """Return the conditions that a key begins so, which the index of the primary key serves."""
    *whole, last = map(unquote, prefix.split("/", len(columns) - 1))
    conditions = [column == _read(column, part) for column, part in zip(columns, whole, strict=False)]
    column = columns[len(whole)]
    if not last:
        return conditions
    if isinstance(column.type, Id):
        try:
            return [*conditions, column.between(*id_range(last))]
        except errors.InvalidIdentifier as error:
            raise errors.InvalidIdentifier(
                str(error), hint=f"the keys of {table.name} are {_named(columns, '/')}"
            ) from None
    value = _read(column, last)
    return [*conditions, sa.func.starts_with(column, value) if isinstance(value, str) else column == value]


def _key_of(table: sa.Table) -> list[sa.Column[Any]]:
    columns = list(table.primary_key.columns)
    if any(isinstance(column.type, Sealed) for column in columns):
        raise errors.Refused(f"the keys of {table.name} are withheld: they are digests of secrets")
    return columns


def _named(columns: Sequence[sa.Column[Any]], separator: str = " ") -> str:
    return separator.join(column.name.strip("_").upper() for column in columns)


def _read(column: sa.Column[Any], part: str) -> Any:
    """Return a part of a key as a value of its column."""
    what, read = next(known for type_, known in _READERS.items() if isinstance(column.type, type_))
    try:
        return read(part)
    except (ValueError, KeyError):
        raise errors.InvalidIdentifier(f"{column.name} takes {what}, not {part!r}") from None


_READERS: dict[Any, tuple[str, Callable[[str], Any]]] = {
    Id: ("a whole id", cursors.id_),
    sa.Integer: ("a number", cursors.number),
    sa.Boolean: ("true or false", {"true": True, "false": False}.__getitem__),
    sa.Text: ("a text without NUL", cursors.text),
}


def _is_shown(column: sa.Column[Any]) -> bool:
    """Tell whether people may read a column: it is part of the key, or the readers' role may read it."""
    granted = privileges()[column.table.name].get(Role.readonly, ())
    is_granted = "SELECT" in granted or f"SELECT ({column.name})" in granted
    return column.primary_key or (is_granted and not isinstance(column.type, Sealed))


def _whole(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    return sa.func.to_jsonb(column, type_=JSONB)


def _cut(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """Return a column's value as JSON; of a long one, its beginning and its size."""
    text = sa.cast(column, sa.Text)
    size = sa.func.octet_length(column if isinstance(column.type, sa.LargeBinary) else text)
    beginning = sa.func.concat(sa.func.left(text, LARGEST_VALUE), "… (", size, " bytes in all)")
    is_long = sa.func.length(text) > LARGEST_VALUE
    return sa.case((is_long, sa.func.to_jsonb(beginning, type_=JSONB)), else_=_whole(column))
