"""Appending to a log, up to a limit."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.database.session import takes_session
from platform_db.logs.target import Logged, LoggedOrId, LogTarget
from platform_db.models.log_chunk import encode_log
from platform_db.models.log_sizes import Sizes
from platform_db.settings import get_settings

CUT = b"\n[platform-db: the log was cut here"
_MARKER = CUT + b": its run has reached the limit of %d bytes]\n"


# What is longer is stored as several pieces, so that memory and statements stay small.
PIECE = 1024 * 1024


@takes_session
def append_log(
    session: Session,
    row: LoggedOrId,
    text: str | bytes,
    *,
    model: type[Logged] | None = None,
    limit: int | None = None,
) -> int:
    """Append to the log of a run or of a job, and return how many bytes were kept.

    Where the limit is reached, what fits is kept, a marker says that it was cut, and what comes later is
    dropped. Of an empty text nothing is stored.
    Two transactions that append at the same instant may pass the limit by what they append.

    :param model: what an id is the id of.
    :param limit: bytes that a run and its jobs may log; by default ``PLATFORM_DB_LOG_LIMIT``, 0 is none.
    :raises errors.NotFound: there is no such row.
    """
    session.flush()
    return append_to(session, LogTarget.of(session, row, model), text, limit)


def append_to(session: Session, target: LogTarget, text: str | bytes, limit: int | None = None) -> int:
    """Append as :func:`append_log` does, without flushing."""
    if not text:
        target.has_ended(session)  # Only to look for the row: an empty chunk would hide that the log was cut.
        return 0
    sizes = Sizes.of(session)
    limit = get_settings().log_limit if limit is None else limit
    kept = 0
    for start in range(0, len(text), PIECE):
        data = encode_log(text[start : start + PIECE])
        length, pending = len(data), sizes.pending_of(target.id_)
        stored = target.execute(
            session, _APPEND, data=data, length=length, limit=limit, pending=pending
        ).one_or_none()
        if stored is None:
            return kept + _cut(session, target, data, limit, sizes)
        sizes.add(target.id_, stored, length)
        kept += length
    return kept


def _cut(session: Session, target: LogTarget, data: bytes, limit: int, sizes: Sizes) -> int:
    """Keep what fits, and say that the rest was cut, unless that is said already; wait for no transaction."""
    used = target.execute(session, _USED).scalar()
    if used is None:
        raise target.not_found()
    if _is_cut(session, target):
        return 0
    # Where it cannot be claimed, another transaction is cutting the log, and adds the marker.
    claimed = session.connection().scalar(_CLAIM_CUT, target.parameters)
    if not claimed or _is_cut(session, target):
        return 0
    kept = data[: max(0, limit - used - sizes.pending_of(target.id_))]
    marked = kept + _MARKER % limit
    stored = target.execute(session, _APPEND, data=marked, length=0, limit=1 << 62, pending=0).one()
    sizes.add(target.id_, stored, len(kept))
    return len(kept)


def _is_cut(session: Session, target: LogTarget) -> bool:
    last = target.execute(session, _LAST).scalar()
    return last is not None and CUT in bytes(last)


# Until the end of the transaction, and without ever waiting.
_CLAIM_CUT = sa.text("SELECT pg_try_advisory_xact_lock(hashtextextended('cut log ' || :id, 0))")

_SIZED = """
    platform.{table} AS row LEFT JOIN platform.log_size
    ON log_size.owner_id = row.owner_id AND log_size.workflow_id = {run}
"""
_APPEND = f"""
    INSERT INTO platform.log_chunk (owner_id, workflow_id, job_id, data)
    SELECT row.owner_id, {{run}}, {{job}}, :data FROM {_SIZED}
    WHERE {{row}} AND coalesce(log_size.bytes_, 0) + :pending + :length <= :limit
    RETURNING owner_id, workflow_id, number
"""
_USED = f"SELECT coalesce(log_size.bytes_, 0) FROM {_SIZED} WHERE {{row}}"
_LAST = "SELECT chunk.data FROM {chunks} WHERE {row} ORDER BY chunk.number DESC LIMIT 1"
