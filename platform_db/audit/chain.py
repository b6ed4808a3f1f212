"""The chain of seals: what a seal's hash covers, and seals to keep elsewhere."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.audit.names import own_names
from platform_db.audit.signing import signing_key
from platform_db.bounds import require_amount
from platform_db.database.session import READ_COMMITTED, takes_session
from platform_db.database.sqlstates import LOCK_NOT_AVAILABLE, sqlstate_of
from platform_db.models import AuditSeal

NO_HASH = bytes(32)

# Seals that are read at a time.
PAGE = 500


def lock_chain(session: Session) -> None:
    """Take the chain's lock until the transaction ends.

    No two sealers, nor a sealer and retention, add to the chain at once. The lock is on a row, which no
    tenant may lock. Any login can take an advisory lock, and keep it.

    :raises errors.AlreadyRunning: it is taken.
    """
    connection = session.connection()
    connection.execute(_ENSURE_ROW)
    if connection.execute(_LOCK_ROW).one_or_none() is None:
        raise errors.AlreadyRunning(_TAKEN)


def wait_for_chain(session: Session) -> None:
    """Take the chain's lock once others have let it go, as the first act of a transaction that ends soon.

    Whatever else the transaction waits for, it waits ten seconds for it, too.

    :raises errors.AlreadyRunning: they hold it for ten seconds.
    """
    # A snapshot from before the lock would not show the seals that were added meanwhile.
    connection = session.connection()
    connection.execute(READ_COMMITTED)
    connection.execute(_LIMIT_WAITING)
    try:
        connection.execute(_ENSURE_ROW)
        connection.execute(_WAIT_FOR_ROW)
    except sa.exc.DBAPIError as error:
        if sqlstate_of(error) != LOCK_NOT_AVAILABLE:
            raise
        raise errors.AlreadyRunning(_TAKEN) from None


_TAKEN = "another process is adding to the seals of the audit log"

_ENSURE_ROW = sa.text("INSERT INTO platform.audit_chain DEFAULT VALUES ON CONFLICT DO NOTHING")

_LOCK_ROW = sa.text("SELECT singleton FROM platform.audit_chain FOR UPDATE SKIP LOCKED")

_LIMIT_WAITING = sa.text("SET LOCAL lock_timeout = '10s'")

_WAIT_FOR_ROW = sa.text("SELECT singleton FROM platform.audit_chain FOR UPDATE")


def last_seal(session: Session, *criteria: sa.ColumnElement[bool]) -> AuditSeal | None:
    """Return the newest seal that meets the criteria, as it is stored now."""
    query = sa.select(AuditSeal).where(*criteria).order_by(AuditSeal.number.desc()).limit(1)
    return session.scalars(query.execution_options(populate_existing=True)).one_or_none()


def add_seal(session: Session, last: AuditSeal | None, **values: Any) -> AuditSeal:
    """Add the seal that follows ``last``, hashed and, where a key is configured, signed."""
    seal = AuditSeal(
        number=last.number + 1 if last else 1,
        previous_hash=last.hash if last else NO_HASH,
        **{"first_kept_seal": last.first_kept_seal if last else 1, **values},
    )
    seal.hash = seal_hash(seal)
    key = signing_key()
    seal.signature = key.sign(seal.hash) if key else None
    session.add(seal)
    session.flush()
    return seal


def seal_hash(seal: AuditSeal) -> bytes:
    """Return the SHA-256 of what a seal says: its facts as text, one a line."""
    facts = ("platform-db audit seal", *_facts(seal).values())
    return hashlib.sha256("".join(f"{fact}\n" for fact in facts).encode("ascii")).digest()


def _facts(seal: AuditSeal) -> dict[str, Any]:
    """Return what the hash covers, in the order in which it does."""
    return {
        "number": seal.number,
        "previous_hash": seal.previous_hash.hex(),
        "last_row": seal.last_row,
        "row_count": seal.row_count,
        "last_created": _time(seal.last_created),
        "content_hash": seal.content_hash.hex(),
        "first_kept_seal": seal.first_kept_seal,
        "sealed_at": _time(seal.sealed_at),
    }


def read_seals(session: Session, *, after: int = 0) -> Iterator[AuditSeal]:
    """Yield the seals after the one with this number, in their order, a page at a time."""
    require_amount(after, "number of a seal")
    while True:
        with own_names(session):
            page = session.scalars(
                sa.select(AuditSeal)
                .where(AuditSeal.number > after)
                .order_by(AuditSeal.number)
                .limit(PAGE)
                .execution_options(populate_existing=True)
            ).all()
        yield from page
        if len(page) < PAGE:
            return
        after = page[-1].number
        for seal in page:
            session.expunge(seal)


@takes_session
def export_seals(session: Session, *, after: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the seals after the one with this number as plain values, to be kept out of the database's reach.

    :param after: the last seal that was exported before; 0 exports all.
    """
    for seal in read_seals(session, after=after):
        signature = seal.signature.hex() if seal.signature else None
        yield {**_facts(seal), "hash": seal.hash.hex(), "signature": signature}


def _time(time: datetime | None) -> str | None:
    return None if time is None else time.astimezone(timezone.utc).isoformat(timespec="microseconds")
