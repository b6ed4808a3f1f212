"""Sealing: chaining the settled rows of the audit log.

A row is settled when no transaction can still commit a row with a smaller number. Writers draw numbers and
commit in any order, so the sealer sets a fence: first it reads the greatest number, then it takes a
transaction id of its own. A writer that drew a smaller number had a smaller id already. Once all transactions
with smaller ids have ended (the snapshot's xmin has reached the fence), the sealer sees every row that they
wrote.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.audit.chain import add_seal, last_seal, try_lock_chain
from platform_db.audit.content import CONTENT_HASH, DIGESTS, ROWS, TABLE
from platform_db.bounds import require_seconds
from platform_db.database.session import SessionFactory
from platform_db.models import AuditSeal, AuditSealDigests

# Rows per seal: a seal is hashed in the server's memory, about 2 MB.
SEAL_ROWS = 5000

POLL_SECONDS = 0.05


@dataclass
class SealingResult:
    """What a run of the sealer did.

    :param seals: how many seals it made.
    :param rows: how many rows they cover.
    :param waiting: whether rows are left because a transaction that may have written some has not ended.
    """

    seals: int = 0
    rows: int = 0
    waiting: bool = False


def seal_audit_log(factory: SessionFactory, *, wait: float = 10.0) -> SealingResult:
    """Seal the rows that were written before this call, in transactions of its own.

    Killed at any time it leaves a chain that verifies: each seal is one transaction. Other long
    transactions delay it; the next run seals what is left.

    :param factory: makes sessions.
    :param wait: seconds to wait for transactions that may have written such rows.
    :raises errors.AlreadyRunning: another sealer is working.
    """
    result = SealingResult()
    give_up_at = time.monotonic() + require_seconds(wait, "time to wait")
    fences = 1
    while True:
        with factory() as session, session.begin():
            if not try_lock_chain(session):
                raise errors.AlreadyRunning("another process is sealing the audit log")
            last = last_seal(session)
            fence = _read_fence(session)
            if fence is None or fence.stale or fence.last_row <= (last.last_row if last else 0):
                if not fences or not _put_up_fence(session, last):
                    return result
                fences -= 1
                continue
            if fence.settled:
                seal = _seal(session, last, fence.last_row)
                result.seals += 1
                result.rows += seal.row_count
                continue
        if time.monotonic() >= give_up_at:
            result.waiting = True
            return result
        time.sleep(POLL_SECONDS)


def _read_fence(session: Session) -> Any:
    return session.connection().execute(_READ_FENCE).one_or_none()


def _put_up_fence(session: Session, last: AuditSeal | None) -> bool:
    """Set the fence behind the greatest number; tell whether there is anything before it."""
    greatest = session.connection().execute(_GREATEST).scalar_one()
    if greatest is None or (last is not None and greatest <= last.last_row):
        return False
    # A statement of its own: the transaction's id must be newer than every number up to the greatest.
    session.connection().execute(_SET_FENCE, {"last_row": greatest})
    return True


def _seal(session: Session, last: AuditSeal | None, fence: int) -> AuditSeal:
    """Add the seal of the next rows up to the fence."""
    after = last.last_row if last else 0
    found = (
        session.connection().execute(_READ_ROWS, {"after": after, "fence": fence, "limit": SEAL_ROWS}).one()
    )
    seal = add_seal(
        session,
        last,
        last_row=found.last_row if found.row_count == SEAL_ROWS else fence,
        row_count=found.row_count,
        last_created=found.last_created,
        content_hash=bytes(found.content_hash),
        sealed_at=found.sealed_at,
    )
    session.add(AuditSealDigests(seal_number=seal.number, digests=bytes(found.digests)))
    session.flush()
    return seal


# A fence from another server, restored from a dump, may lie in this one's future: then it is set again.
_READ_FENCE = sa.text(
    """
    SELECT last_row,
           transaction_id >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS stale,
           transaction_id <= pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS settled
    FROM platform.audit_fence
    """
)

_GREATEST = sa.text(f"SELECT max(number) FROM {TABLE}")

_SET_FENCE = sa.text(
    """
    INSERT INTO platform.audit_fence (last_row, transaction_id)
    VALUES (:last_row, pg_current_xact_id()::text::bigint)
    ON CONFLICT (singleton) DO UPDATE
        SET last_row = excluded.last_row, transaction_id = excluded.transaction_id
    """
)

_READ_ROWS = sa.text(
    f"""
    SELECT count(*) AS row_count, max(number) AS last_row, max(created) AS last_created,
           {CONTENT_HASH} AS content_hash, {DIGESTS} AS digests, clock_timestamp() AS sealed_at
    FROM (
        SELECT * FROM {ROWS} WHERE number > :after AND number <= :fence ORDER BY number LIMIT :limit
    ) AS log
    """
)
