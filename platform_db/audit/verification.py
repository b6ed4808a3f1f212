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
from platform_db.audit.exported import ExportedSeals
from platform_db.audit.signing import is_signed, verify_keys
from platform_db.database.session import takes_session
from platform_db.models import NOBODY, AuditLog, AuditLogAction, AuditSeal, AuditSealDigests


@dataclass
class VerificationResult:
    """What was verified and holds.

    :param seals: how many seals, those included whose rows retention has removed.
    :param rows: how many rows they cover that are still kept.
    :param removed_seals: of how many seals retention has removed the rows.
    :param removed_rows: how many rows these covered.
    :param compared_seals: how many seals were found to be as they had been exported.
    :param removed_since_export: of how many seals retention has removed the rows since the last of these was
        made; None where nothing was compared.
    :param unsigned_seals: how many seals have no signature.
    :param unsealed_rows: how many rows wait to be sealed; nothing can be said about them.
    """

    seals: int = 0
    rows: int = 0
    removed_seals: int = 0
    removed_rows: int = 0
    compared_seals: int = 0
    removed_since_export: int | None = None
    unsigned_seals: int = 0
    unsealed_rows: int = 0


@takes_session
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
    :raises errors.InvalidExport: ``against`` is something else, or has none of the seals that were read.
    """
    result = VerificationResult()
    chain = _Chain(unsigned_until)
    exported = None if against is None else ExportedSeals(against)
    before = session.scalars(_BEFORE, {"since": since}).one_or_none() if since else None
    if before is not None:
        chain.begin_with(before)
        if exported is not None:
            exported.check(before)
    for seal in read_seals(session, after=chain.number):
        after, kept_from = chain.last_row, chain.kept_from
        chain.check(seal)
        if exported is not None:
            exported.check(seal)
        if seal.first_kept_seal > kept_from:
            _check_removal(session, seal, kept_from)
        _check_rows(session, seal, after, result)
        result.seals += 1
        result.unsigned_seals += seal.signature is None
    if exported is not None:
        exported.finish(chain.number)
        result.compared_seals = exported.compared
        result.removed_since_export = chain.kept_from - exported.kept_from
    result.unsealed_rows = (
        session.connection().execute(_COUNT_UNSEALED, {"after": chain.last_row}).scalar_one()
    )
    return result


class _Chain:
    """The chain as far as it was read and holds."""

    def __init__(self, unsigned_until: int) -> None:
        self.keys = verify_keys()
        self.unsigned_until = unsigned_until
        self.number, self.last_row, self.kept_from, self.hash = 0, 0, 1, NO_HASH

    def begin_with(self, seal: AuditSeal) -> None:
        """Take a seal as it is, without those before it."""
        self.number, self.last_row, self.kept_from = seal.number - 1, 0, 1
        self.hash = seal.previous_hash
        self.check(seal)

    def check(self, seal: AuditSeal) -> None:
        """Check that the seal follows the last one, says what was hashed, and is signed where it must be."""
        if seal.number != self.number + 1:
            raise errors.AuditLogChanged(self.number + 1, "missing")
        follows = (
            seal.previous_hash == self.hash
            and seal.last_row >= self.last_row
            and seal.first_kept_seal >= self.kept_from
        )
        if not follows or seal_hash(seal) != seal.hash:
            raise errors.AuditLogChanged(seal.number, "altered")
        if self.keys and seal.number > self.unsigned_until:
            if seal.signature is None:
                raise errors.AuditLogChanged(seal.number, "unsigned")
            if not is_signed(seal.hash, seal.signature, self.keys):
                raise errors.AuditLogChanged(seal.number, "forged")
        self.number, self.last_row, self.kept_from = seal.number, seal.last_row, seal.first_kept_seal
        self.hash = seal.hash


def _check_removal(session: Session, seal: AuditSeal, kept_from: int) -> None:
    """Check that an audit row tells of the rows which this seal says were removed.

    That row comes later in the log than the seal, and it is looked for as long as no row so late was removed.
    """
    details = {
        "table": AuditLog.__tablename__,
        "first_seal": kept_from,
        "last_seal": seal.first_kept_seal - 1,
    }
    parameters = {
        "nobody": str(NOBODY),
        "action": AuditLogAction.apply_retention.value,
        "details": json.dumps(details),
        "after": seal.last_row,
        "next": seal.number + 1,
    }
    if not session.connection().execute(_IS_REMOVAL_RECORDED, parameters).scalar_one():
        raise errors.AuditLogChanged(seal.number, "unrecorded")


def _check_rows(session: Session, seal: AuditSeal, after: int, result: VerificationResult) -> None:
    """Check the rows of one seal, in one statement: retention may be removing others meanwhile."""
    span = {"after": after if seal.number > 1 else None, "last_row": seal.last_row}
    found = session.connection().execute(_READ_SEALED, span).one()
    if seal.number < (found.first_kept_seal or 1) and found.row_count == 0:
        result.removed_seals += seal.row_count > 0
        result.removed_rows += seal.row_count
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
           (SELECT first_kept_seal FROM platform.audit_seal ORDER BY number DESC LIMIT 1) AS first_kept_seal
    FROM {ROWS} WHERE {_SPAN}
    """
)

# Where retention has gone on since, up to and beyond the next seal, the row may have been removed itself.
_IS_REMOVAL_RECORDED = sa.text(
    f"""
    SELECT EXISTS (
        SELECT FROM {TABLE}
        WHERE owner_id = CAST(:nobody AS uuid) AND action = :action AND number > :after
          AND details @> CAST(:details AS jsonb)
    ) OR :next < (SELECT first_kept_seal FROM platform.audit_seal ORDER BY number DESC LIMIT 1)
    """
)

_READ_DIGESTS = sa.text(f"SELECT number, id_, {DIGEST} AS digest FROM {ROWS} WHERE {_SPAN}")

_IS_SEALED = sa.text(
    "SELECT EXISTS (SELECT FROM platform.audit_seal_digests"
    " WHERE position(CAST(:digest AS bytea) IN digests) > 0)"
)

_COUNT_UNSEALED = sa.text(f"SELECT count(*) FROM {TABLE} WHERE number > :after")
