"""Create a user and a run, walk the run through its states, and read what the database noted.

Run it with ``PLATFORM_DB_URI=embedded: python examples/first_run.py``.
"""

from __future__ import annotations

import sqlalchemy as sa

from platform_db import errors
from platform_db.lifecycle.transitions import transition
from platform_db.models import RunStatus, StatusChange, User, Workflow
from platform_db.schema.upgrade import init_db
from platform_db.sessions import session_scope
from platform_db.workflows import get_workflow

# [prepare]
init_db()
# [create a user]
with session_scope() as session:
    user = session.scalar(sa.select(User).where(User.email == "ada@example.org"))
    if user is None:
        user = User(email="ada@example.org", full_name="Ada")
        session.add(user)
        session.flush()
    user_id = user.id_
# [create a run]
with session_scope() as session:
    workflow = Workflow(
        owner_id=user_id,
        name="analysis",
        type_="serial",
        specification={"steps": ["fetch", "fit", "plot"]},
        logs="accepted\n",
    )
    session.add(workflow)
    session.flush()
    full_name = workflow.get_full_workflow_name()
    print(f"{full_name} is {workflow.status} and will run in {workflow.workspace_path}")
# [walk it]
for status in (RunStatus.queued, RunStatus.pending, RunStatus.running, RunStatus.finished):
    with session_scope() as session:
        workflow = get_workflow(session, full_name, user_id)
        transition(session, workflow, status, reason="the tutorial")
        workflow.append_logs(f"{status}\n")
# [refused]
with session_scope() as session:
    workflow = get_workflow(session, full_name, user_id)
    try:
        transition(session, workflow, RunStatus.queued)
    except errors.InvalidTransition as refusal:
        print(f"refused: {refusal}")
# [read]
with session_scope() as session:
    workflow = get_workflow(session, full_name, user_id)
    print(f"{full_name} ran for {workflow.run_finished_at - workflow.run_started_at}")
    print(workflow.logs, end="")
    history = sa.select(StatusChange).where(
        StatusChange.owner_id == user_id, StatusChange.entity_id == workflow.id_
    )
    for change in session.scalars(history.order_by(StatusChange.revision)):
        print(f"{change.revision}: {change.from_status} -> {change.to_status} ({change.reason})")
# [restart]
with session_scope() as session:
    again = Workflow(
        owner_id=user_id,
        name="analysis",
        type_="serial",
        specification={"steps": ["fetch", "fit", "plot"]},
        restart=True,
    )
    session.add(again)
    session.flush()
    print(f"the restart is {again.get_full_workflow_name()}")
# [end]
