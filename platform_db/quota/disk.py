"""The disk space of single workspaces, and the totals of their owners."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors, workspaces
from platform_db.bounds import LARGEST_AMOUNT, require_amount
from platform_db.database.session import takes_session
from platform_db.lifecycle.target import RunOrId, RunTarget
from platform_db.models import ResourceType, User, UserResource, Workflow, WorkflowResource
from platform_db.models.expiry import expire_rows
from platform_db.models.identity import UserOrId, user_id_of
from platform_db.quota import figures
from platform_db.quota.figures import MOST_BYTES, Drift, Figure, Workspace
from platform_db.quota.resources import (
    AnyResource,
    get_default_quota_resource,
    lock_remaining_users,
    lock_users,
)
from platform_db.workspaces.opening import require_storage

USERS_PER_STATEMENT = 1000


@takes_session
def store_workflow_disk_quota(
    session: Session,
    workflow: RunOrId,
    bytes_to_sum: int | None = None,
    *,
    measured: int | None = None,
) -> WorkflowResource:
    """Store what the workspace of a run takes, for it and for the runs that share it.

    Without ``bytes_to_sum`` the workspace is measured, before any row is locked, and its owner's total
    follows. With it, the figure changes by so many bytes, never below zero; the owner's total is then changed
    by :func:`update_users_disk_quota` with the same amount, in the same transaction.

    :param workflow: the run, its key ``(owner_id, id_)``, or its id.
    :param bytes_to_sum: how many bytes were added; negative if they were removed.
    :param measured: how many bytes the workspace takes, where the caller has just measured it: it is stored
        as if it were measured here, up to 4 EiB, and the disk is not read.
    :raises errors.WorkflowNotFound: there is no such run.
    :raises errors.WorkspaceError: the workspace is there, but cannot be read; the figure stays.
    :raises errors.StorageMissing: the workspace is not there, nor is its root; the figure stays.
    :raises errors.InvalidArgument: a number is beyond a ``bigint`` column, ``measured`` is negative, or both
        are given.
    """
    _require_change(bytes_to_sum)
    if measured is not None:
        require_amount(measured, "measured size")
        if bytes_to_sum is not None:
            raise errors.InvalidArgument("give bytes_to_sum or measured, not both")
    session.flush()
    target = RunTarget.of(session, workflow, Workflow)
    owner_id, workflow_id = target.key(session)
    path = session.scalar(
        sa.select(Workflow.workspace_path).where(Workflow.owner_id == owner_id, Workflow.id_ == workflow_id)
    )
    if path is None:
        raise target.not_found()
    resource = get_default_quota_resource(session, ResourceType.disk)
    if bytes_to_sum is None:
        _measure(session, resource, owner_id, path, measured)
    else:
        figures.change_figure(session, resource, owner_id, path, bytes_to_sum)
    found = session.get(WorkflowResource, (owner_id, workflow_id, resource.id_), populate_existing=True)
    if found is None:
        raise errors.WorkflowNotFound(f"workflow {workflow_id} was deleted meanwhile")
    if isinstance(workflow, Workflow):
        session.expire(workflow, ["resources"])
    return found


def _require_change(bytes_to_sum: int | None) -> None:
    if bytes_to_sum is not None:
        require_amount(bytes_to_sum, "change", smallest=-LARGEST_AMOUNT)


def _measure(
    session: Session, resource: AnyResource, owner_id: uuid.UUID, path: str, measured: int | None
) -> None:
    workspace = figures.read_workspace(session, resource, owner_id, path)
    if measured is not None:
        figure = Figure(workspace, min(measured, MOST_BYTES), "given")
    else:
        try:
            figure = measured_figure(workspace, workspaces.measure(workspace))
        except workspaces.MissingWorkspaceError:
            require_storage(path)
            figure = Figure(workspace, 0, "missing")
    figures.write_figures(session, resource, [figure])
    # The runs that share the workspace have the figure, too.
    for model in (UserResource, WorkflowResource):
        expire_rows(session, model, {owner_id})


def measured_figure(workspace: Workspace, measured: workspaces.Measurement) -> Figure:
    """Return the figure to store of a workspace that was measured.

    What cannot be read does not lower it: closing a directory is no way around a quota.
    """
    used = max(measured.bytes, workspace.used or 0) if measured.unreadable else measured.bytes
    return Figure(workspace, min(used, MOST_BYTES), measured.method, measured.apparent)


@takes_session
def update_users_disk_quota(
    session: Session, user: UserOrId | None = None, bytes_to_sum: int | None = None
) -> None:
    """Bring the total of a user, or of all users, up to date with the figures of their workspaces.

    Workspaces that several runs share count once. The disk is not read.

    :param bytes_to_sum: add so many bytes to the user's total instead, in one statement, never below zero.
    :raises errors.UserNotFound: there is no such user.
    :raises errors.InvalidArgument: ``bytes_to_sum`` is beyond a ``bigint`` column, or there is no user.
    """
    _require_change(bytes_to_sum)
    session.flush()
    resource = get_default_quota_resource(session, ResourceType.disk)
    if user is None:
        if bytes_to_sum is not None:
            raise errors.InvalidArgument("bytes_to_sum needs a user")
        everyone = session.scalars(sa.select(User.id_).order_by(User.id_))
        for user_ids in everyone.partitions(USERS_PER_STATEMENT):
            sum_totals(session, user_ids, resource)
    elif bytes_to_sum is None:
        lock_users(session, [user_id_of(user)], resource)
        sum_totals(session, [user_id_of(user)], resource)
    else:
        figures.change_total(session, resource, user_id_of(user), bytes_to_sum)
    if isinstance(user, User):
        session.expire(user, ["resources"])


def sums(resource: str, users: str) -> str:
    """Return the query of users' totals: as they are stored, ``before``, and as figures add up, ``used``.

    :param resource: the expression of the resource's id.
    :param users: what follows the id of a user that is asked for.
    """
    return f"""
        SELECT u.id_ AS owner_id, coalesce(total.quota_used, 0) AS before,
               CAST(least({MOST_BYTES}, coalesce(sum(workspace.used), 0)) AS bigint) AS used
        FROM platform.user_ AS u
        LEFT JOIN platform.user_resource AS total ON total.owner_id = u.id_ AND total.resource_id = {resource}
        LEFT JOIN (
            SELECT w.owner_id, max(r.quota_used) AS used
            FROM platform.workflow_resource AS r
            JOIN platform.workflow AS w ON w.owner_id = r.owner_id AND w.id_ = r.workflow_id
            WHERE r.owner_id {users} AND r.resource_id = {resource}
            GROUP BY w.owner_id, w.workspace_path
        ) AS workspace ON workspace.owner_id = u.id_
        WHERE u.id_ {users}
        GROUP BY u.id_, total.quota_used
    """


_SUMS = sums("CAST(:resource AS uuid)", "= ANY(CAST(:users AS uuid[]))")
_FIND_DRIFT = sa.text(f"{_SUMS} ORDER BY u.id_")
_SUM_TOTALS = figures.set_totals("quota_used = sums.used, measured_at = clock_timestamp()", _SUMS)


def find_drift(session: Session, user_ids: Sequence[uuid.UUID], resource: AnyResource) -> list[Drift]:
    """Return the totals that are not the sums of the figures, and change nothing."""
    return figures.drifts(session, _FIND_DRIFT, user_ids, resource)


def sum_totals(session: Session, user_ids: Sequence[uuid.UUID], resource: AnyResource) -> list[Drift]:
    """Set totals to the sums of the figures, and return those that differed.

    The rows are locked first: one statement that waited for another writer would sum what it saw before.
    """
    lock_remaining_users(session, user_ids, resource)
    found = figures.drifts(session, _SUM_TOTALS, user_ids, resource)
    expire_rows(session, UserResource, set(user_ids))
    return found
