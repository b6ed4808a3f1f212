"""Making tokens. Each change of one user's tokens holds that user's lock."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.audit import record_action
from platform_db.bounds import require_seconds
from platform_db.crypto.token_format import generate
from platform_db.database.session import takes_session
from platform_db.models import AuditLogAction, InteractiveSession, UserToken, UserTokenStatus, UserTokenType
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
    is_access = type_ is UserTokenType.access
    if type_ is UserTokenType.personal and not name:
        raise errors.TokenError("a personal token needs a name")
    if scopes is None:
        scopes = [EVERY_SCOPE] if is_access else []
    scopes = [scopes] if isinstance(scopes, str) else sorted(set(scopes))
    if not all(scopes):
        raise errors.TokenError("a scope has no name")
    if expires_in is not None and not require_seconds(expires_in, "time that a token lasts"):
        raise errors.InvalidArgument("a token must last for some time")
    value = generate(type_.value) if value is None else value
    user_id = _lock_user(session, user)
    if type_ is UserTokenType.personal:
        _revoke_expired(session, user_id, type_, name)
    requested = _requested_token(session, user_id) if is_access else None
    with session.begin_nested():  # A refusal by the database leaves the transaction usable.
        token = requested or UserToken(owner_id=user_id, type_=type_)
        token.name, token.scopes, token.token = name, scopes, value
        token.expires_at = None if expires_in is None else sa.func.now() + expires_in
        token.status = UserTokenStatus.active
        session.add(token)
        action = AuditLogAction.grant_token if is_access else AuditLogAction.issue_token
        details = {"token_id": str(token.id_), "type": type_.value}
        record_action(session, user_id, action, details, actor_id=actor_id)
        session.flush()
    return value


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
    return issue(
        session, user, name=name, scopes=scopes, expires_in=expires_in, value=value, actor_id=actor_id
    )


@takes_session
def request(session: Session, user: UserOrId, *, actor_id: uuid.UUID | None = None) -> UserToken:
    """Request an access token, which :func:`grant` then activates.

    :raises errors.UserNotFound: there is no such user.
    :raises errors.TokenError: the user has an active one, or has already requested one.
    """
    user_id = _lock_user(session, user)
    if _requested_token(session, user_id) is not None:
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


def _lock_user(session: Session, user: UserOrId) -> uuid.UUID:
    """Lock the user, so that other writers of the user's tokens wait, and return the user's id."""
    session.flush()
    user_id = user_id_of(user)
    if session.connection().execute(_LOCK_USER, {"id": str(user_id)}).one_or_none() is None:
        raise errors.UserNotFound(f"there is no user {user_id}")
    return user_id


# The same lock as that of the user's run numbers, so that no two transactions take them in opposite orders.
_LOCK_USER = sa.text("SELECT platform.lock_owner(id_) FROM platform.user_ WHERE id_ = CAST(:id AS uuid)")


def _requested_token(session: Session, user_id: uuid.UUID) -> UserToken | None:
    """Return the access token that the user has requested.

    :raises errors.TokenError: the user has an active one, which has not expired.
    """
    _revoke_expired(session, user_id, UserTokenType.access, None)
    query = (
        sa.select(UserToken)
        .where(UserToken.owner_id == user_id, UserToken.type_ == UserTokenType.access)
        .where(UserToken.status != UserTokenStatus.revoked)
        .execution_options(populate_existing=True)
    )
    tokens = session.scalars(query).all()
    if any(token.status is UserTokenStatus.active for token in tokens):
        raise errors.TokenError(f"user {user_id} has already an active access token")
    return tokens[0] if tokens else None


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
        revoke(session, (user_id, token_id), reason="expired")
