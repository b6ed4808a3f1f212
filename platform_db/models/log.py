"""The log of a run or a job as an attribute, which reads, appends and replaces."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import flag_dirty

from platform_db.models.base import room_above, session_of
from platform_db.models.log_chunk import LogChunk, decode_log, encode_log, read_logs

if TYPE_CHECKING:
    from sqlalchemy.orm import WriteOnlyMapped

_KEY = "platform_db.assigned_logs"


class HasLog:
    """A run or a job: what has a log. What a new row logs is stored with it, whatever the limit."""

    if TYPE_CHECKING:
        log_chunks: WriteOnlyMapped[LogChunk]

    def append_logs(self, text: str | bytes) -> None:
        """Append to the row's log (see :func:`platform_db.logs.append_log`)."""
        if _is_new(self):
            self.log_chunks.add(LogChunk(data=encode_log(text)))
            return
        room_above("logs", "append_log")(session_of(self), self, text)  # type: ignore[arg-type]

    @property
    def logs(self) -> str:
        """The row's log as one text; bytes that are not UTF-8 show as ``\\xff``.

        It may be assigned. At the next flush, what was added to the text as it was read last is appended,
        which keeps what is appended meanwhile; any other text replaces the log.
        """
        if _is_new(self):
            return decode_log(b"".join(chunk.data for chunk in _new_chunks(self)))
        session = session_of(self)  # type: ignore[arg-type]
        text = read_logs(session, *self._own_chunks())
        AssignedLogs.of(session).as_read[self] = AsRead(len(text), hash(text))
        return text

    @logs.setter
    def logs(self, text: str | bytes) -> None:
        if not _is_new(self):
            AssignedLogs.of(session_of(self)).assign(self, text)  # type: ignore[arg-type]
            return
        if not _new_chunks(self):
            self.append_logs(text)
        for number, chunk in enumerate(_new_chunks(self)):
            chunk.data = b"" if number else encode_log(text)

    def _own_chunks(self) -> tuple[sa.ColumnElement[bool], ...]:
        """Return the conditions that a piece is of this log."""
        raise NotImplementedError


def _is_new(row: Any) -> bool:
    return sa.inspect(row).identity is None


def _new_chunks(row: Any) -> list[LogChunk]:
    return list(sa.inspect(row).attrs.log_chunks.history.added or ())


class AsRead(NamedTuple):
    """A text as it was read, without the text."""

    length: int
    hash_: int


class AssignedLogs:
    """What a session has read of logs, and what it has assigned to them and not stored yet."""

    def __init__(self) -> None:
        self.as_read: WeakKeyDictionary[HasLog, AsRead] = WeakKeyDictionary()
        self.changes: dict[HasLog, tuple[Callable[..., Any], str | bytes]] = {}

    @staticmethod
    def of(session: Session) -> AssignedLogs:
        assigned: AssignedLogs = session.info.setdefault(_KEY, AssignedLogs())
        return assigned

    def assign(self, row: HasLog, text: str | bytes) -> None:
        """Note how the log is changed by the next flush."""
        read = self.as_read.get(row)
        if read and isinstance(text, str) and hash(text[: read.length]) == read.hash_:
            self.changes[row] = room_above("logs.replacing", "append"), text[read.length :]
        else:
            self.changes[row] = room_above("logs.replacing", "replace"), text
        flag_dirty(row)


def store_assigned_logs(session: Session) -> None:
    """Store what was assigned to the logs of rows that are still in the session; called in its flush."""
    assigned: AssignedLogs | None = session.info.get(_KEY)
    if assigned is None or not assigned.changes:
        return
    del session.info[_KEY]
    for row, (change, text) in assigned.changes.items():
        if row in session.dirty:
            change(session, row, text)


@event.listens_for(Session, "after_soft_rollback")
def forget_assigned_logs(session: Session, transaction: object) -> None:
    session.info.pop(_KEY, None)
