"""Appending to a log, up to a limit."""

from __future__ import annotations

import uuid
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.database.session import takes_session
from platform_db.lifecycle.target import Key
from platform_db.logs.sizes import Sizes
from platform_db.logs.target import CHUNKS, COLUMNS, Logged, LogTarget, for_each
from platform_db.models.log_chunk import encode_log
from platform_db.settings import get_settings

CUT = b"\n[platform-db: the log was cut here"
_MARKER = CUT + b": its run has reached the limit of %d bytes]\n"


# What is longer is stored as several pieces, so that memory and statements stay small.
PIECE = 1024 * 1024


@takes_session
def append_log(
    session: Session,
    row: Logged | Key | uuid.UUID | str,
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
    if session.new or session.dirty:
        session.flush()
    target = LogTarget.of(session, row, model)
    sizes = Sizes.of(session)
    limit = get_settings().log_limit if limit is None else limit
    if not text:
        return _append_nothing(session, target)
    kept = 0
    for start in range(0, len(text), PIECE):
        data = encode_log(text[start : start + PIECE])
        parameters = {
            **target.parameters,
            "data": data,
            "length": len(data),
            "limit": limit,
            "pending": sizes.pending_of(target.id_),
        }
        stored = session.connection().execute(_APPEND[target.key], parameters).one_or_none()
        if stored is None:
            return kept + _cut(session, target, parameters, sizes)
        sizes.add(target.id_, stored, len(data))
        kept += len(data)
    return kept


def _append_nothing(session: Session, target: LogTarget) -> int:
    """Only look whether there is such a log: an empty chunk would hide that the log before it was cut."""
    if session.connection().execute(_LOG[target.key], target.parameters).one_or_none() is None:
        raise target.not_found()
    return 0


def _cut(session: Session, target: LogTarget, parameters: dict[str, Any], sizes: Sizes) -> int:
    """Keep what fits, and say that the rest was cut, unless that is said already; wait for no transaction."""
    connection = session.connection()
    log = connection.execute(_LOG[target.key], parameters).one_or_none()
    if log is None:
        raise target.not_found()
    last = connection.execute(_LAST[target.key], parameters).scalar()
    if last is not None and CUT in bytes(last):
        return 0
    if not connection.execute(_CLAIM_CUT, {"id": str(target.id_)}).scalar():
        return 0  # Another transaction is cutting the log, and adds the marker.
    last = connection.execute(_LAST[target.key], parameters).scalar()
    if last is not None and CUT in bytes(last):
        return 0
    room = max(0, parameters["limit"] - log.bytes_ - sizes.pending_of(target.id_))
    kept = parameters["data"][:room]
    marked = kept + _MARKER % parameters["limit"]
    stored = connection.execute(
        _APPEND[target.key], {**parameters, "data": marked, "length": 0, "pending": 0, "limit": 1 << 62}
    ).one()
    sizes.add(target.id_, stored, len(kept))
    return len(kept)


# Until the end of the transaction, and without ever waiting.
_CLAIM_CUT = sa.text("SELECT pg_try_advisory_xact_lock(hashtextextended('cut log ' || :id, 0))")

_APPEND = for_each(
    lambda table, named: (
        f"""
    INSERT INTO platform.log_chunk (owner_id, workflow_id, job_id, data)
    SELECT row.owner_id, {", ".join(COLUMNS[table])}, :data
    FROM platform.{table} AS row
    LEFT JOIN platform.log_size ON log_size.owner_id = row.owner_id
                               AND log_size.workflow_id = {COLUMNS[table][0]}
    WHERE {named} AND coalesce(log_size.bytes_, 0) + :pending + :length <= :limit
    RETURNING owner_id, workflow_id, number
    """
    )
)
_LOG = for_each(
    lambda table, named: (
        f"""
    SELECT row.owner_id, {COLUMNS[table][0]} AS workflow_id, coalesce(log_size.bytes_, 0) AS bytes_
    FROM platform.{table} AS row
    LEFT JOIN platform.log_size ON log_size.owner_id = row.owner_id
                               AND log_size.workflow_id = {COLUMNS[table][0]}
    WHERE {named}
    """
    )
)
_LAST = for_each(
    lambda table, named: (
        f"SELECT chunk.data FROM {CHUNKS[table]} WHERE {named} ORDER BY chunk.number DESC LIMIT 1"
    )
)
