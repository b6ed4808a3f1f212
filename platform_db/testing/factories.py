"""Rows that tests start from. A row gets its status as in life: by transitions, with their times and history.

The functions flush, and the caller commits; the fixtures of the same names commit, too.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy.orm import Session

from platform_db import quota
from platform_db.database.session import takes_session
from platform_db.lifecycle import transition
from platform_db.models import Job, JobStatus, ResourceType, RunStatus, User, Workflow
from platform_db.models.identity import UserOrId, user_id_of
from platform_db.states import JOB, WORKFLOW, Machine, S
from platform_db.workflows import update_workflow_status


@takes_session
def make_user(
    session: Session,
    /,
    *,
    limits: Mapping[ResourceType | str, int | None] | None = None,
    usage: Mapping[ResourceType | str, int] | None = None,
    **values: Any,
) -> User:
    """Store a user and return it.

    :param limits: the user's limits by resource, in its unit (bytes, milliseconds); None is unlimited.
    :param usage: what the user has used, by resource and in its unit.
    :param values: columns of the user, and ``access_token``. An e-mail address is made up.
    """
    user = User(**{"email": f"{uuid.uuid4()}@example.org", **values})
    session.add(user)
    session.flush()
    for resource, limit in (limits or {}).items():
        quota.set_limit(session, user, resource, limit)
    for resource, amount in (usage or {}).items():
        # Room for nothing is always granted, so that a user can be made who is beyond a limit.
        quota.commit_reservation(session, quota.reserve(session, user, resource, 0), amount)
    return user


@takes_session
def make_run(
    session: Session,
    /,
    owner: UserOrId | None = None,
    name: str = "analysis",
    *,
    status: RunStatus | str = RunStatus.created,
    jobs: Iterable[JobStatus | str] = (),
    disk: int | None = None,
    **values: Any,
) -> Workflow:
    """Store a run, walk it to a status, and return it.

    :param owner: the user, or the user's id; by default a new user.
    :param status: where the walk ends. The processing time of a run that ends is counted.
    :param jobs: the statuses of its jobs, one for each; they are walked before the run ends.
    :param disk: what its workspace takes, in bytes, counted for the run and for its owner.
    :param values: columns of the run, and ``logs``, with which its log begins.
    """
    owner_id = user_id_of(make_user(session) if owner is None else owner)
    run = Workflow(**{"name": name, "owner_id": owner_id, "type_": "serial", "specification": {}, **values})
    session.add(run)
    session.flush()
    steps = way_to(WORKFLOW, WORKFLOW.status(status))
    while steps and steps[0] not in WORKFLOW.ended:
        update_workflow_status(session, run, steps.pop(0))
    for job_status in jobs:
        make_job(session, run, status=job_status)
    for step in steps:
        update_workflow_status(session, run, step)
    if disk is not None:
        quota.store_workflow_disk_quota(session, run, disk)
        quota.update_users_disk_quota(session, owner_id, disk)
    return run


@takes_session
def make_job(
    session: Session,
    /,
    run: Workflow,
    *,
    status: JobStatus | str = JobStatus.created,
    logs: str | bytes = "",
    **values: Any,
) -> Job:
    """Store a job of a run, walk it to a status, and return it.

    :param logs: what it has logged.
    :param values: columns of the job.
    """
    job = Job(owner_id=run.owner_id, workflow_id=run.id_, **values)
    session.add(job)
    session.flush()
    for step in way_to(JOB, JOB.status(status)):
        transition(session, job, step)
    if logs:
        job.append_logs(logs)
    return job


def way_to(machine: Machine[S], status: S) -> list[S]:
    """Return the statuses that lead from the first one to this: before each, the latest that it may follow.

    So a run that has finished was queued, pending and running.
    """
    before = list(itertools.takewhile(lambda earlier: earlier != status, machine.statuses))
    sources = [earlier for earlier in before if earlier in machine.sources(status)]
    return [*way_to(machine, sources[-1]), status] if sources else []
