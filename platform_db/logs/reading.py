"""Reading a log: its end, a range of it, or new output as it comes."""

from __future__ import annotations

import codecs
import time
from collections.abc import Iterator
from typing import NamedTuple

from sqlalchemy.orm import Session

from platform_db import cursors
from platform_db.bounds import require_amount, require_limit
from platform_db.database.session import SessionFactory, takes_session
from platform_db.lifecycle.seen import pages_of, read_new
from platform_db.logs.target import Logged, LoggedOrId, LogTarget
from platform_db.models.log_chunk import decode_log

CHUNKS_AT_ONCE = 1000


@takes_session
def tail_log(
    session: Session, row: LoggedOrId, lines: int = 100, *, model: type[Logged] | None = None
) -> str:
    """Return the last lines of a log as text, without reading the rest of it.

    :param model: what an id is the id of.
    :raises errors.NotFound: there is no such run or job.
    """
    return decode_log(read_log_tail(session, row, lines, model=model))


@takes_session
def read_log_tail(
    session: Session, row: LoggedOrId, lines: int = 100, *, model: type[Logged] | None = None
) -> bytes:
    """Return the last lines of a log as they were written, without reading the rest of it.

    :raises errors.NotFound: there is no such run or job.
    """
    require_amount(lines, "number of lines")
    session.flush()
    target = LogTarget.of(session, row, model)
    data, before, read = b"", cursors.LARGEST_NUMBER, 16
    while data.count(b"\n") <= lines:
        chunks = target.execute(session, _BACKWARDS, before=before, chunks=read).all()
        data = b"".join(bytes(chunk.data) for chunk in reversed(chunks)) + data
        if len(chunks) < read:
            break
        before, read = chunks[-1].number, read * 2
    if not data:
        target.has_ended(session)  # Only to look for the row.
    return b"".join(data.splitlines(keepends=True)[-lines:] if lines > 0 else [])


@takes_session
def read_log(
    session: Session,
    row: LoggedOrId,
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
    chunks = target.execute(session, _RANGE, start=start, end=end).all()
    if not chunks:
        target.has_ended(session)  # Only to look for the row.
        return b""
    first = chunks[0].start
    data = b"".join(bytes(chunk.data) for chunk in chunks)
    return data[start - first : max(0, end - first)]


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
    row: LoggedOrId,
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
    session.flush()
    target = LogTarget.of(session, row, model)
    ended = target.has_ended(session)
    pages, query = [target.statement(page) for page in _PAGES], ("log", target.table, target.id_)
    parameters = {**target.parameters, "run": target.run_id(session)}
    rows, drained, after = read_new(
        session.connection(), pages, parameters, query=query, cursor=cursor, limit=chunks
    )
    return NewChunks(b"".join(bytes(row.data) for row in rows), after, ended and drained, drained)


def stream_log(
    factory: SessionFactory,
    row: LoggedOrId,
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
            new = read_new_log(session, row, cursor, model=model)
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
    row: LoggedOrId,
    *,
    poll_seconds: float = 1.0,
    cursor: str | None = None,
    model: type[Logged] | None = None,
) -> Iterator[str]:
    """Yield a log's text as it grows, until its run or job has ended (see :func:`stream_log`)."""
    pieces = stream_log(factory, row, follow=True, poll_seconds=poll_seconds, cursor=cursor, model=model)
    return codecs.iterdecode(pieces, "utf-8", "backslashreplace")


_BACKWARDS = """
    SELECT chunk.number, chunk.data FROM {chunks} WHERE {row} AND chunk.number < :before
    ORDER BY chunk.number DESC LIMIT :chunks
"""
# Lengths alone are read of the chunks before: they stand in front of what is stored elsewhere.
_RANGE = """
    SELECT place.start, chunk.data FROM (
        SELECT chunk.owner_id, chunk.workflow_id, chunk.number, octet_length(chunk.data) AS length,
               sum(octet_length(chunk.data)) OVER (ORDER BY chunk.number) - octet_length(chunk.data) AS start
        FROM {chunks} WHERE {row}
    ) AS place
    JOIN platform.log_chunk AS chunk USING (owner_id, workflow_id, number)
    WHERE {partition} AND place.start < :end AND place.start + place.length > :start
    ORDER BY chunk.number
"""
# A job's late chunks are found among its run's: the index by transaction has those of both.
_PAGES = pages_of("{chunks} AND {row}", "chunk.number, chunk.data", late="chunk.workflow_id = {run}")
