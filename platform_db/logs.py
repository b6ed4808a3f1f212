"""Logs of runs and of jobs: appending, and reading the end, a range, or what comes.

A log is bytes, so what any program writes is kept: NUL, bytes that are not UTF-8, lone surrogates. Appending
is one INSERT, whose cost does not depend on what is there. The size of a run's logs is limited, its jobs'
among them; where a log was cut, it says so.
"""

from __future__ import annotations

import codecs
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session

from platform_db import errors, positions
from platform_db.config import get_settings
from platform_db.history import ENDED, identity_of
from platform_db.models import Job, Workflow
from platform_db.models.log_chunk import decode_log, encode_log
from platform_db.positions import Seen
from platform_db.types import SCHEMA, new_id, parse_id

CUT = b"\n[platform-db: the log was cut here"
_MARKER = CUT + b": its run has reached the limit of %d bytes]\n"

# How far the clocks of those who append may be apart: chunks are in the order of ids that they make.
CLOCK_SKEW = timedelta(minutes=5)

Logged = Workflow | Job


def append_log(
    session: Session,
    row: Logged | uuid.UUID | str,
    text: str | bytes,
    *,
    model: type[Logged] = Workflow,
    limit: int | None = None,
) -> int:
    """Append to the log of a run or of a job, and return how many bytes were kept.

    Where the limit is reached, what fits is kept, a marker says that it was cut, and what comes later is
    dropped.
    Two who append at the same instant may pass the limit by what they append.

    :param model: what an id is the id of.
    :param limit: bytes that a run and its jobs may log; by default ``PLATFORM_DB_LOG_LIMIT``, 0 is none.
    :raises errors.NotFound: there is no such row.
    """
    target = _Target.of(row, model)
    data = encode_log(text)
    if session.new or session.dirty:
        session.flush()
    sizes = _Sizes.of(session)
    limit = get_settings().log_limit if limit is None else limit
    parameters = {
        "chunk": str(new_id()),
        "id": str(target.id_),
        "data": data,
        "length": len(data),
        "limit": limit,
        "pending": sizes.pending_of(target.id_),
    }
    stored = session.connection().execute(_APPEND[target.table], parameters).one_or_none()
    if stored is not None:
        sizes.add(target.id_, stored.workflow_id, len(data))
        return len(data)
    return _cut(session, target, parameters, sizes)


def _cut(session: Session, target: _Target, parameters: dict[str, Any], sizes: _Sizes) -> int:
    """Keep what fits, and say that the rest was cut, unless that is said already; never wait for anybody."""
    connection = session.connection()
    log = connection.execute(_LOG[target.table], parameters).one_or_none()
    if log is None:
        raise target.not_found()
    last = connection.execute(_LAST[target.table], parameters).scalar()
    if last is not None and CUT in bytes(last):
        return 0
    if not connection.execute(_CLAIM_CUT, {"id": str(target.id_)}).scalar():
        return 0  # Somebody else is at it, and says so.
    last = connection.execute(_LAST[target.table], parameters).scalar()
    if last is not None and CUT in bytes(last):
        return 0
    room = max(0, parameters["limit"] - log.bytes_ - sizes.pending.get(log.workflow_id, 0))
    kept = parameters["data"][:room]
    marked = kept + _MARKER % parameters["limit"]
    connection.execute(
        _APPEND[target.table], {**parameters, "data": marked, "length": 0, "pending": 0, "limit": 1 << 62}
    )
    sizes.add(target.id_, log.workflow_id, len(kept))
    return len(kept)


def tail_log(session: Session, row: Logged | uuid.UUID | str, lines: int = 100, **which: Any) -> str:
    """Return the last lines of a log, without reading the rest of it."""
    target = _Target.of(row, **which)
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
    target = _Target.of(row, **which)
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
    target = _Target.of(row, **which)
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
    target = _Target.of(row, **which)
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


def _read_token(token: str | None, target: _Target) -> tuple[uuid.UUID, Seen | None]:
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


class _Target(NamedTuple):
    """Whose log it is."""

    model: type[Logged]
    id_: uuid.UUID

    @property
    def table(self) -> str:
        return str(self.model.__tablename__)

    @classmethod
    def of(cls, row: Logged | uuid.UUID | str, model: type[Logged] = Workflow) -> _Target:
        if isinstance(row, Workflow | Job):
            return cls(type(row), identity_of(row))
        return cls(model, parse_id(row, f"{model.__tablename__} id"))

    def not_found(self) -> errors.NotFound:
        error = errors.WorkflowNotFound if self.model is Workflow else errors.NotFound
        return error(f"there is no {self.table} {self.id_}")


class _Sizes:
    """What a session's transaction has appended, and not yet added to the stored sizes.

    It adds them just before its commit: the lock on a run's size is held for an instant only, and a thousand
    appends of one transaction leave one version of the row behind, and not a thousand to be walked through.
    """

    KEY = "platform_db.log_sizes"

    def __init__(self) -> None:
        self.pending: dict[uuid.UUID, int] = {}
        self.run_of: dict[uuid.UUID, uuid.UUID] = {}

    @classmethod
    def of(cls, session: Session) -> _Sizes:
        sizes: _Sizes | None = session.info.get(cls.KEY)
        if sizes is None:
            sizes = session.info[cls.KEY] = cls()
            event.listen(session, "before_commit", sizes.store)
            for ended in ("after_commit", "after_rollback"):
                event.listen(session, ended, sizes.forget)
        return sizes

    def pending_of(self, id_: uuid.UUID) -> int:
        return self.pending.get(self.run_of.get(id_, id_), 0)

    def add(self, id_: uuid.UUID, workflow_id: uuid.UUID, length: int) -> None:
        if id_ != workflow_id:
            self.run_of[id_] = workflow_id
        self.pending[workflow_id] = self.pending.get(workflow_id, 0) + length

    def store(self, session: Session) -> None:
        if not self.pending or session.in_nested_transaction():
            return
        parameters = {"ids": [str(id_) for id_ in self.pending], "lengths": list(self.pending.values())}
        session.connection().execute(_ADD_SIZES, parameters)
        self.pending = {}

    def forget(self, session: Session) -> None:
        if session.in_nested_transaction():
            return  # What a savepoint took back stays counted: a limit may err to that side.
        self.pending, self.run_of = {}, {}


_ADD_SIZES = sa.text(
    f"""
    INSERT INTO {SCHEMA}.log_size (owner_id, workflow_id, bytes_)
    SELECT workflow.owner_id, workflow.id_, appended.length
    FROM unnest(CAST(:ids AS uuid[]), CAST(:lengths AS bigint[])) AS appended (id_, length)
    JOIN {SCHEMA}.workflow ON workflow.id_ = appended.id_
    ORDER BY workflow.owner_id, workflow.id_
    ON CONFLICT (owner_id, workflow_id) DO UPDATE SET bytes_ = log_size.bytes_ + excluded.bytes_
    """
)
# Until the end of the transaction, and without ever waiting.
_CLAIM_CUT = sa.text("SELECT pg_try_advisory_xact_lock(hashtextextended('cut log ' || :id, 0))")

# By the table whose row's log it is: its columns for a run and a job, and the condition for its chunks.
_COLUMNS = {
    "workflow": ("row.id_", "CAST(NULL AS uuid)"),
    "job": ("row.workflow_id", "row.id_"),
}
_CHUNKS = {
    "workflow": f"""{SCHEMA}.workflow AS row JOIN {SCHEMA}.log_chunk AS chunk
        ON chunk.owner_id = row.owner_id AND chunk.workflow_id = row.id_ AND chunk.job_id IS NULL""",
    "job": f"""{SCHEMA}.job AS row JOIN {SCHEMA}.log_chunk AS chunk
        ON chunk.owner_id = row.owner_id AND chunk.job_id = row.id_""",
}


def _for_each(template: Callable[[str], str]) -> dict[str, sa.TextClause]:
    return {table: sa.text(template(table)) for table in _COLUMNS}


_APPEND = _for_each(
    lambda table: (
        f"""
    INSERT INTO {SCHEMA}.log_chunk (id_, owner_id, workflow_id, job_id, data)
    SELECT CAST(:chunk AS uuid), row.owner_id, {", ".join(_COLUMNS[table])}, :data
    FROM {SCHEMA}.{table} AS row
    LEFT JOIN {SCHEMA}.log_size ON log_size.owner_id = row.owner_id
                               AND log_size.workflow_id = {_COLUMNS[table][0]}
    WHERE row.id_ = CAST(:id AS uuid)
      AND coalesce(log_size.bytes_, 0) + :pending + :length <= :limit
    RETURNING workflow_id
    """
    )
)
_LOG = _for_each(
    lambda table: (
        f"""
    SELECT row.owner_id, {_COLUMNS[table][0]} AS workflow_id, coalesce(log_size.bytes_, 0) AS bytes_
    FROM {SCHEMA}.{table} AS row
    LEFT JOIN {SCHEMA}.log_size ON log_size.owner_id = row.owner_id
                               AND log_size.workflow_id = {_COLUMNS[table][0]}
    WHERE row.id_ = CAST(:id AS uuid)
    """
    )
)
_STATUS = _for_each(lambda table: f"SELECT status FROM {SCHEMA}.{table} WHERE id_ = CAST(:id AS uuid)")
_LAST = _for_each(
    lambda table: (
        f"""
    SELECT chunk.data FROM {_CHUNKS[table]}
    WHERE row.id_ = CAST(:id AS uuid) ORDER BY chunk.id_ DESC LIMIT 1
    """
    )
)
_BACKWARDS = _for_each(
    lambda table: (
        f"""
    SELECT chunk.id_, chunk.data FROM {_CHUNKS[table]}
    WHERE row.id_ = CAST(:id AS uuid) AND chunk.id_ < CAST(:before AS uuid)
    ORDER BY chunk.id_ DESC LIMIT :chunks
    """
    )
)
# Lengths alone are read of the chunks before: they stand in front of what is stored elsewhere.
_RANGE = _for_each(
    lambda table: (
        f"""
    SELECT place.start, chunk.data FROM (
        SELECT chunk.owner_id, chunk.workflow_id, chunk.id_, octet_length(chunk.data) AS length,
               sum(octet_length(chunk.data)) OVER (ORDER BY chunk.id_) - octet_length(chunk.data) AS start
        FROM {_CHUNKS[table]} WHERE row.id_ = CAST(:id AS uuid)
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
            {_LATE.format(chunks=_CHUNKS[table]) if late else ""}
            (SELECT chunk.id_, chunk.data, false AS late FROM {_CHUNKS[table]}
             WHERE row.id_ = CAST(:id AS uuid) AND chunk.id_ > CAST(:last AS uuid)
             ORDER BY chunk.id_ LIMIT :chunks)
        ) AS new ON true
        ORDER BY late DESC, id_
        """
    )
    for table in _COLUMNS
    for late in (False, True)
}
