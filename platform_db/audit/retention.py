"""Pruning the audit log: the rows of the oldest seals. Their hashes stay, so the chain still verifies."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.audit.chain import add_seal, last_seal, lock_chain, read_seals, wait_for_chain
from platform_db.audit.content import FIRST
from platform_db.audit.names import use_own_names
from platform_db.audit.recording import record_action
from platform_db.bounds import require_limit, require_seconds
from platform_db.database.session import SessionFactory, takes_session
from platform_db.models import NOBODY, AuditLog, AuditLogAction, AuditSeal, AuditSealDigests, AuditSealed

# Seals whose rows one call removes.
SEALS = 100


def prune_audit_log(factory: SessionFactory, older_than: timedelta) -> int:
    """Remove the rows of the oldest seals, as far as all their rows are older, and return of how many seals.

    Each call of :func:`prune_seals` is a transaction of its own, and waits its turn between a sealer's.

    :param factory: makes the sessions, as the tables' owner.
    :raises errors.AlreadyRunning: a sealer, or another call, is at one transaction for ten seconds.
    """
    removed = 0
    while True:
        with factory() as session, session.begin():
            wait_for_chain(session)
            use_own_names(session)
            seals = prune_seals(session, older_than)
        if not seals:
            return removed
        removed += seals


@takes_session
def prune_seals(session: Session, older_than: timedelta, *, limit: int = SEALS) -> int:
    """Remove the rows of the oldest seals, as far as all their rows are older, by the database's clock.

    A seal of its own records what was removed, without which the database refuses the deletion, and so does
    an audit row. Only the tables' owner may do it. Call it again, in another transaction, until it returns
    0.

    :param limit: of how many seals at most; those that cover no rows do not count.
    :returns: of how many seals.
    :raises errors.AlreadyRunning: a sealer, or another call, is working.
    """
    require_limit(limit)
    require_seconds(older_than, "age")
    lock_chain(session)
    last = last_seal(session)
    if last is None:
        return 0
    now, before = session.connection().execute(_READ_CLOCK, {"age": older_than}).one()
    old = _old_seals(session, last.first_kept_seal, before, limit)
    pruned = sum(seal.row_count > 0 for seal in old)
    if not pruned:
        return 0
    first, end = old[0].number, old[-1].number
    details = {
        "table": AuditLog.__tablename__,
        "first_seal": first,
        "last_seal": end,
        "rows": sum(seal.row_count for seal in old),
        "before": before.isoformat(),
    }
    record_action(session, NOBODY, AuditLogAction.apply_retention, details)
    add_seal(
        session,
        last,
        last_row=last.last_row,
        row_count=0,
        last_created=None,
        content_hash=hashlib.sha256().digest(),
        first_kept_seal=end + 1,
        sealed_at=now,
    )
    previous = session.get(AuditSeal, first - 1)
    # From where the rows begin: what went before them leaves index entries behind, which every call would
    # walk over again for as long as a transaction is open that may see them.
    for statement in (
        sa.delete(AuditSealed).where(
            AuditSealed.number.between(previous.last_row + 1 if previous else FIRST, old[-1].last_row)
        ),
        sa.delete(AuditSealDigests).where(AuditSealDigests.seal_number.between(first, end)),
    ):
        session.execute(statement, execution_options={"synchronize_session": False})
    return pruned


_READ_CLOCK = sa.text("SELECT now, now - CAST(:age AS interval) FROM clock_timestamp() AS now")


def _old_seals(session: Session, first: int, before: datetime, limit: int) -> list[AuditSeal]:
    """Return the seals from ``first`` on that have only old rows, up to the first that has another.

    Each call adds a seal without rows. If they counted, so many of them in a row would be all that the next
    call sees, and nothing would ever be removed again.
    """
    old: list[AuditSeal] = []
    for seal in read_seals(session, after=first - 1):
        if (seal.last_created or seal.sealed_at) >= before or limit == 0:
            break
        old.append(seal)
        limit -= seal.row_count > 0
    return old
