"""What a run's end means for quotas: its processing time is known now, and its workspace has changed."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.lifecycle.target import Key
from platform_db.models import ResourceType
from platform_db.quota.cpu import update_workflow_cpu_quota
from platform_db.quota.figures import expire_figures
from platform_db.quota.policy import types_at_termination
from platform_db.quota.resources import get_default_key, lock_users

_MARK = sa.text(
    """
    UPDATE platform.workflow_resource SET stale = true
    WHERE owner_id = CAST(:owner AS uuid) AND workflow_id = CAST(:id AS uuid)
      AND resource_id = CAST(:resource AS uuid)
    """
)


def account_for_ended_run(
    session: Session, run: Key, types: Iterable[ResourceType | str] | None = None
) -> None:
    """Count the processing time of a run that has ended, and mark its workspace for the next disk run.

    Its row is locked by the transaction that ends it, so the workspace is not measured here. A workspace that
    has no figure yet needs no mark. Without the default resources nothing is counted.

    :param run: the run's key.
    :param types: what to update, instead of what the policy says.
    """
    wanted = types_at_termination(types)
    try:
        if ResourceType.cpu in wanted:
            update_workflow_cpu_quota(session, run)
        if ResourceType.disk in wanted:
            mark_as_stale(session, run)
    except errors.ResourceNotFound:
        return


def mark_as_stale(session: Session, run: Key) -> None:
    """Ask the next disk run to measure this run's workspace, however new its figure is.

    :raises errors.ResourceNotFound: the default resources were never created.
    """
    disk = get_default_key(session, ResourceType.disk)
    owner_id, workflow_id = run
    lock_users(session, [owner_id], disk)
    session.connection().execute(
        _MARK, {"owner": str(owner_id), "id": str(workflow_id), "resource": str(disk.id_)}
    )
    expire_figures(session, disk, owner_id, [workflow_id])
