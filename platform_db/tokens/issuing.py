"""Making tokens. Each change of one user's tokens holds that user's lock."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.audit import record_action
from platform_db.bounds import require_seconds
from platform_db.crypto.token_format import generate
from platform_db.database.session import takes_session
from platform_db.models import (
    AuditLogAction,
    InteractiveSession,
    UserToken,
    UserTokenStatus,
    UserTokenType,
)
from platform_db.models.identity import UserOrId, user_id_of
from platform_db.models.token import EVERY_SCOPE
from platform_db.tokens.lifecycle import revoke


@takes_session
def issue(
    session: Session,
    user: UserOrId,
    *,
    type_: UserTokenType | str = UserTokenType.access,
    name: str | None = None,
    scopes: Iterable[str] | None = None,
    expires_in: timedelta | None = None,
    value: str | None = None,
    actor_id: uuid.UUID | None = None,
) -> str:
    """Make a token and return its value, which is shown only this once.

    :param user: the user, or the user's id.
    :param type_: what it is for. An access token is granted: see :func:`grant`.
    :param name: what the user calls it; a personal token needs one.
    :param scopes: what it may be used for, ``"*"`` being everything. By default everything for an access
        token, and nothing for any other.
    :param expires_in: how long it lasts; by default for ever.
    :param value: a value that the platform brings itself; by default a new one is made.
    :param actor_id: the user who does this, for the audit log.
    :raises errors.UserNotFound: there is no such user.
    :raises errors.TokenError: the user has an active access token, or a personal one of this name, or the
        value is in use.
    """
    type_ = UserTokenType(type_)
    if type_ is UserTokenType.access:
        return grant(
            session, user, name=name, scopes=scopes, expires_in=expires_in, value=value, actor_id=actor_id
        )
    if type_ is UserTokenType.personal and not name:
        raise errors.TokenError("a personal token needs a name")
    user_id = _lock_user(session, user)
    if type_ is UserTokenType.personal:
        _revoke_expired(session, user_id, type_, name)
    token = UserToken(owner_id=user_id, type_=type_)
    return _activate(
        session, token, AuditLogAction.issue_token, actor_id, _values(type_, name, scopes, expires_in, value)
    )


@takes_session
def grant(
    session: Session,
    user: UserOrId,
    *,
    name: str | None = None,
    scopes: Iterable[str] | None = None,
    expires_in: timedelta | None = None,
    value: str | None = None,
    actor_id: uuid.UUID | None = None,
) -> str:
    """Give a user the access token, the requested one if there is one, and return its value.

    An active one that has expired is revoked, and replaced; see :func:`issue` for the parameters.

    :raises errors.UserNotFound: there is no such user.
    :raises errors.TokenError: the user has already an active access token, or the value is in use.
    """
    values = _values(UserTokenType.access, name, scopes, expires_in, value)
    user_id = _lock_user(session, user)
    _revoke_expired(session, user_id, UserTokenType.access, None)
    open_ = _open_access_tokens(session, user_id)
    if UserTokenStatus.active in open_:
        raise errors.TokenError(f"user {user_id} has already an active access token")
    token = open_.get(UserTokenStatus.requested) or UserToken(owner_id=user_id, type_=UserTokenType.access)
    return _activate(session, token, AuditLogAction.grant_token, actor_id, values)


@takes_session
def request(session: Session, user: UserOrId, *, actor_id: uuid.UUID | None = None) -> UserToken:
    """Request an access token, which :func:`grant` then activates.

    :raises errors.UserNotFound: there is no such user.
    :raises errors.TokenError: the user has an active one, or has already requested one.
    """
    user_id = _lock_user(session, user)
    _revoke_expired(session, user_id, UserTokenType.access, None)
    open_ = _open_access_tokens(session, user_id)
    if UserTokenStatus.active in open_:
        raise errors.TokenError(f"user {user_id} has already an active access token")
    if open_:
        raise errors.TokenError(f"user {user_id} has already requested an access token")
    token = UserToken(owner_id=user_id, type_=UserTokenType.access, status=UserTokenStatus.requested)
    session.add(token)
    record_action(
        session, user_id, AuditLogAction.request_token, {"token_id": str(token.id_)}, actor_id=actor_id
    )
    session.flush()
    return token


@takes_session
def issue_interactive_session_secret(
    session: Session, interactive_session: InteractiveSession, *, actor_id: uuid.UUID | None = None
) -> str:
    """Give an interactive session a new secret in place of the one that it has, and return it."""
    value = generate("interactive_session")
    interactive_session.secret = value
    details = {"interactive_session_id": str(interactive_session.id_)}
    record_action(
        session, interactive_session.owner_id, AuditLogAction.issue_token, details, actor_id=actor_id
    )
    session.flush()
    return value


def _values(
    type_: UserTokenType,
    name: str | None,
    scopes: Iterable[str] | None,
    expires_in: timedelta | None,
    value: str | None,
) -> dict[str, Any]:
    """Return the attributes of a token that becomes active."""
    if scopes is None:
        scopes = [EVERY_SCOPE] if type_ is UserTokenType.access else []
    scopes = [scopes] if isinstance(scopes, str) else sorted(set(scopes))
    if not all(scopes):
        raise errors.TokenError("a scope has no name")
    if expires_in is not None and not require_seconds(expires_in, "time that a token lasts"):
        raise errors.InvalidArgument("a token must last for some time")
    return {
        "name": name,
        "scopes": scopes,
        "expires_at": None if expires_in is None else sa.func.now() + expires_in,
        "token": generate(type_.value) if value is None else value,
    }


def _activate(
    session: Session,
    token: UserToken,
    action: AuditLogAction,
    actor_id: uuid.UUID | None,
    values: dict[str, Any],
) -> str:
    """Store an active token; a refusal by the database leaves the transaction usable."""
    with session.begin_nested():
        for attribute, value in values.items():
            setattr(token, attribute, value)
        token.status = UserTokenStatus.active
        session.add(token)
        details = {"token_id": str(token.id_), "type": token.type_.value}
        record_action(session, token.owner_id, action, details, actor_id=actor_id)
        session.flush()
    return str(values["token"])


def _lock_user(session: Session, user: UserOrId) -> uuid.UUID:
    """Lock the user, so that other writers of the user's tokens wait, and return the user's id."""
    session.flush()
    user_id = user_id_of(user)
    if session.connection().execute(_LOCK_USER, {"id": str(user_id)}).one_or_none() is None:
        raise errors.UserNotFound(f"there is no user {user_id}")
    return user_id


# The same lock as that of the user's run numbers, so that no two transactions take them in opposite orders.
_LOCK_USER = sa.text("SELECT platform.lock_owner(id_) FROM platform.user_ WHERE id_ = CAST(:id AS uuid)")


def _open_access_tokens(session: Session, user_id: uuid.UUID) -> dict[UserTokenStatus, UserToken]:
    """Return the user's access tokens that are not revoked, by status."""
    query = (
        sa.select(UserToken)
        .where(UserToken.owner_id == user_id, UserToken.type_ == UserTokenType.access)
        .where(UserToken.status != UserTokenStatus.revoked)
        .execution_options(populate_existing=True)
    )
    return {token.status: token for token in session.scalars(query)}


def _revoke_expired(session: Session, user_id: uuid.UUID, type_: UserTokenType, name: str | None) -> None:
    """Revoke the user's active token, of this name if need be, whose time is over: it blocks a new one."""
    query = sa.select(UserToken.id_).where(
        UserToken.owner_id == user_id,
        UserToken.type_ == type_,
        UserToken.status == UserTokenStatus.active,
        UserToken.expires_at <= sa.func.statement_timestamp(),
    )
    if name is not None:
        query = query.where(UserToken.name == name)
    for token_id in session.scalars(query).all():
        revoke(session, token_id, reason="expired")
