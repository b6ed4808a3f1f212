"""How much a run has logged: kept in step with what its transactions append."""

from __future__ import annotations

import uuid
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction

from platform_db.models.log_chunk import Appended, LogSize

_KEY = "platform_db.log_sizes"


class Sizes:
    """What a session's transaction has appended, and not yet added to the stored sizes.

    It adds them just before its commit: the lock on a run's size is held for an instant only, and a thousand
    appends of one transaction leave one version of the row behind, and not a thousand to be walked through.
    """

    def __init__(self) -> None:
        self.pending: dict[uuid.UUID, Appended] = {}
        self.run_of: dict[uuid.UUID, uuid.UUID] = {}
        # What was pending when each savepoint began; a savepoint that has ended is gone from here by itself.
        self.before: WeakKeyDictionary[SessionTransaction, dict[uuid.UUID, Appended]] = WeakKeyDictionary()

    @staticmethod
    def of(session: Session) -> Sizes:
        sizes: Sizes = session.info.setdefault(_KEY, Sizes())
        return sizes

    def pending_of(self, id_: uuid.UUID) -> int:
        """Return how many bytes are pending for the run, or for the run of the job, with this id."""
        part = self.pending.get(self.run_of.get(id_, id_))
        return part.length if part else 0

    def add(self, id_: uuid.UUID, stored: Any, length: int) -> None:
        """Add a stored chunk of the run's or job's log to the count."""
        if id_ != stored.workflow_id:
            self.run_of[id_] = stored.workflow_id
        part = Appended(stored.owner_id, length, stored.number, stored.number)
        known = self.pending.get(stored.workflow_id)
        self.pending[stored.workflow_id] = known + part if known else part


@event.listens_for(Session, "before_commit")
def store_sizes(session: Session) -> None:
    if session.in_nested_transaction():
        return
    session.flush()  # It may append; and nothing shall wait for another row's lock with the size's in hand.
    sizes: Sizes | None = session.info.get(_KEY)
    if sizes is None or not sizes.pending:
        return
    LogSize.add(session, sizes.pending)
    sizes.pending = {}


@event.listens_for(Session, "after_transaction_create")
def remember_sizes(session: Session, transaction: SessionTransaction) -> None:
    sizes: Sizes | None = session.info.get(_KEY)
    if sizes is not None and transaction.nested:
        sizes.before[transaction] = dict(sizes.pending)


@event.listens_for(Session, "after_soft_rollback")
def take_sizes_back(session: Session, transaction: SessionTransaction) -> None:
    """Take back what was appended since a savepoint to which the session rolled back."""
    sizes: Sizes | None = session.info.get(_KEY)
    if sizes is not None and transaction.nested:
        sizes.pending = sizes.before.pop(transaction, {})


@event.listens_for(Session, "after_transaction_end")
def forget_sizes(session: Session, transaction: SessionTransaction) -> None:
    """Forget what a transaction appended once it has ended, in whatever way: closing is one, too."""
    if transaction.parent is None:
        session.info.pop(_KEY, None)
