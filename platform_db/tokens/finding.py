"""Finding tokens as rows: by value, for whoever holds a leaked one, or by user."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import InstrumentedAttribute, Session, joinedload

from platform_db import errors
from platform_db.crypto.keys import get_key_ring
from platform_db.crypto.token_format import require_well_formed
from platform_db.identifiers import parse_id
from platform_db.models import Base, InteractiveSession, User, UserToken, UserTokenStatus, UserTokenType

M = TypeVar("M", bound=Base)


def find_token(session: Session, value: str) -> UserToken:
    """Return the token with this value, whatever its status. This lets nobody in: see ``authenticate``.

    :raises errors.UnknownToken: there is none.
    :raises errors.MalformedToken: this cannot be a token.
    """
    return _find(session, UserToken, UserToken.token_digest, value)


def find_interactive_session(session: Session, secret: str) -> InteractiveSession:
    """Return the interactive session with this secret, whatever its status.

    :raises errors.UnknownToken: there is none.
    :raises errors.MalformedToken: this cannot be a secret.
    """
    return _find(session, InteractiveSession, InteractiveSession.secret_digest, secret)


def _find(session: Session, model: type[M], digest: InstrumentedAttribute[bytes | None], value: str) -> M:
    require_well_formed(value)
    found = session.scalars(sa.select(model).where(digest.in_(get_key_ring().digests(value)))).all()
    if len(found) != 1:
        raise errors.UnknownToken
    return found[0]


def list_tokens(
    session: Session,
    user: User | uuid.UUID | str,
    *,
    type_: UserTokenType | None = None,
    status: UserTokenStatus | None = None,
) -> Sequence[UserToken]:
    """Return a user's tokens, the oldest first, with when they were last used.

    :param user: the user, or the user's id.
    :param type_: only those of this type.
    :param status: only those with this status.
    """
    user_id = user.id_ if isinstance(user, User) else parse_id(user, "user id")
    query = (
        sa.select(UserToken)
        .where(UserToken.user_id == user_id)
        .options(joinedload(UserToken.last_use))
        .order_by(UserToken.id_)
    )
    if type_ is not None:
        query = query.where(UserToken.type_ == type_)
    if status is not None:
        query = query.where(UserToken.status == status)
    return session.scalars(query).all()
