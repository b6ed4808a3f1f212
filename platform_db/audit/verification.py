"""Verifying: whether the audit log is still what was sealed, and if not, which row was changed first."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.audit.chain import NO_HASH, read_seals, seal_hash
from platform_db.audit.content import CONTENT_HASH, DIGEST, DIGEST_BYTES, ROWS, TABLE
from platform_db.audit.signing import is_signed, verify_keys
from platform_db.models import AuditSeal, AuditSealDigests
from platform_db.types import SCHEMA


@dataclass
class VerificationResult:
    """What was verified and holds.

    :param seals: how many seals, those included whose rows retention has removed.
    :param rows: how many rows they cover.
    :param removed_seals: of how many seals retention has removed the rows.
    :param unsigned_seals: how many seals have no signature.
    :param unsealed_rows: how many rows wait to be sealed; nothing can be said about them.
    """

    seals: int = 0
    rows: int = 0
    removed_seals: int = 0
    unsigned_seals: int = 0
    unsealed_rows: int = 0


def verify_audit_log(
    session: Session,
    *,
    since: datetime | None = None,
    against: Iterable[str] | None = None,
    unsigned_until: int = 0,
) -> VerificationResult:
    """Check every seal and the rows that it covers, in flat memory.

    :param since: begin with the first seal that was made at this time or later.
    :param against: lines that :func:`export_seals` gave earlier, as JSON; they tell a chain that was
        rewritten or cut from the one that was exported.
    :param unsigned_until: the last seal that may be unsigned, from before there was a signing key. Where no
        key is configured, signatures are not looked at.
    :raises errors.AuditLogChanged: names the first seal that does not hold, and the row.
    """
    result = VerificationResult()
    before = session.scalars(_BEFORE, {"since": since}).one_or_none() if since else None
    previous_hash, last_row, number = NO_HASH, 0, 0
    if before is not None:
        previous_hash, last_row, number = before.hash, before.last_row, before.number
    exported = _Exported(against or (), after=number)
    keys = verify_keys()
    for seal in read_seals(session, after=number):
        if seal.number != number + 1:
            raise errors.AuditLogChanged(number + 1, "missing")
        if seal.previous_hash != previous_hash or seal.last_row < last_row or seal_hash(seal) != seal.hash:
            raise errors.AuditLogChanged(seal.number, "altered")
        if keys and seal.number > unsigned_until:
            if seal.signature is None:
                raise errors.AuditLogChanged(seal.number, "unsigned")
            if not is_signed(seal.hash, seal.signature, keys):
                raise errors.AuditLogChanged(seal.number, "forged")
        exported.check(seal)
        _check_rows(session, seal, last_row, result)
        result.seals += 1
        result.unsigned_seals += seal.signature is None
        previous_hash, last_row, number = seal.hash, seal.last_row, seal.number
    exported.finish(number)
    result.unsealed_rows = session.connection().execute(_COUNT_UNSEALED, {"after": last_row}).scalar_one()
    return result


def _check_rows(session: Session, seal: AuditSeal, after: int, result: VerificationResult) -> None:
    """Check the rows of one seal, in one statement: retention may be removing others meanwhile."""
    span = {"after": after if seal.number > 1 else None, "last_row": seal.last_row}
    found = session.connection().execute(_READ_SEALED, span).one()
    if seal.number < (found.first_kept_seal or 1) and found.row_count == 0:
        result.removed_seals += 1
        return
    if found.row_count != seal.row_count or bytes(found.content_hash) != seal.content_hash:
        raise _find_change(session, seal, span)
    result.rows += seal.row_count


def _find_change(session: Session, seal: AuditSeal, span: dict[str, Any]) -> errors.AuditLogChanged:
    """Compare the rows with the digests that were stored with their seal, and name the first that differs."""
    stored_digests = session.get(AuditSealDigests, seal.number)
    sealed = dict(_split_digests(stored_digests.digests if stored_digests else b""))
    stored = {
        row.number: (bytes(row.digest), str(row.id_))
        for row in session.connection().execute(_READ_DIGESTS, span)
    }
    if stored and not sealed:
        return errors.AuditLogChanged(seal.number, "inserted", min(stored), stored[min(stored)][1])
    if len(sealed) != seal.row_count:
        return errors.AuditLogChanged(seal.number, "changed")
    for number in sorted({*sealed, *stored}):
        if number not in stored:
            return errors.AuditLogChanged(seal.number, "deleted", number)
        digest, row_id = stored[number]
        if number not in sealed:
            return errors.AuditLogChanged(seal.number, "inserted", number, row_id)
        if digest != sealed[number]:
            moved = session.connection().execute(_IS_SEALED, {"digest": digest}).scalar_one()
            change = "reordered" if moved else "edited"
            return errors.AuditLogChanged(seal.number, change, number, row_id)
    return errors.AuditLogChanged(seal.number, "changed")


def _split_digests(digests: bytes) -> Iterator[tuple[int, bytes]]:
    for start in range(0, len(digests), 8 + DIGEST_BYTES):
        entry = digests[start : start + 8 + DIGEST_BYTES]
        yield int.from_bytes(entry[:8], "big", signed=True), entry[8:]


class _Exported:
    """Seals that were exported earlier, read along with the stored ones."""

    def __init__(self, lines: Iterable[str], after: int) -> None:
        self._seals = (json.loads(line) for line in lines if line.strip())
        self._next = next((seal for seal in self._seals if seal["number"] > after), None)

    def check(self, seal: AuditSeal) -> None:
        """Compare a stored seal with the exported one, where there is one."""
        while self._next is not None and self._next["number"] <= seal.number:
            if self._next["number"] == seal.number and self._next["hash"] != seal.hash.hex():
                raise errors.AuditLogChanged(seal.number, "altered")
            self._next = next(self._seals, None)

    def finish(self, last: int) -> None:
        """Refuse a chain that ends before the exported one."""
        if self._next is not None:
            raise errors.AuditLogChanged(last + 1, "missing")


_BEFORE = (
    sa.select(AuditSeal)
    .where(AuditSeal.sealed_at < sa.bindparam("since", type_=AuditSeal.sealed_at.type))
    .order_by(AuditSeal.number.desc())
    .limit(1)
)

# The first seal begins with the first row, whatever its number.
_SPAN = "(CAST(:after AS bigint) IS NULL OR number > :after) AND number <= :last_row"

_READ_SEALED = sa.text(
    f"""
    SELECT count(*) AS row_count, {CONTENT_HASH} AS content_hash,
           (SELECT first_kept_seal FROM {SCHEMA}.audit_seal ORDER BY number DESC LIMIT 1) AS first_kept_seal
    FROM {ROWS} WHERE {_SPAN}
    """
)

_READ_DIGESTS = sa.text(f"SELECT number, id_, {DIGEST} AS digest FROM {ROWS} WHERE {_SPAN}")

_IS_SEALED = sa.text(
    f"SELECT EXISTS (SELECT FROM {SCHEMA}.audit_seal_digests"
    " WHERE position(CAST(:digest AS bytea) IN digests) > 0)"
)

_COUNT_UNSEALED = sa.text(f"SELECT count(*) FROM {TABLE} WHERE number > :after")
