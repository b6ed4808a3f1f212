"""Setting a run's status, with what follows from it."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy.orm import Session

from platform_db.database.session import takes_session
from platform_db.lifecycle.stopping import stop_jobs
from platform_db.lifecycle.target import RunOrId, RunTarget
from platform_db.lifecycle.transitions import transition
from platform_db.logs import append_log
from platform_db.models import ResourceType, Workflow
from platform_db.quota.termination import account_for_ended_run
from platform_db.states import WORKFLOW, RunStatus


@takes_session
def update_workflow_status(
    session: Session,
    workflow_uuid: RunOrId,
    status: RunStatus,
    new_logs: str | bytes = "",
    message: str | None = None,
    quota_types: Iterable[ResourceType | str] | None = None,
) -> RunStatus:
    """Set a run's status, append to its log, and return the stored status.

    The jobs of a run that stops are stopped, too. A run that ends has its processing time counted at once,
    and its workspace marked for the next disk run, as
    ``PLATFORM_DB_WORKFLOW_TERMINATION_QUOTA_UPDATE_POLICY`` says.

    :param workflow_uuid: the run, its key ``(owner_id, id_)``, or its id; the owner of an id is looked up.
    :param new_logs: appended to the run's log, even where the status does not change.
    :param message: the reason, for the history.
    :param quota_types: what to update if the run ends, whatever the policy says.
    :raises errors.InvalidTransition: the stored status does not allow it; nothing is appended.
    :raises errors.WorkflowNotFound: there is no such run.
    """
    session.flush()
    run = RunTarget.of(session, workflow_uuid, Workflow).key(session)
    stored = transition(session, run, RunStatus(status), model=Workflow, reason=message)
    if new_logs:
        append_log(session, run, new_logs, model=Workflow)
    if stored is RunStatus.stopped:
        stop_jobs(session, [run], reason=message)
    if stored in WORKFLOW.ended and stored is not RunStatus.deleted:
        account_for_ended_run(session, run, quota_types)
    return RunStatus(stored)
