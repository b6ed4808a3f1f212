"""Two workers share the queue. Each run is done once, by a worker that beats, and stops when it is asked.

Run it with ``PLATFORM_DB_URI=embedded: python examples/worker.py``.
"""

from __future__ import annotations

import threading
import time
import uuid

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.leases import heartbeat
from platform_db.lifecycle import transition
from platform_db.logs import append_log
from platform_db.models import RunStatus, User, Workflow
from platform_db.queue import Claim, claim, finish
from platform_db.schema.upgrade import init_db
from platform_db.sessions import run_transaction
from platform_db.workflows import NewWorkflow, cancel, create_workflows

BEAT = 0.1  # seconds; of a real worker a third of what ``workflow recover --older-than`` lets pass

STEPS = 3


def queue_runs(session: Session) -> list[uuid.UUID]:
    """Create a user with four queued runs and return the runs' ids."""
    user = User(email=f"{uuid.uuid4()}@example.org")
    session.add(user)
    session.flush()
    specification = {"steps": STEPS}
    asked: list[NewWorkflow] = [
        {"owner": user, "name": name, "type_": "serial", "specification": specification, "status": "queued"}
        for name in ("first", "second", "third", "cancelled")
    ]
    return [created.id_ for created in create_workflows(session, asked)]


def work(worker: str) -> None:
    """Do what is in the queue, until it is empty; a service would look again after a second."""
    while claims := run_transaction(lambda session: claim(session, worker, limit=2, kinds=["serial"])):
        for claimed in claims:
            try:
                do(claimed, claims)
            except errors.Refused as refusal:  # It was cancelled, or recovered while we stood still.
                print(f"{worker} lets {claimed.name} go: {refusal}")


def do(claimed: Claim, claims: list[Claim]) -> None:
    """Walk a run to its end, and keep the leases of all that the worker has claimed."""
    steps = run_transaction(lambda session: start(session, claimed))
    for step in range(steps):
        time.sleep(BEAT)  # This is the work.
        held = run_transaction(lambda session: heartbeat(session, claims))
        if claimed.id_ in held.stop_requested:
            run_transaction(lambda session: finish(session, claimed, RunStatus.stopped, reason="as asked"))
            return
        if claimed.id_ not in held:
            return  # Another worker may have it by now.
        line = f"{claimed.worker} did step {step + 1}\n"
        run_transaction(lambda session, line=line: append_log(session, claimed, line))
    run_transaction(lambda session: finish(session, claimed, RunStatus.finished))


def start(session: Session, claimed: Claim) -> int:
    """Set the run to running, as it was when it was claimed, and return its number of steps."""
    transition(session, claimed, RunStatus.running, expected_revision=claimed.revision)
    steps: int = session.get_one(claimed.model, claimed.key).specification["steps"]
    return steps


def main() -> None:
    """Queue four runs, cancel one of them, and let two workers do the others."""
    init_db()
    ids = run_transaction(queue_runs)
    run_transaction(lambda session: cancel(session, ids[-1], reason="not needed"))
    workers = [threading.Thread(target=work, args=(f"worker-{n}",)) for n in (1, 2)]
    for thread in workers:
        thread.start()
    for thread in workers:
        thread.join()
    run_transaction(lambda session: show(session, ids))


def show(session: Session, ids: list[uuid.UUID]) -> None:
    """Print what became of the runs."""
    for workflow in session.scalars(sa.select(Workflow).where(Workflow.id_.in_(ids)).order_by(Workflow.id_)):
        print(f"{workflow.get_full_workflow_name()} is {workflow.status}")
        print(workflow.logs, end="")


if __name__ == "__main__":
    main()
