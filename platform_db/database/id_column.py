"""The column type of ids."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from platform_db.identifiers import parse_id


class Id(sa.TypeDecorator[uuid.UUID]):
    """A column of ids, which takes their text, too.

    What is no id is refused before it reaches the server, also where a query compares the column: there it
    would end the transaction.
    """

    impl = sa.Uuid
    cache_ok = True

    def bind_processor(self, dialect: sa.Dialect) -> Callable[[Any], uuid.UUID | None]:
        """Return what makes a value the one that the driver takes."""
        return _parse_id_or_none


def _parse_id_or_none(value: Any) -> uuid.UUID | None:
    return None if value is None else parse_id(value)
