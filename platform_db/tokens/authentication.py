"""Who shows this token? One indexed statement says it."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.crypto import get_key_ring
from platform_db.models.token import EVERY_SCOPE, UserTokenType
from platform_db.token_format import require_well_formed
from platform_db.types import SCHEMA


@dataclass(frozen=True, slots=True)
class AuthenticatedToken:
    """A token that lets its user in.

    :param scopes: what it may be used for.
    :param expires_at: when its time is over; None is never.
    """

    token_id: uuid.UUID
    user_id: uuid.UUID
    type_: UserTokenType
    name: str | None
    scopes: frozenset[str]
    expires_at: datetime | None

    def require(self, scopes: Iterable[str]) -> None:
        """Refuse the token for what it was not made for.

        :raises errors.MissingScope: it has not all of these scopes.
        """
        needed = {scopes} if isinstance(scopes, str) else set(scopes)
        if EVERY_SCOPE not in self.scopes and not needed <= self.scopes:
            raise errors.MissingScope(self.token_id, self.user_id)


# Finding by equality in an index tells nothing to whoever measures its time: what is compared are keyed
# digests, and nobody without the key can choose one that is close to another.
# A transaction that cannot write, as on a replica, says so here: trying would abort it.
_LOOK_UP = sa.text(
    f"""
    SELECT token.id_, token.user_id, token.type_, token.status, token.name, token.scopes, token.expires_at,
           coalesce(token.expires_at <= statement_timestamp(), false) AS expired,
           coalesce(last_use.last_used_at < statement_timestamp() - interval '1 minute', true)
           AND current_setting('transaction_read_only') = 'off' AS refresh
    FROM {SCHEMA}.user_token AS token
    LEFT JOIN {SCHEMA}.user_token_last_use AS last_use
        ON last_use.user_id = token.user_id AND last_use.token_id = token.id_
    WHERE token.token_digest = ANY(:digests)
    """
)

# Whoever else is noting the use of this token need not be waited for: theirs will do.
_NOTE_USE = sa.text(
    f"""
    UPDATE {SCHEMA}.user_token_last_use AS last_use SET last_used_at = statement_timestamp()
    FROM (
        SELECT user_id, token_id FROM {SCHEMA}.user_token_last_use
        WHERE user_id = :user_id AND token_id = :token_id
          AND (last_used_at IS NULL OR last_used_at < statement_timestamp() - interval '1 minute')
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS free
    WHERE last_use.user_id = free.user_id AND last_use.token_id = free.token_id
    """
)


def authenticate(session: Session, value: str, *, scopes: Iterable[str] = ()) -> AuthenticatedToken:
    """Return whose token ``value`` is, and note its use (at most once a minute).

    The errors are all :class:`errors.AuthenticationError` with one message; their class and ``code`` tell
    why. It is this very token that counts: another one of the same user does not help.

    :param scopes: what the token is to be used for; it must have all of them.
    :raises errors.MalformedToken: this cannot be a token; the database is not asked.
    :raises errors.UnknownToken: there is no such token, or it is not granted yet.
    :raises errors.RevokedToken: it was revoked.
    :raises errors.ExpiredToken: its time is over.
    :raises errors.MissingScope: it was not made for this.
    """
    require_well_formed(value)
    connection = session.connection()
    rows = connection.execute(_LOOK_UP, {"digests": get_key_ring().digests(value)}).fetchall()
    if len(rows) != 1:  # Two, under two keys, could only come from writing past the models: nobody gets in.
        raise errors.UnknownToken
    token_id, user_id, type_, status, name, token_scopes, expires_at, expired, refresh = rows[0]
    if status == "revoked":
        raise errors.RevokedToken(token_id, user_id)
    if status != "active":
        raise errors.UnknownToken(token_id, user_id)
    if expired:
        raise errors.ExpiredToken(token_id, user_id)
    token = AuthenticatedToken(
        token_id, user_id, UserTokenType(type_), name, frozenset(token_scopes), expires_at
    )
    if scopes:
        token.require(scopes)
    if refresh:
        connection.execute(_NOTE_USE, {"user_id": user_id, "token_id": token_id})
    return token
