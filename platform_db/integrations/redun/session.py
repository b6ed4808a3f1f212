"""The session of redun's own ORM: it sees one owner's rows, with all that was recorded before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from redun.backends.db import RedunSession
from sqlalchemy import event


class OwnersSession(RedunSession):
    """Belongs to the owner of its backend."""

    _held = 0
    _has_written = False

    def commit(self) -> None:
        """Commit; within :meth:`holding` only write what is pending."""
        if self._held:
            self.flush()
        else:
            super().commit()

    @contextmanager
    def holding(self, lock: str) -> Iterator[None]:
        """Make one transaction of this block, however often it commits; others of the same lock wait for it.

        Inside another such block nothing more is locked.
        """
        if not self._held:
            self.execute(_LOCK, {"lock": lock})
        self._held += 1
        try:
            yield
        except BaseException:
            self._held = 0
            self.rollback()
            raise
        self._held -= 1
        self.commit()


@event.listens_for(OwnersSession, "after_begin")
def _enter(session: OwnersSession, transaction: Any, connection: sa.Connection) -> None:
    """Name the tenant until the transaction ends: the views show that one's rows, and none without."""
    if not transaction.nested:
        connection.exec_driver_sql(session.backend.recorder.enter)


@event.listens_for(OwnersSession, "do_orm_execute")
def _write_before_statement(state: Any) -> None:
    _write_recorded(state.session, writes=not state.is_select)


@event.listens_for(OwnersSession, "before_flush")
def _write_before_flush(session: OwnersSession, *_: Any) -> None:
    _write_recorded(session, writes=True)


@event.listens_for(OwnersSession, "after_transaction_end")
def _begin_again(session: OwnersSession, transaction: Any) -> None:
    if transaction.parent is None:
        session._has_written = False


def _write_recorded(session: OwnersSession, *, writes: bool) -> None:
    """Have all that was recorded in the database before a statement.

    Not once the transaction has written: it may hold what the recorder's transaction would wait for.
    """
    if not session._has_written:
        session.backend.recorder.flush()
    session._has_written |= writes


_LOCK = sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:lock, 0))")
