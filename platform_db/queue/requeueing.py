"""Another attempt: a run that could not be done now is queued again, later each time."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.bounds import require_amount, require_seconds
from platform_db.database.session import takes_session
from platform_db.lifecycle.restarts import MOST_RESTARTS, restart_if_possible
from platform_db.lifecycle.stopping import is_asked, stop_jobs
from platform_db.lifecycle.target import RunOrId, RunTarget
from platform_db.lifecycle.transitions import transition
from platform_db.models import Workflow
from platform_db.quota.termination import account_for_ended_run
from platform_db.states import RunStatus

DELAY = timedelta(seconds=10)
LONGEST_DELAY = timedelta(hours=1)


@takes_session
def requeue(
    session: Session,
    run: RunOrId,
    *,
    reason: str,
    delay: timedelta | float = DELAY,
    longest_delay: timedelta | float = LONGEST_DELAY,
    most_restarts: int = MOST_RESTARTS,
) -> Workflow | None:
    """Let a pending or running run fail, and queue a restart of it, which waits twice as long as the last.

    A started run cannot be queued again. So its restart is a new run, in the same workspace; its number
    counts the attempts, 2.1 after 2. Of two callers that race, one requeues the run, the other is refused. A
    run that was asked to stop is stopped instead, with its jobs.

    :param run: the run, its key ``(owner_id, id_)``, or its id.
    :param reason: why, for the history of both runs.
    :param delay: how long the first restart waits, in seconds where it is a number; 0 is not at all.
    :param longest_delay: no restart waits longer.
    :param most_restarts: after how many restarts the run only fails; a note in its history says so.
    :returns: the restart, or None where the run only fails, or stops.
    :raises errors.Conflict: it is neither pending nor running.
    :raises errors.WorkflowNotFound: there is no such run.
    """
    first, longest = require_seconds(delay, "delay"), require_seconds(longest_delay, "longest delay")
    require_amount(most_restarts, "number of restarts")
    session.flush()
    target = RunTarget.of(session, run, Workflow)
    key = target.key(session)
    # Locked, so that a request to stop comes before this or is refused.
    stored = session.connection().execute(_LOCK, {"owner": key[0], "id": key[1]}).one_or_none()
    if stored is None:
        raise target.not_found()
    held, wanted = (RunStatus.pending, RunStatus.running), RunStatus.failed
    if stored.asked:
        wanted = RunStatus.stopped
    transition(session, key, wanted, model=Workflow, reason=reason, expected_status=held)
    account_for_ended_run(session, key)
    if stored.asked:
        stop_jobs(session, [key], reason=reason)
        return None
    seconds = min(longest, first * 2.0 ** min(stored.run_number_minor, 64))
    return restart_if_possible(session, key, reason=reason, delay=seconds, most_restarts=most_restarts)


_LOCK = sa.text(f"""
    SELECT run_number_minor, {is_asked("workflow")} AS asked FROM platform.workflow
    WHERE owner_id = CAST(:owner AS uuid) AND id_ = CAST(:id AS uuid)
    FOR NO KEY UPDATE
    """)
