"""Authentication: one indexed statement finds the token of a value, and with it the user."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.crypto.keys import get_key_ring
from platform_db.crypto.token_format import require_well_formed
from platform_db.database.session import takes_session
from platform_db.models.token import EVERY_SCOPE, UserTokenType


@dataclass(frozen=True, slots=True)
class AuthenticatedToken:
    """A token that authenticates its user.

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


# The function looks each digest up in a unique index. How long that takes tells nothing: what is compared are
# keyed digests, and without the key no attacker can choose one that is close to another.
_LOOK_UP = sa.text("SELECT platform.look_up_token(:digests) AS token").columns(sa.column("token"))

# Where another transaction is noting the use of this token, its note is enough: this one does not wait.
_NOTE_USE = sa.text("""
    UPDATE platform.user_token_last_use AS last_use SET last_used_at = statement_timestamp()
    FROM (
        SELECT owner_id, token_id FROM platform.user_token_last_use
        WHERE owner_id = :user_id AND token_id = :token_id
          AND (last_used_at IS NULL OR last_used_at < statement_timestamp() - interval '1 minute')
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS free
    WHERE last_use.owner_id = free.owner_id AND last_use.token_id = free.token_id
    """)


@takes_session
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
    found = connection.execute(_LOOK_UP, {"digests": get_key_ring().digests(value)}).scalar_one()
    if found is None:
        raise errors.UnknownToken
    token_id, user_id = uuid.UUID(found["token_id"]), uuid.UUID(found["owner_id"])
    if found["status"] == "revoked":
        raise errors.RevokedToken(token_id, user_id)
    if found["status"] != "active":
        raise errors.UnknownToken(token_id, user_id)
    if found["expired"]:
        raise errors.ExpiredToken(token_id, user_id)
    expires_at = found["expires_at"]
    token = AuthenticatedToken(
        token_id,
        user_id,
        UserTokenType(found["type"]),
        found["name"],
        frozenset(found["scopes"]),
        None if expires_at is None else datetime.fromtimestamp(expires_at, timezone.utc),
    )
    if scopes:
        token.require(scopes)
    if found["note_use"]:
        connection.execute(_NOTE_USE, {"user_id": user_id, "token_id": token_id})
    return token
