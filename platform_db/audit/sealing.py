"""Sealing: giving rows their places in the audit log, and chaining them.

Writers append to an inbox. One sealer at a time moves what is committed there to the end of the log and makes
the seal that covers it, in one transaction. So numbers come in the order in which rows are collected; a row
that is committed later gets a later one, whenever its transaction began.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.audit.chain import add_seal, last_seal, wait_for_chain
from platform_db.audit.content import FIRST, LAST, TABLE, read_digests, split_digests
from platform_db.audit.names import use_own_names
from platform_db.database.session import SessionFactory
from platform_db.models import AuditSeal, AuditSealDigests

# Rows per seal. They stream through the sealer, however large they are: it holds 40 bytes of each.
SEAL_ROWS = 5000


@dataclass
class SealingResult:
    """What a run of the sealer did.

    :param seals: how many seals it made.
    :param rows: how many rows they cover.
    """

    seals: int = 0
    rows: int = 0


def seal_audit_log(factory: SessionFactory) -> SealingResult:
    """Seal the rows that are committed, in transactions of its own.

    Killed at any time it leaves a chain that verifies: each seal is one transaction. It waits its turn
    between those of another sealer, or of retention.

    :param factory: makes sessions.
    :raises errors.AlreadyRunning: they are at one transaction for ten seconds.
    """
    result = SealingResult()
    while True:
        with factory() as session, session.begin():
            wait_for_chain(session)
            use_own_names(session)
            seal = _seal(session, last_seal(session))
            if seal is None:
                return result
            result.seals += 1
            result.rows += seal.row_count
            if seal.row_count < SEAL_ROWS:
                return result


def _seal(session: Session, last: AuditSeal | None) -> AuditSeal | None:
    """Add a seal of the rows after the last one; None where there are none."""
    first = last.last_row + 1 if last else FIRST
    connection = session.connection()
    connection.execute(_COLLECT, {"first": first, "rows": SEAL_ROWS})
    digests = read_digests(session, first, LAST, SEAL_ROWS)
    numbers = [number for number, _ in split_digests(digests)]
    if not numbers:
        return None
    times = connection.execute(_READ_TIMES, {"first": first, "last": numbers[-1]}).one()
    seal = add_seal(
        session,
        last,
        last_row=numbers[-1],
        row_count=len(numbers),
        last_created=times.last_created,
        content_hash=hashlib.sha256(digests).digest(),
        sealed_at=times.sealed_at,
    )
    session.add(AuditSealDigests(seal_number=seal.number, digests=digests))
    session.flush()
    return seal


# Rows with a number and no seal come first: those from before there was an inbox, and what an import or a
# service has collected without a seal.
_COLLECT = sa.text(f"""
    SELECT platform.collect_audit_rows((:rows - count(*))::integer)
    FROM (SELECT number FROM {TABLE} WHERE number >= :first LIMIT :rows) AS numbered
    """)

# Whatever times an import or a superuser stored, retention finds what is old: no row is newer than its seal.
_READ_TIMES = sa.text(f"""
    SELECT greatest(least(max(created), clock_timestamp()), timestamptz '1901-01-01Z') AS last_created,
           clock_timestamp() AS sealed_at
    FROM {TABLE} WHERE number >= :first AND number <= :last
    """)
