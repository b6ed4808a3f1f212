"""Two workers see the same queued run. One takes it; the other one is told, and goes on.

Run it with ``PLATFORM_DB_URI=embedded: python examples/worker.py``.
"""

from __future__ import annotations

import threading
import uuid

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.lifecycle.transitions import set_actor, transition
from platform_db.models import RunStatus, User, Workflow
from platform_db.schema.upgrade import init_db
from platform_db.sessions import run_transaction
from platform_db.workflows import update_workflow_status


def queue_a_run(session: Session) -> uuid.UUID:
    """Create a user with a queued run and return the run's id."""
    user = User(email=f"{uuid.uuid4()}@example.org")
    workflow = Workflow(owner_id=user.id_, name="nightly", type_="serial", specification={})
    session.add_all([user, workflow])
    transition(session, workflow, RunStatus.queued)
    return workflow.id_


def take(session: Session, workflow_id: uuid.UUID, worker: str) -> bool:
    """Try to become the one who starts the run."""
    set_actor(session, worker)
    try:
        # Not a read followed by a write: of any number of workers, one alone changes the row.
        transition(session, workflow_id, RunStatus.pending, model=Workflow, expected_status=RunStatus.queued)
    except errors.Conflict as conflict:
        print(f"{worker}: the run is {conflict.stored_status} already")
        return False
    return True


def work(workflow_id: uuid.UUID, worker: str) -> None:
    """Walk the run to its end, if this worker is the one who got it."""
    if not run_transaction(lambda session: take(session, workflow_id, worker)):
        return
    for status, log in ((RunStatus.running, "starting\n"), (RunStatus.finished, "done\n")):
        # A deadlock or a serialization failure runs the transaction again; a refusal does not.
        run_transaction(
            lambda session, status=status, log=log: update_workflow_status(
                session, workflow_id, status, new_logs=f"{worker}: {log}", message="all is well"
            )
        )


def main() -> None:
    """Let two workers compete for one run."""
    init_db()
    workflow_id = run_transaction(queue_a_run)
    workers = [threading.Thread(target=work, args=(workflow_id, f"worker-{n}")) for n in (1, 2)]
    for thread in workers:
        thread.start()
    for thread in workers:
        thread.join()
    run_transaction(lambda session: show(session, workflow_id))


def show(session: Session, workflow_id: uuid.UUID) -> None:
    """Print what became of the run."""
    workflow = session.scalars(sa.select(Workflow).where(Workflow.id_ == workflow_id)).one()
    print(f"{workflow.get_full_workflow_name()} is {workflow.status}")
    print(workflow.logs, end="")


if __name__ == "__main__":
    main()
