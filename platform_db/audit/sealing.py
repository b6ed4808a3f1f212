"""Sealing: chaining the settled rows of the audit log.

A row is settled when no transaction can still commit a row with a smaller number. Writers draw numbers and
commit in any order, so the sealer sets a fence: first it reads the greatest number, then, in the next
transaction, it takes a transaction id of its own. A writer that drew a smaller number had a smaller id
already. Once all transactions with smaller ids have ended (the snapshot's xmin has reached the fence), the
sealer sees every row that they wrote.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.audit.chain import FENCE_UNSET, add_seal, last_seal, try_lock_chain
from platform_db.audit.content import FIRST, TABLE, read_digests, split_digests
from platform_db.audit.names import use_own_names
from platform_db.bounds import require_seconds
from platform_db.database.session import SessionFactory
from platform_db.models import AuditSeal, AuditSealDigests

# Rows per seal. They stream through the sealer, however large they are: it holds 40 bytes of each.
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
            use_own_names(session)
            fence = try_lock_chain(session)
            if fence is None:
                raise errors.AlreadyRunning("another process is sealing the audit log")
            last = last_seal(session)
            sealed = last.last_row if last else 0
            if fence.last_row <= sealed:
                if not fences or not _put_up_fence(session, sealed):
                    return result
                fences -= 1
                continue
            if fence.stale:  # new, or another server's, restored from a dump
                session.connection().execute(_STAMP_FENCE)
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


def _put_up_fence(session: Session, sealed: int) -> bool:
    """Set the fence behind the greatest number; tell whether there is anything before it.

    The next transaction stamps it: its id is newer than every number up to the greatest. This one took its
    own with the lock, before it read.
    """
    greatest = session.connection().execute(_GREATEST).scalar_one()
    if greatest is None or greatest <= sealed:
        return False
    session.connection().execute(_SET_FENCE, {"last_row": greatest, "unset": FENCE_UNSET})
    return True


def _seal(session: Session, last: AuditSeal | None, fence: int) -> AuditSeal:
    first = last.last_row + 1 if last else FIRST
    digests = read_digests(session, first, fence, SEAL_ROWS)
    numbers = [number for number, _ in split_digests(digests)]
    last_row = numbers[-1] if len(numbers) == SEAL_ROWS else fence
    times = session.connection().execute(_READ_TIMES, {"first": first, "last": last_row}).one()
    seal = add_seal(
        session,
        last,
        last_row=last_row,
        row_count=len(numbers),
        last_created=times.last_created if numbers else None,
        content_hash=hashlib.sha256(digests).digest(),
        sealed_at=times.sealed_at,
    )
    session.add(AuditSealDigests(seal_number=seal.number, digests=digests))
    session.flush()
    return seal


_GREATEST = sa.text(f"SELECT max(number) FROM {TABLE}")

_SET_FENCE = sa.text("UPDATE platform.audit_fence SET last_row = :last_row, transaction_id = :unset")

_STAMP_FENCE = sa.text("UPDATE platform.audit_fence SET transaction_id = pg_current_xact_id()::text::bigint")

# Whatever times an import or a superuser stored, retention finds what is old: no row is newer than its seal.
_READ_TIMES = sa.text(f"""
    SELECT greatest(least(max(created), clock_timestamp()), timestamptz '1901-01-01Z') AS last_created,
           clock_timestamp() AS sealed_at
    FROM {TABLE} WHERE number >= :first AND number <= :last
    """)
