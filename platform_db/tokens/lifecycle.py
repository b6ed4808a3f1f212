"""How tokens end: revoked, expired, and purged when they have long been revoked."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from functools import cache, partial

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.audit import record_action
from platform_db.bounds import require_limit, require_seconds
from platform_db.crypto.token_format import require_no_token
from platform_db.database.distribution import is_distributed
from platform_db.database.session import SessionFactory, takes_session
from platform_db.lifecycle.target import GuardedTarget, Key
from platform_db.lifecycle.transitions import transition_many
from platform_db.models import AuditLogAction, UserToken, UserTokenStatus

BATCH = 500


class TokenTarget(GuardedTarget):
    tables = (UserToken.__tablename__,)


@takes_session
def revoke(
    session: Session,
    token: UserToken | Key | uuid.UUID | str,
    *,
    reason: str | None = None,
    actor_id: uuid.UUID | None = None,
) -> bool:
    """Revoke a token for good: from the commit on it is refused. Return whether this call revoked it.

    :param token: the token, its key ``(owner_id, id_)``, or its id. For a value there is ``find_token``.
    :param reason: why, for the history and the audit log.
    :param actor_id: the user who does this, for the audit log.
    :raises errors.NotFound: there is no such token.
    :raises errors.TokenInText: a token's value is in the reason.
    """
    require_no_token(reason)
    target = TokenTarget.of(session, token, UserToken)
    user_id = session.connection().scalar(_lock_owner(target.owner_id is not None), target.parameters)
    if user_id is None:
        raise errors.NotFound(f"there is no token {target.id_}")
    is_revoked = _revoke(session, {target.id_: user_id}, reason, actor_id)
    session.flush()
    return is_revoked


def revoke_expired(factory: SessionFactory, *, batch: int = BATCH) -> int:
    """Revoke the tokens whose time is over, and return how many.

    They were refused before, too; this records it in their status, so that they are purged later. Each
    batch is a transaction of its own.

    :param factory: makes the sessions.
    :param batch: tokens per transaction.
    """
    return _in_batches(factory, _EXPIRED, {}, batch, partial(_revoke, reason="expired"))


def purge(factory: SessionFactory, *, revoked_for: timedelta, batch: int = BATCH) -> int:
    """Delete the tokens that have been revoked for so long, and return how many.

    The audit log keeps what happened to them. Each batch is a transaction of its own.

    :param factory: makes the sessions.
    :param batch: tokens per transaction.
    """

    def end(session: Session, tokens: dict[uuid.UUID, uuid.UUID]) -> None:
        keys = {"user_ids": list(tokens.values()), "token_ids": list(tokens)}
        session.connection().execute(_DELETE, keys)
        for token_id, user_id in tokens.items():
            record_action(session, user_id, AuditLogAction.purge_token, {"token_id": str(token_id)})

    require_seconds(revoked_for)
    with factory() as session:
        due = _long_revoked(session, revoked_for) if is_distributed(session.connection()) else None
    if due is None:
        return _in_batches(factory, _LONG_REVOKED, {"revoked_for": revoked_for}, batch, end)
    for start in range(0, len(due), require_limit(batch, "batch size")):
        with factory() as session, session.begin():
            end(session, dict(due[start : start + batch]))
    return len(due)


def _long_revoked(session: Session, revoked_for: timedelta) -> list[tuple[uuid.UUID, uuid.UUID]]:
    """Return the tokens that have been revoked for so long, and their users; the history is elsewhere."""
    connection = session.connection()
    tokens = connection.execute(_REVOKED, {"revoked_for": revoked_for}).all()
    keys = {"owners": list({row.owner_id for row in tokens}), "ids": [row.id_ for row in tokens]}
    ended = connection.execute(_REVOKED_AT, {**keys, "revoked_for": revoked_for})
    long_ago = {row.entity_id: row.long_ago for row in ended}
    return [(row.id_, row.owner_id) for row in tokens if long_ago.get(row.id_, row.long_ago)]


def _in_batches(
    factory: SessionFactory,
    query: sa.TextClause,
    parameters: dict[str, timedelta],
    batch: int,
    end: Callable[[Session, dict[uuid.UUID, uuid.UUID]], object],
) -> int:
    """Apply a function to the tokens that a query finds, and return how many there were."""
    require_limit(batch, "batch size")
    count = 0
    after: str | None = None
    while True:
        with factory() as session, session.begin():
            values = {**parameters, "after": after, "batch": batch}
            tokens = {row.id_: row.owner_id for row in session.connection().execute(query, values)}
            if not tokens:
                return count
            end(session, tokens)
        count += len(tokens)
        after = str(max(tokens))


def _revoke(
    session: Session,
    tokens: dict[uuid.UUID, uuid.UUID],
    reason: str | None,
    actor_id: uuid.UUID | None = None,
) -> bool:
    """Revoke and record tokens, given with their users, and tell whether one was not revoked before."""
    keys = [(user_id, token_id) for token_id, user_id in tokens.items()]
    results = transition_many(session, keys, UserTokenStatus.revoked, model=UserToken, reason=reason)
    revoked = [result.id_ for result in results if result.changed]
    for token_id in revoked:
        details = {"token_id": str(token_id), **({"reason": reason} if reason else {})}
        record_action(session, tokens[token_id], AuditLogAction.revoke_token, details, actor_id=actor_id)
    return bool(revoked)


_REVOKED = sa.text("""
    SELECT id_, owner_id, updated <= statement_timestamp() - CAST(:revoked_for AS interval) AS long_ago
    FROM platform.user_token WHERE status = 'revoked' ORDER BY id_
    """)

_REVOKED_AT = sa.text("""
    SELECT entity_id, max(at) <= statement_timestamp() - CAST(:revoked_for AS interval) AS long_ago
    FROM platform.status_change
    WHERE owner_id = ANY(CAST(:owners AS uuid[])) AND entity_id = ANY(CAST(:ids AS uuid[]))
      AND to_status = 'revoked'
    GROUP BY entity_id
    """)


# A function that changes a user's tokens locks the user first: otherwise two transactions that revoke the
# same tokens in opposite orders would wait for each other.
@cache
def _lock_owner(owner_is_known: bool) -> sa.TextClause:
    owned = "owner_id = CAST(:owner AS uuid) AND " if owner_is_known else ""
    return sa.text(f"""
        SELECT owner_id, platform.lock_owner(owner_id) FROM platform.user_token
        WHERE {owned}id_ = CAST(:id AS uuid)
        """)


_DELETE = sa.text("""
    DELETE FROM platform.user_token
    WHERE (owner_id, id_) IN (
        SELECT * FROM unnest(CAST(:user_ids AS uuid[]), CAST(:token_ids AS uuid[])) AS given
    )
    """)


def _batch_of(condition: str, lock: str) -> sa.TextClause:
    return sa.text(f"""
        SELECT id_, owner_id FROM platform.user_token AS token
        WHERE (CAST(:after AS uuid) IS NULL OR id_ > CAST(:after AS uuid)) AND {condition}
        ORDER BY id_ LIMIT :batch
        FOR {lock} SKIP LOCKED
        """)


_EXPIRED = _batch_of("status = 'active' AND expires_at <= statement_timestamp()", "NO KEY UPDATE")

# The history knows when a token was revoked; its row was changed since, where the keys were rotated.
_LONG_REVOKED = _batch_of(
    """status = 'revoked' AND coalesce(
        (SELECT max(at) FROM platform.status_change
         WHERE owner_id = token.owner_id AND entity_id = token.id_ AND to_status = 'revoked'),
        updated) <= statement_timestamp() - CAST(:revoked_for AS interval)""",
    "UPDATE",
)
