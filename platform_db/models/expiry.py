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


def expire_rows(session: Session, model: type[Base], owner_ids: Collection[uuid.UUID] | None = None) -> None:
    """Let the session's objects of this model, of all or of these owners, read their rows again."""
    for key in held_keys(session, model):
        if owner_ids is None or key[0] in owner_ids:
            expire_row(session, model, key)


def held_keys(session: Session, model: type[Base]) -> list[tuple[uuid.UUID, ...]]:
    """Return the keys of the session's objects of this model."""
    return [key[1] for key in list(session.identity_map.keys()) if key[0] is model]


def expire_on_rollback(session: Session, row: Base) -> None:
    """Let rolling back to a savepoint expire the object, as it does after the ORM's own UPDATE."""
    session._register_altered([sa.inspect(row)])
