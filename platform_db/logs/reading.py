"""Reading a log: its end, a range of it, or new output as it comes."""

from __future__ import annotations

import codecs
import time
import uuid
from collections.abc import Iterator
from typing import NamedTuple

from sqlalchemy.orm import Session

from platform_db import cursors
from platform_db.bounds import require_amount, require_limit
from platform_db.database.session import SessionFactory, takes_session
from platform_db.lifecycle.seen import READERS, UNSEEN, WHAT_IS_SEEN, Seen
from platform_db.lifecycle.target import Key
from platform_db.logs.target import CHUNKS, COLUMNS, Logged, LogTarget, for_each
from platform_db.models.log_chunk import decode_log
from platform_db.states import MACHINES

CHUNKS_AT_ONCE = 1000


@takes_session
def tail_log(
    session: Session,
    row: Logged | Key | uuid.UUID | str,
    lines: int = 100,
    *,
    model: type[Logged] | None = None,
) -> str:
    """Return the last lines of a log as text, without reading the rest of it.

    :param model: what an id is the id of.
    :raises errors.NotFound: there is no such run or job.
    """
    return decode_log(read_log_tail(session, row, lines, model=model))


@takes_session
def read_log_tail(
    session: Session,
    row: Logged | Key | uuid.UUID | str,
    lines: int = 100,
    *,
    model: type[Logged] | None = None,
) -> bytes:
    """Return the last lines of a log as they were written, without reading the rest of it.

    :raises errors.NotFound: there is no such run or job.
    """
    require_amount(lines, "number of lines")
    session.flush()
    target = LogTarget.of(session, row, model)
    data, before, read = b"", cursors.LARGEST_NUMBER, 16
    while data.count(b"\n") <= lines:
        parameters = {**target.parameters, "before": before, "chunks": read}
        chunks = session.connection().execute(_BACKWARDS[target.key], parameters).all()
        data = b"".join(bytes(chunk.data) for chunk in reversed(chunks)) + data
        if len(chunks) < read:
            break
        before, read = chunks[-1].number, read * 2
    if not data:
        _status(session, target)
    return b"".join(data.splitlines(keepends=True)[-lines:] if lines > 0 else [])


@takes_session
def read_log(
    session: Session,
    row: Logged | Key | uuid.UUID | str,
    start: int = 0,
    end: int | None = None,
    *,
    model: type[Logged] | None = None,
) -> bytes:
    """Return the bytes of a log from ``start`` to before ``end``.

    Of the chunks outside this range only the lengths are read, yet those of all: to go through a long log,
    use :func:`stream_log`.

    :raises errors.NotFound: there is no such run or job.
    :raises errors.InvalidArgument: a place is negative, or more than a ``bigint`` column holds.
    """
    require_amount(start, "start")
    end = require_amount(cursors.LARGEST_NUMBER if end is None else end, "end")
    session.flush()
    target = LogTarget.of(session, row, model)
    parameters = {**target.parameters, "start": start, "end": end}
    chunks = session.connection().execute(_RANGE[target.key], parameters).all()
    if not chunks:
        _status(session, target)
    first = chunks[0].start if chunks else start
    data = b"".join(bytes(chunk.data) for chunk in chunks)
    return data[start - first : max(0, end - first)]


def _status(session: Session, target: LogTarget) -> str:
    """Return the status of the run or job whose log it is.

    :raises errors.NotFound: there is none.
    """
    status: str | None = session.connection().execute(_STATUS[target.key], target.parameters).scalar()
    if status is None:
        raise target.not_found()
    return status


class NewChunks(NamedTuple):
    """What was appended since the call before.

    :param data: the bytes.
    :param cursor: for the next call.
    :param ended: whether the run or job had ended before, and this was all; only what is appended after the
        end, or commits late, is still to come.
    :param drained: whether this was all that there was.
    """

    data: bytes
    cursor: str
    ended: bool
    drained: bool


@takes_session
def read_new_log(
    session: Session,
    row: Logged | Key | uuid.UUID | str,
    cursor: str | None = None,
    *,
    chunks: int = CHUNKS_AT_ONCE,
    model: type[Logged] | None = None,
) -> NewChunks:
    """Return what was appended since the call that gave ``cursor``, or from the beginning.

    Nothing is missed and nothing comes twice, whatever the order in which writers commit. A chunk that was
    committed behind others comes after them.

    :param chunks: how many to return at most, beside those that were committed late.
    :raises errors.InvalidIdentifier: this log gave no such cursor.
    """
    require_limit(chunks)
    return _read_new(session, LogTarget.of(session, row, model), cursor, chunks)


def _read_new(session: Session, target: LogTarget, cursor: str | None, chunks: int) -> NewChunks:
    session.flush()
    query = ("log", target.table, target.id_)
    last, seen = 0, None
    if cursor is not None:
        last, *parts = cursors.decode(query, cursor, cursors.number, *READERS)
        seen = Seen(*parts)
    connection = session.connection()
    status = _status(session, target)
    parameters = {**target.parameters, "last": last, "chunks": chunks, **(seen.parameters() if seen else {})}
    rows = connection.execute((_NEW_AND_LATE if seen else _NEW)[target.key], parameters).all()
    ahead = [row for row in rows if row.number is not None and not row.late]
    last = ahead[-1].number if ahead else last
    data = b"".join(bytes(row.data) for row in rows if row.number is not None)
    machine = MACHINES[target.table]
    drained = len(ahead) < chunks
    ended = drained and machine.statuses(status) in machine.ended
    return NewChunks(data, cursors.encode(query, [last, *Seen.of(rows[0]).parts()]), ended, drained)


def stream_log(
    factory: SessionFactory,
    row: Logged | Key | uuid.UUID | str,
    *,
    follow: bool = False,
    poll_seconds: float = 1.0,
    cursor: str | None = None,
    model: type[Logged] | None = None,
) -> Iterator[bytes]:
    """Yield a log as it was written, piece by piece.

    Each piece is read in a short transaction of its own, so that nothing is held open between them.

    :param follow: go on as the log grows, until its run or job has ended, and another look after that brings
        nothing more.
    :param poll_seconds: how long to wait before looking again.
    :param cursor: where to begin, from :func:`read_new_log`; by default at the beginning.
    """
    ended = False
    while True:
        with factory() as session, session.begin():
            target = LogTarget.of(session, row, model)
            new = _read_new(session, target, cursor, CHUNKS_AT_ONCE)
        cursor = new.cursor
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
    row: Logged | Key | uuid.UUID | str,
    *,
    poll_seconds: float = 1.0,
    cursor: str | None = None,
    model: type[Logged] | None = None,
) -> Iterator[str]:
    """Yield a log's text as it grows, until its run or job has ended (see :func:`stream_log`)."""
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    pieces = stream_log(factory, row, follow=True, poll_seconds=poll_seconds, cursor=cursor, model=model)
    for data in pieces:
        if text := decoder.decode(data):
            yield text
    if text := decoder.decode(b"", final=True):
        yield text


_STATUS = for_each(lambda table, named: f"SELECT status FROM platform.{table} AS row WHERE {named}")
_BACKWARDS = for_each(
    lambda table, named: (
        f"""
    SELECT chunk.number, chunk.data FROM {CHUNKS[table]} WHERE {named} AND chunk.number < :before
    ORDER BY chunk.number DESC LIMIT :chunks
    """
    )
)
# Lengths alone are read of the chunks before: they stand in front of what is stored elsewhere.
_RANGE = for_each(
    lambda table, named: (
        f"""
    SELECT place.start, chunk.data FROM (
        SELECT chunk.owner_id, chunk.workflow_id, chunk.number, octet_length(chunk.data) AS length,
               sum(octet_length(chunk.data)) OVER (ORDER BY chunk.number) - octet_length(chunk.data) AS start
        FROM {CHUNKS[table]} WHERE {named}
    ) AS place
    JOIN platform.log_chunk AS chunk USING (owner_id, workflow_id, number)
    WHERE place.start < :end AND place.start + place.length > :start
    ORDER BY chunk.number
    """
    )
)


def _new(table: str, named: str, late: str = "") -> str:
    return f"""
        SELECT seen.*, new.* FROM ({WHAT_IS_SEEN}) AS seen LEFT JOIN (
            {late}
            (SELECT chunk.number, chunk.data, false AS late FROM {CHUNKS[table]}
             WHERE {named} AND chunk.number > :last
             ORDER BY chunk.number LIMIT :chunks)
        ) AS new ON true
        ORDER BY late DESC, number
    """


def _late(table: str, named: str) -> str:
    # A job's chunks are found among its run's: the index by transaction has those of both.
    return f"""
        SELECT chunk.number, chunk.data, true AS late FROM {CHUNKS[table]}
        WHERE {named} AND chunk.workflow_id = {COLUMNS[table][0]} AND chunk.number <= :last AND {UNSEEN}
        UNION ALL
    """


_NEW = for_each(_new)
_NEW_AND_LATE = for_each(lambda table, named: _new(table, named, _late(table, named)))
