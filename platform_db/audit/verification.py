"""Verifying: whether the audit log is still what was sealed, and if not, which row was changed first."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import zip_longest
from math import inf

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.audit.chain import NO_HASH, last_seal, read_seals, seal_hash
from platform_db.audit.content import FIRST, TABLE, read_digests, split_digests
from platform_db.audit.exported import ExportedSeals
from platform_db.audit.names import own_names
from platform_db.audit.signing import is_signed, verify_keys
from platform_db.database.session import takes_session
from platform_db.models import NOBODY, AuditLog, AuditLogAction, AuditSeal


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
    exported, keys = ExportedSeals(against or ()), verify_keys()

    def check(seal: AuditSeal, last: AuditSeal) -> None:
        _check_seal(seal, last, keys if seal.number > unsigned_until else [])
        exported.check(seal)

    last = AuditSeal(number=0, last_row=FIRST, first_kept_seal=1, hash=NO_HASH)
    with own_names(session):
        before = last_seal(session, AuditSeal.sealed_at < since) if since else None
        if before is not None:  # It is taken as it is, without those before it.
            last.number, last.hash = before.number - 1, before.previous_hash
            check(before, last)
            last = before
        for seal in read_seals(session, after=last.number):
            check(seal, last)
            if seal.first_kept_seal > last.first_kept_seal:
                _check_removal(session, seal, last.first_kept_seal)
            _check_rows(session, seal, last.last_row + 1 if last.number else FIRST, result)
            result.seals += 1
            result.unsigned_seals += seal.signature is None
            last = seal
        if against is not None:
            exported.finish(last.number)
            result.compared_seals = exported.compared
            result.removed_since_export = last.first_kept_seal - exported.kept_from
        result.unsealed_rows = session.connection().scalar(_COUNT_UNSEALED, {"after": last.last_row})
    return result


def _check_seal(seal: AuditSeal, last: AuditSeal, keys: list[Ed25519PublicKey]) -> None:
    """Check that the seal follows the last one, says what was hashed, and is signed where there are keys."""
    if seal.number != last.number + 1:
        raise errors.AuditLogChanged(last.number + 1, "missing")
    follows = (
        seal.previous_hash == last.hash
        and seal.last_row >= last.last_row
        and seal.first_kept_seal >= last.first_kept_seal
    )
    if not follows or seal_hash(seal) != seal.hash:
        raise errors.AuditLogChanged(seal.number, "altered")
    if keys and seal.signature is None:
        raise errors.AuditLogChanged(seal.number, "unsigned")
    if keys and not is_signed(seal.hash, seal.signature or b"", keys):
        raise errors.AuditLogChanged(seal.number, "forged")


def _check_removal(session: Session, seal: AuditSeal, kept_from: int) -> None:
    """Check that an audit row tells of the rows which this seal says were removed.

    That row comes later in the log than the seal, and it is looked for as long as no row so late was removed.
    """
    last = seal.first_kept_seal - 1
    details = {"table": AuditLog.__tablename__, "first_seal": kept_from, "last_seal": last}
    parameters = {
        "nobody": str(NOBODY),
        "action": AuditLogAction.apply_retention.value,
        "details": json.dumps(details),
        "after": seal.last_row,
        "next": seal.number + 1,
    }
    if not session.connection().execute(_IS_REMOVAL_RECORDED, parameters).scalar_one():
        raise errors.AuditLogChanged(seal.number, "unrecorded")


def _check_rows(session: Session, seal: AuditSeal, first: int, result: VerificationResult) -> None:
    # One more than the seal covers: this limits memory, however many rows were inserted.
    digests = read_digests(session, first, seal.last_row, seal.row_count + 1)
    if hashlib.sha256(digests).digest() == seal.content_hash:
        result.rows += seal.row_count
        return
    # Only now: retention may have removed them meanwhile.
    if seal.number >= session.connection().execute(_FIRST_KEPT_SEAL).scalar_one():
        raise _find_change(session, seal, digests)
    present = session.connection().execute(_FIRST_ROW, {"first": first, "last": seal.last_row}).one_or_none()
    if present is not None:
        raise errors.AuditLogChanged(seal.number, "present", present.number, str(present.id_))
    result.removed_seals += 1
    result.removed_rows += seal.row_count


def _find_change(session: Session, seal: AuditSeal, stored: bytes) -> errors.AuditLogChanged:
    """Compare the rows with the digests that were stored with their seal, and name the first that differs.

    Digests that are not the seal's own tell nothing: they may have been changed to blame another row.
    """
    sealed = bytes(session.connection().execute(_READ_DIGESTS, {"seal": seal.number}).scalar() or b"")
    if hashlib.sha256(sealed).digest() != seal.content_hash:
        return errors.AuditLogChanged(seal.number, "changed")
    pairs = zip_longest(split_digests(sealed), split_digests(stored), fillvalue=(inf, b""))
    (expected, _), (row, digest) = next((was, is_) for was, is_ in pairs if was != is_)
    if row > expected:
        return errors.AuditLogChanged(seal.number, "deleted", int(expected))
    found = session.connection().execute(_FIRST_ROW, {"first": row, "last": row}).one()
    moved = row == expected and _is_sealed(session, digest)
    change = "inserted" if row < expected else "reordered" if moved else "edited"
    return errors.AuditLogChanged(seal.number, change, found.number, str(found.id_))


def _is_sealed(session: Session, digest: bytes) -> bool:
    """Tell whether some seal has a row of this content, whatever its number."""
    return any(
        hashlib.sha256(digests).digest() == bytes(content_hash)
        and any(digest == other for _, other in split_digests(bytes(digests)))
        for content_hash, digests in session.connection().execute(_DIGESTS_WITH, {"digest": digest})
    )


_FIRST_KEPT_SEAL = sa.text("SELECT first_kept_seal FROM platform.audit_seal ORDER BY number DESC LIMIT 1")

_FIRST_ROW = sa.text(
    f"SELECT number, id_ FROM {TABLE} WHERE number >= :first AND number <= :last ORDER BY number LIMIT 1"
)

_READ_DIGESTS = sa.text("SELECT digests FROM platform.audit_seal_digests WHERE seal_number = :seal")

_DIGESTS_WITH = sa.text("""
    SELECT content_hash, digests
    FROM platform.audit_seal_digests JOIN platform.audit_seal ON number = seal_number
    WHERE position(CAST(:digest AS bytea) IN digests) > 0
    """)

# Where retention has gone on since, up to and beyond the next seal, the row may have been removed itself.
_IS_REMOVAL_RECORDED = sa.text("""
    SELECT EXISTS (
        SELECT FROM platform.audit_log
        WHERE owner_id = CAST(:nobody AS uuid) AND action = :action AND (number > :after OR number IS NULL)
          AND details @> CAST(:details AS jsonb)
    ) OR :next < (SELECT first_kept_seal FROM platform.audit_seal ORDER BY number DESC LIMIT 1)
    """)

_COUNT_UNSEALED = sa.text("SELECT count(*) FROM platform.audit_log WHERE number > :after OR number IS NULL")
