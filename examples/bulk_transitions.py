"""Stop every run of a user in one statement, and see which of them could not be stopped.

Run it with ``PLATFORM_DB_URI=embedded: python examples/bulk_transitions.py``.
"""

from __future__ import annotations

import uuid

from platform_db.lifecycle.transitions import override_guard, transition, transition_many
from platform_db.models import RunStatus, User, Workflow
from platform_db.schema.upgrade import init_db
from platform_db.sessions import session_scope
from platform_db.workflows import list_workflows

init_db()
with session_scope() as session:
    user = User(email=f"{uuid.uuid4()}@example.org")
    statuses = [RunStatus.running] * 8 + [RunStatus.finished] * 2
    session.add(user)
    session.add_all(
        Workflow(owner_id=user.id_, name="scan", type_="serial", specification={}, status=status)
        for status in statuses
    )
    user_id = user.id_

with session_scope() as session:
    runs = list_workflows(session, user_id).rows
    results = transition_many(session, runs, RunStatus.stopped, reason="maintenance")
    print(f"{sum(result.changed for result in results)} of {len(results)} were stopped")
    for result in results:
        if not result.changed:
            print(f"one is {result.status} and stays so")

# The way out for operators: what the guard would refuse is written, and marked in the history.
with session_scope() as session:
    run = list_workflows(session, user_id, statuses=[RunStatus.stopped], limit=1).rows[0]
    with override_guard(session, reason="stopped by mistake"):
        transition(session, run, RunStatus.queued)
    print(f"{run.get_full_workflow_name()} is {run.status} again")
