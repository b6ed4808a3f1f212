"""What every public function takes as its session, and what a job takes to make sessions."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session, scoped_session

from platform_db.identifiers import parse_id


class PlatformSession(Session):
    """A session that finds a tenant's row by its whole key, and also by its id alone.

    ``session.get(Workflow, id_)`` asks for the whole key first. With the whole key, ``(owner_id, id_)``, it
    does not, and a row that the session holds needs no statement.
    """

    def get(self, entity: Any, ident: Any, **options: Any) -> Any:
        """Return the row with this key or id, None where there is none."""
        if isinstance(ident, uuid.UUID | str) and _has_owner_and_id(entity):
            key = sa.inspect(entity).primary_key
            row = self.execute(sa.select(*key).where(entity.id_ == parse_id(ident))).first()
            if row is None:
                return None
            ident = tuple(row)
        return super().get(entity, ident, **options)


def _has_owner_and_id(entity: Any) -> bool:
    return {column.key for column in sa.inspect(entity).primary_key} >= {"owner_id", "id_"}


AnySession = Session | scoped_session[Session]
"""A session, or a registry that gives the one of this thread."""

SessionFactory = Callable[[], Session]
"""Makes sessions: for work that must not hold one transaction open."""

READ_COMMITTED = sa.text("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
"""Begins a transaction that has to see what is committed while it waits for a lock, whatever the default is.

A statement, not an option of the connection: it does nothing where a caller's transaction is so already.
"""

P = ParamSpec("P")
R = TypeVar("R")


def takes_session(function: Callable[Concatenate[Session, P], R]) -> Callable[Concatenate[AnySession, P], R]:
    """Let a function whose first argument is a session take a :class:`scoped_session`, too."""

    @functools.wraps(function)
    def call(session: Any, *args: P.args, **options: P.kwargs) -> R:
        return function(session() if isinstance(session, scoped_session) else session, *args, **options)

    return call  # type: ignore[return-value]  # Types have no word for "by its name, too".
