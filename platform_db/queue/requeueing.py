"""Another attempt: a run that could not be done now is queued again, later each time."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.bounds import require_seconds
from platform_db.database.session import takes_session
from platform_db.leases.holding import Claim
from platform_db.lifecycle.restarts import (
    DELAY,
    LOCK_OWNER,
    LONGEST_DELAY,
    MOST_RESTARTS,
    require_restarts,
    restart_if_possible,
)
from platform_db.lifecycle.stopping import is_asked, stop_jobs
from platform_db.lifecycle.target import RunOrId, RunTarget
from platform_db.lifecycle.transitions import transition
from platform_db.models import Workflow
from platform_db.quota.termination import account_for_ended_run
from platform_db.states import RunStatus


@takes_session
def requeue(
    session: Session,
    run: RunOrId,
    *,
    reason: str,
    worker: str | None = None,
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
    :param worker: only while this worker holds it; of a claim, who made it. One that stood still may have
        lost it to another.
    :param delay: how long the first restart waits, in seconds where it is a number; 0 is not at all.
    :param longest_delay: no restart waits longer.
    :param most_restarts: after how many restarts the run only fails; a note in its history says so.
    :returns: the restart, or None where the run only fails, or stops.
    :raises errors.Conflict: it is neither pending nor running, or the worker does not hold it.
    :raises errors.WorkflowNotFound: there is no such run.
    """
    require_seconds(delay, "delay")
    require_seconds(longest_delay, "longest delay")
    require_restarts(most_restarts)
    session.flush()
    target = RunTarget.of(session, run, Workflow)
    key = target.key(session)
    # Locked, so that a request to stop comes before this or is refused.
    stored = session.connection().execute(_LOCK, {"owner": key[0], "id": key[1]}).one_or_none()
    if stored is None:
        raise target.not_found()
    if worker is None and isinstance(run, Claim):
        worker = run.worker
    if worker is not None:
        # Read after the row was locked: who takes the lease locks the row, too.
        holder = session.connection().scalar(_HOLDER, {"owner": key[0], "id": key[1]})
        if holder != worker:
            raise errors.Conflict(target.table, str(key[1]), "holder", worker, stored.status, stored.revision)
    held, wanted = (RunStatus.pending, RunStatus.running), RunStatus.failed
    if stored.asked:
        wanted = RunStatus.stopped
    transition(session, key, wanted, model=Workflow, reason=reason, expected_status=held)
    account_for_ended_run(session, key)
    if stored.asked:
        stop_jobs(session, [key], reason=reason)
        return None
    return restart_if_possible(
        session,
        key,
        reason=reason,
        delay=delay,
        longest_delay=longest_delay,
        most_restarts=most_restarts,
    )


_LOCK = sa.text(f"""
    WITH held AS MATERIALIZED ({LOCK_OWNER})
    SELECT {is_asked("workflow")} AS asked, status, revision FROM platform.workflow, held
    WHERE owner_id = CAST(:owner AS uuid) AND id_ = CAST(:id AS uuid)
    FOR NO KEY UPDATE OF workflow
    """)

_HOLDER = sa.text("""
    SELECT holder FROM platform.lease WHERE owner_id = CAST(:owner AS uuid) AND entity_id = CAST(:id AS uuid)
    """)
