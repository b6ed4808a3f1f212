"""Finding a row by its id, or by the beginning of it."""

from __future__ import annotations

import re
import uuid
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
    digits = prefix.replace("-", "").lower()
    if not re.fullmatch("[0-9a-f]{1,32}", digits):
        raise errors.InvalidIdentifier(f"{prefix!r} is neither an id nor the beginning of one")
    id_: Any = sa.inspect(model).columns["id_"]
    first = uuid.UUID(digits.ljust(32, "0"))
    last = uuid.UUID(digits.ljust(32, "f"))
    rows = session.scalars(
        sa.select(model).where(id_.between(first, last), *criteria).order_by(id_).limit(SHOWN_CANDIDATES + 1)
    ).all()
    if len(rows) == 1:
        return rows[0]
    table = model.__tablename__
    if not rows:
        error = errors.WorkflowNotFound if model is Workflow else errors.NotFound
        raise error(f"there is no {table} {prefix}")
    candidates = [str(identity_of(row)[1]) for row in rows]
    shown = candidates[:SHOWN_CANDIDATES] + ["…"] * (len(rows) > SHOWN_CANDIDATES)
    raise errors.AmbiguousIdentifier(f"{table} {prefix} could be {', '.join(shown)}")


def model_of(table: str) -> type[Base]:
    """Return the model of a table whose rows have ids of their own.

    :raises errors.NotFound: there is no such table.
    """
    models = {
        str(mapper.class_.__tablename__): mapper.class_
        for mapper in Base.registry.mappers
        if "id_" in mapper.columns and isinstance(mapper.columns["id_"].type, sa.Uuid)
    }
    found = models.get(table) or models.get(f"{table}_")
    if found is None:
        raise errors.NotFound(f"there is no table {table} with ids; choose from {', '.join(sorted(models))}")
    return found


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
