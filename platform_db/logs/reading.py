"""Reading a log: its end, a range of it, or what comes."""

from __future__ import annotations

import codecs
import time
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.bounds import require_amount
from platform_db.database.session import SessionFactory
from platform_db.lifecycle import cursors
from platform_db.lifecycle.cursors import Seen
from platform_db.lifecycle.history import ENDED
from platform_db.logs.target import CHUNKS, COLUMNS, Logged, Target, for_each
from platform_db.models.log_chunk import decode_log


def tail_log(session: Session, row: Logged | uuid.UUID | str, lines: int = 100, **which: Any) -> str:
    """Return the last lines of a log as text, without reading the rest of it."""
    return decode_log(read_log_tail(session, row, lines, **which))


def read_log_tail(session: Session, row: Logged | uuid.UUID | str, lines: int = 100, **which: Any) -> bytes:
    """Return the last lines of a log as they were written, without reading the rest of it."""
    require_amount(lines, "number of lines")
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
    return b"".join(data.splitlines(keepends=True)[-lines:] if lines > 0 else [])


def read_log(
    session: Session, row: Logged | uuid.UUID | str, start: int = 0, end: int | None = None, **which: Any
) -> bytes:
    """Return the bytes of a log from ``start`` to before ``end``.

    Of the chunks outside this range only the lengths are read, yet those of all: to go through a long log,
    use :func:`stream_log`.
    """
    target = Target.of(row, **which)
    session.flush()
    chunks = (
        session.connection()
        .execute(
            _RANGE[target.table],
            {"id": str(target.id_), "start": start, "end": (1 << 62) if end is None else end},
        )
        .all()
    )
    first = chunks[0].start if chunks else start
    data = b"".join(bytes(chunk.data) for chunk in chunks)
    return data[start - first : None if end is None else max(0, end - first)]


class NewChunks(NamedTuple):
    """What was appended since the call before.

    :param data: the bytes.
    :param token: for the next call.
    :param ended: whether the run or job had ended before, and this was all; only what somebody appends after
        the end, or commits late, is still to come.
    :param drained: whether this was all that there was.
    """

    data: bytes
    token: str
    ended: bool
    drained: bool


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
        parameters |= seen.parameters()
    rows = connection.execute(statement, parameters).all()
    seen = Seen.of(rows[0])
    ahead = [row for row in rows if row.id_ is not None and not row.late]
    last = ahead[-1].id_ if ahead else last
    data = b"".join(bytes(row.data) for row in rows if row.id_ is not None)
    next_token = cursors.to_token("log", [str(target.id_), str(last), seen.pack()])
    drained = len(ahead) < chunks
    return NewChunks(data, next_token, status in ENDED and drained, drained)


def stream_log(
    factory: SessionFactory,
    row: Logged | uuid.UUID | str,
    *,
    follow: bool = False,
    poll_seconds: float = 1.0,
    token: str | None = None,
    **which: Any,
) -> Iterator[bytes]:
    """Yield a log as it was written, piece by piece.

    Each piece is read in a short transaction of its own, so that nothing is held open between them.

    :param follow: go on as the log grows, until its run or job has ended, and another look after that brings
        nothing more.
    :param poll_seconds: how long to wait before looking again.
    :param token: where to begin, from :func:`read_new_log`; by default at the beginning.
    """
    target = Target.of(row, **which)
    ended = False
    while True:
        with factory() as session, session.begin():
            new = read_new_log(session, target.id_, token, model=target.model)
        token = new.token
        if new.data:
            yield new.data
        if not new.drained:
            continue
        if not follow or (ended and new.ended and not new.data):
            return
        ended = new.ended
        time.sleep(poll_seconds)


def follow_log(
    factory: SessionFactory,
    row: Logged | uuid.UUID | str,
    *,
    poll_seconds: float = 1.0,
    token: str | None = None,
    **which: Any,
) -> Iterator[str]:
    """Yield a log's text as it grows, until its run or job has ended (see :func:`stream_log`)."""
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    for data in stream_log(factory, row, follow=True, poll_seconds=poll_seconds, token=token, **which):
        if text := decoder.decode(data):
            yield text
    if text := decoder.decode(b"", final=True):
        yield text


def _read_token(token: str | None, target: Target) -> tuple[uuid.UUID, Seen | None]:
    if token is None:
        return uuid.UUID(int=0), None
    try:
        id_, last, seen = cursors.from_token("log", token)
        found = uuid.UUID(id_), uuid.UUID(last), Seen.unpack(seen)
    except (ValueError, TypeError):
        raise errors.InvalidIdentifier("this token was not given by the call before") from None
    if found[0] != target.id_:
        raise errors.InvalidIdentifier("this token is that of another log")
    return found[1:]


_STATUS = for_each(lambda table: f"SELECT status FROM platform.{table} WHERE id_ = CAST(:id AS uuid)")
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
    JOIN platform.log_chunk AS chunk USING (owner_id, workflow_id, id_)
    WHERE place.start < :end AND place.start + place.length > :start
    ORDER BY chunk.id_
    """
    )
)
# A job's chunks are found among its run's: the index by transaction has those of both.
_LATE = {
    table: f"""
    SELECT chunk.id_, chunk.data, true AS late FROM {CHUNKS[table]}
    WHERE row.id_ = CAST(:id AS uuid) AND chunk.workflow_id = {columns[0]}
      AND chunk.id_ <= CAST(:last AS uuid) AND {cursors.UNSEEN}
    UNION ALL
"""
    for table, columns in COLUMNS.items()
}
_NEW = {
    (table, late): sa.text(
        f"""
        SELECT seen.*, new.* FROM ({cursors.WHAT_IS_SEEN}) AS seen LEFT JOIN (
            {_LATE[table] if late else ""}
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
