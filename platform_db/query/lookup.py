"""Finding a row by its id, or by the beginning of it."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.crypto.column import Sealed
from platform_db.database.session import takes_session
from platform_db.models import Base, Workflow
from platform_db.models.base import identity_of

Row = TypeVar("Row", bound=Base)

SHOWN_CANDIDATES = 10


@takes_session
def find_by_prefix(session: Session, model: type[Row], prefix: str, *criteria: sa.ColumnElement[bool]) -> Row:
    """Return the row whose id begins so; an exact id always wins.

    :param prefix: hexadecimal digits, with or without dashes. Ids that were made within a minute of each
        other begin with the same eight.
    :param criteria: which rows to look among; by default all.
    :raises errors.AmbiguousIdentifier: several ids begin so; names them.
    :raises errors.NotFound: none does.
    :raises errors.InvalidIdentifier: no id can.
    """
    id_: Any = sa.inspect(model).columns["id_"]
    rows = session.scalars(
        sa.select(model)
        .where(id_.between(*id_range(prefix)), *criteria)
        .order_by(id_)
        .limit(SHOWN_CANDIDATES + 1)
    ).all()
    require_one(model.__tablename__, prefix, [identity_of(row)[1] for row in rows])
    return rows[0]


def id_range(prefix: str) -> tuple[uuid.UUID, uuid.UUID]:
    """Return the first and the last id that begins so.

    :raises errors.InvalidIdentifier: no id can.
    """
    digits = prefix.replace("-", "").lower()
    if not re.fullmatch("[0-9a-f]{1,32}", digits):
        raise errors.InvalidIdentifier(f"{prefix!r} is neither an id nor the beginning of one")
    return uuid.UUID(digits.ljust(32, "0")), uuid.UUID(digits.ljust(32, "f"))


def require_one(table: str, prefix: str, ids: Sequence[uuid.UUID]) -> None:
    """Raise an error where more or fewer than one id begins so.

    :param ids: those that do, of which one more than are shown suffice.
    :raises errors.AmbiguousIdentifier: several do; names them.
    :raises errors.NotFound: none does.
    """
    if not ids:
        error = errors.WorkflowNotFound if table == Workflow.__tablename__ else errors.NotFound
        raise error(f"there is no {table} {prefix}")
    if len(ids) > 1:
        shown = [*map(str, ids[:SHOWN_CANDIDATES]), *["…"] * (len(ids) > SHOWN_CANDIDATES)]
        raise errors.AmbiguousIdentifier(f"{table} {prefix} could be {', '.join(shown)}")


def describe(row: Base) -> dict[str, Any]:
    """Return the row's columns for people and for JSON; binary values, which may be secrets, are hidden."""
    values = {}
    for attribute in sa.inspect(type(row)).column_attrs:
        value = getattr(row, attribute.key)
        if isinstance(attribute.columns[0].type, sa.LargeBinary | Sealed):
            value = None if value is None else "(hidden)"
        elif hasattr(value, "isoformat"):
            value = value.isoformat()
        elif isinstance(value, uuid.UUID):
            value = str(value)
        values[attribute.key] = getattr(value, "value", value)
    return values
