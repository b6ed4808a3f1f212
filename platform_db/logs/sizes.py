"""How much a run has logged: kept in step with what its transactions append."""

from __future__ import annotations

import uuid

from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction

from platform_db.models import LogSize


class Sizes:
    """What a session's transaction has appended, and not yet added to the stored sizes.

    It adds them just before its commit: the lock on a run's size is held for an instant only, and a thousand
    appends of one transaction leave one version of the row behind, and not a thousand to be walked through.
    """

    KEY = "platform_db.log_sizes"

    def __init__(self) -> None:
        self.pending: dict[uuid.UUID, int] = {}
        self.run_of: dict[uuid.UUID, uuid.UUID] = {}

    @classmethod
    def of(cls, session: Session) -> Sizes:
        sizes: Sizes | None = session.info.get(cls.KEY)
        if sizes is None:
            sizes = session.info[cls.KEY] = cls()
            event.listen(session, "before_commit", sizes.store)
            event.listen(session, "after_transaction_end", sizes.forget)
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
        session.flush()  # So that nothing waits for another row's lock with the size's in hand.
        LogSize.add(session, self.pending)
        self.pending = {}

    def forget(self, session: Session, transaction: SessionTransaction) -> None:
        """Forget what a transaction appended once it has ended, in whatever way: closing is one, too.

        What a savepoint took back stays counted: a limit may err to that side.
        """
        if transaction.parent is None:
            self.pending, self.run_of = {}, {}
