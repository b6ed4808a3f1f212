"""Reading a log: its end, a range of it, or what comes."""

from __future__ import annotations

import codecs
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors, positions
from platform_db.history import ENDED
from platform_db.logs.target import CHUNKS, COLUMNS, Logged, Target, for_each
from platform_db.models.log_chunk import decode_log
from platform_db.positions import Seen
from platform_db.types import SCHEMA

# How far the clocks of those who append may be apart: chunks are in the order of ids that they make.
CLOCK_SKEW = timedelta(minutes=5)


def tail_log(session: Session, row: Logged | uuid.UUID | str, lines: int = 100, **which: Any) -> str:
    """Return the last lines of a log, without reading the rest of it."""
    target = Target.of(row, **which)
    session.flush()
    data, before, read = b"", str(uuid.UUID(int=(1 << 128) - 1)), 16
    while data.count(b"\n") <= lines:
        chunks = (
            session.connection()
            .execute(_BACKWARDS[target.table], {"id": str(target.id_), "before": before, "chunks": read})
            .all()
        )
        data = b"".join(bytes(chunk.data) for chunk in reversed(chunks)) + data
        if len(chunks) < read:
            break
        before, read = str(chunks[-1].id_), read * 2
    return decode_log(b"".join(data.splitlines(keepends=True)[-lines:] if lines > 0 else []))


def read_log(
    session: Session, row: Logged | uuid.UUID | str, start: int = 0, end: int | None = None, **which: Any
) -> bytes:
    """Return the bytes of a log from ``start`` to before ``end``; only the chunks with them are read."""
    target = Target.of(row, **which)
    session.flush()
    chunks = session.connection().execute(
        _RANGE[target.table],
        {"id": str(target.id_), "start": start, "end": (1 << 62) if end is None else end},
    )
    data, first = b"", start
    for number, chunk in enumerate(chunks):
        first = chunk.start if number == 0 else first
        data += bytes(chunk.data)
    return data[start - first : None if end is None else max(0, end - first)]


class NewChunks(NamedTuple):
    """What was appended since the call before.

    :param data: the bytes.
    :param token: for the next call.
    :param ended: whether the run or job has ended, and nothing more is to be expected.
    """

    data: bytes
    token: str
    ended: bool


def read_new_log(
    session: Session,
    row: Logged | uuid.UUID | str,
    token: str | None = None,
    *,
    chunks: int = 1000,
    **which: Any,
) -> NewChunks:
    """Return what was appended since the call that gave ``token``, or from the beginning.

    Nothing is missed and nothing comes twice, whatever the order in which those who append commit. A chunk
    that was committed behind others comes after them.

    :param chunks: how many to return at most, beside those that were committed late.
    :raises errors.InvalidIdentifier: the token is none, or that of another log.
    """
    target = Target.of(row, **which)
    session.flush()
    last, seen = _read_token(token, target)
    connection = session.connection()
    status = connection.execute(_STATUS[target.table], {"id": str(target.id_)}).scalar()
    if status is None:
        raise target.not_found()
    parameters: dict[str, Any] = {"id": str(target.id_), "last": str(last), "chunks": chunks}
    statement = _NEW[target.table, seen is not None]
    if seen is not None:
        floor_id = _smallest_id(seen.floor.timestamp() - CLOCK_SKEW.total_seconds())
        parameters |= {**seen.parameters(), "floor_id": str(floor_id)}
    rows = connection.execute(statement, parameters).all()
    seen = Seen.of(rows[0], seen)
    ahead = [row for row in rows if row.id_ is not None and not row.late]
    last = ahead[-1].id_ if ahead else last
    data = b"".join(bytes(row.data) for row in rows if row.id_ is not None)
    next_token = positions.to_token("log", [str(target.id_), str(last), seen.pack()])
    return NewChunks(data, next_token, status in ENDED and len(ahead) < chunks)


def follow_log(
    factory: Callable[[], Session],
    row: Logged | uuid.UUID | str,
    *,
    poll_seconds: float = 1.0,
    token: str | None = None,
    **which: Any,
) -> Iterator[str]:
    """Yield a log's text as it grows, until its run or job has ended.

    Each look is a short transaction of its own, so that nothing is held open between them.
    """
    target = Target.of(row, **which)
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    while True:
        with factory() as session, session.begin():
            new = read_new_log(session, target.id_, token, model=target.model)
        token = new.token
        if text := decoder.decode(new.data, final=new.ended):
            yield text
        if new.ended:
            return
        if not new.data:
            time.sleep(poll_seconds)


def _read_token(token: str | None, target: Target) -> tuple[uuid.UUID, Seen | None]:
    if token is None:
        return uuid.UUID(int=0), None
    try:
        id_, last, seen = positions.from_token("log", token)
        found = uuid.UUID(id_), uuid.UUID(last), Seen.unpack(seen)
    except (ValueError, TypeError):
        raise errors.InvalidIdentifier("this token was not given by the call before") from None
    if found[0] != target.id_:
        raise errors.InvalidIdentifier("this token is that of another log")
    return found[1:]


def _smallest_id(timestamp: float) -> uuid.UUID:
    """Return what no id (UUIDv7) that was made after this time is smaller than."""
    return uuid.UUID(int=int(timestamp * 1000) << 80)


_STATUS = for_each(lambda table: f"SELECT status FROM {SCHEMA}.{table} WHERE id_ = CAST(:id AS uuid)")
_BACKWARDS = for_each(
    lambda table: (
        f"""
    SELECT chunk.id_, chunk.data FROM {CHUNKS[table]}
    WHERE row.id_ = CAST(:id AS uuid) AND chunk.id_ < CAST(:before AS uuid)
    ORDER BY chunk.id_ DESC LIMIT :chunks
    """
    )
)
# Lengths alone are read of the chunks before: they stand in front of what is stored elsewhere.
_RANGE = for_each(
    lambda table: (
        f"""
    SELECT place.start, chunk.data FROM (
        SELECT chunk.owner_id, chunk.workflow_id, chunk.id_, octet_length(chunk.data) AS length,
               sum(octet_length(chunk.data)) OVER (ORDER BY chunk.id_) - octet_length(chunk.data) AS start
        FROM {CHUNKS[table]} WHERE row.id_ = CAST(:id AS uuid)
    ) AS place
    JOIN {SCHEMA}.log_chunk AS chunk USING (owner_id, workflow_id, id_)
    WHERE place.start < :end AND place.start + place.length > :start
    ORDER BY chunk.id_
    """
    )
)
_LATE = f"""
    SELECT chunk.id_, chunk.data, true AS late FROM {{chunks}}
    WHERE row.id_ = CAST(:id AS uuid) AND chunk.id_ <= CAST(:last AS uuid)
      AND chunk.id_ >= CAST(:floor_id AS uuid) AND {positions.UNSEEN}
    UNION ALL
"""
_NEW = {
    (table, late): sa.text(
        f"""
        SELECT seen.*, new.* FROM ({positions.WHAT_IS_SEEN}) AS seen LEFT JOIN (
            {_LATE.format(chunks=CHUNKS[table]) if late else ""}
            (SELECT chunk.id_, chunk.data, false AS late FROM {CHUNKS[table]}
             WHERE row.id_ = CAST(:id AS uuid) AND chunk.id_ > CAST(:last AS uuid)
             ORDER BY chunk.id_ LIMIT :chunks)
        ) AS new ON true
        ORDER BY late DESC, id_
        """
    )
    for table in COLUMNS
    for late in (False, True)
}
