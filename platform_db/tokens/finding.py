"""Finding tokens as rows: by value, such as a leaked one, or by user."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session, joinedload

from platform_db import errors
from platform_db.crypto.keys import get_key_ring
from platform_db.crypto.token_format import require_well_formed
from platform_db.cursors import Page
from platform_db.database.session import takes_session
from platform_db.models import InteractiveSession, SecretDigest, UserToken, UserTokenStatus, UserTokenType
from platform_db.models.identity import UserOrId, user_id_of
from platform_db.query.find import find
from platform_db.states import USER_TOKEN
from platform_db.tenancy import in_tenant_scope


@takes_session
def find_token(session: Session, value: str) -> UserToken:
    """Return the token with this value, in any status. This does not authenticate: see ``authenticate``.

    :raises errors.UnknownToken: there is none.
    :raises errors.MalformedToken: this cannot be a token.
    """
    require_well_formed(value)
    found = session.scalars(sa.select(UserToken).where(UserToken.token == value)).all()
    if len(found) != 1:
        raise errors.UnknownToken
    return found[0]


@takes_session
def find_interactive_session(session: Session, secret: str) -> InteractiveSession:
    """Return the interactive session with this secret, whatever its status.

    :raises errors.UnknownToken: there is none.
    :raises errors.MalformedToken: this cannot be a secret.
    :raises errors.Refused: the session is in a tenant's scope, which has no digests of secrets.
    """
    if in_tenant_scope(session):
        raise errors.Refused("a secret may be any tenant's: find it outside the tenant's scope")
    require_well_formed(secret)
    ids = sa.select(SecretDigest.entity_id).where(
        SecretDigest.digest.in_(get_key_ring().digests(secret)),
        SecretDigest.entity == InteractiveSession.__tablename__,
    )
    found = session.scalars(
        sa.select(InteractiveSession).where(InteractiveSession.id_.in_(ids))
    ).one_or_none()
    if found is None:
        raise errors.UnknownToken
    return found


@takes_session
def list_tokens(
    session: Session,
    user: UserOrId,
    *,
    type_: UserTokenType | str | None = None,
    status: UserTokenStatus | str | None = None,
    limit: int = 100,
    cursor: str | None = None,
) -> Page[UserToken]:
    """Return a page of a user's tokens, the oldest first, with when they were last used.

    :param user: the user, or the user's id.
    :param type_: only those of this type.
    :param status: only those with this status.
    :param cursor: where the page before ended, with the same arguments.
    :raises errors.InvalidIdentifier: this list gave no such cursor.
    :raises errors.UnknownStatus: there is no status of this name.
    """
    user_id = user_id_of(user)
    chosen: dict[str, Any] = {"owner_id": user_id}
    if type_ is not None:
        chosen["type_"] = UserTokenType(type_)
    if status is not None:
        chosen["status"] = USER_TOKEN.status(status)
    last_use = joinedload(UserToken.last_use)
    return find(session, UserToken, chosen, sort="created", limit=limit, cursor=cursor, options=[last_use])
