"""Objects that a session holds, and whose rows a statement or a trigger has changed."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.models.base import Base


def expire_row(
    session: Session, model: type[Base], key: tuple[uuid.UUID, ...], names: Iterable[str] | None = None
) -> None:
    """Let the session's object with this key, if it holds one, read its row again when it is next asked.

    :param names: only these attributes.
    """
    row = session.identity_map.get((model, key, None))
    if row is not None:
        session.expire(row, names)
        expire_on_rollback(session, row)


def expire_rows(session: Session, model: type[Base], owner_ids: Collection[uuid.UUID]) -> None:
    """Let all of the session's objects of this model and these owners read their rows again."""
    for key in list(session.identity_map.keys()):
        if key[0] is model and key[1][0] in owner_ids:
            expire_row(session, model, key[1])


def expire_on_rollback(session: Session, row: Base) -> None:
    """Let rolling back to a savepoint expire the object, as it does after the ORM's own UPDATE."""
    session._register_altered([sa.inspect(row)])
