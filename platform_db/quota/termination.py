"""What a run's end means for quotas: its processing time is known now, and its workspace has changed."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.lifecycle.target import Key
from platform_db.models import ResourceType, WorkflowResource
from platform_db.models.expiry import expire_row
from platform_db.quota.cpu import update_workflow_cpu_quota
from platform_db.quota.resources import get_default_key, lock_users, require_type
from platform_db.settings import get_settings

_MARK = sa.text("""
    UPDATE platform.workflow_resource SET stale = true
    WHERE owner_id = CAST(:owner AS uuid) AND workflow_id = CAST(:id AS uuid)
      AND resource_id = CAST(:resource AS uuid)
    """)


def account_for_ended_run(
    session: Session, run: Key, types: Iterable[ResourceType | str] | None = None
) -> None:
    """Count the processing time of a run that has ended, and mark its workspace for the next disk run.

    Its row is locked by the transaction that ends it, so the workspace is not measured here. A workspace that
    has no figure yet needs no mark. Without the default resources nothing is counted.

    :param run: the run's key.
    :param types: what to update, instead of what the policy says
        (``PLATFORM_DB_WORKFLOW_TERMINATION_QUOTA_UPDATE_POLICY``).
    :raises errors.InvalidArgument: it names an unknown type.
    """
    if types is None:
        types = get_settings().workflow_termination_quota_update_policy
    wanted, (owner_id, workflow_id) = set(map(require_type, types)), run
    try:
        if ResourceType.cpu in wanted:
            update_workflow_cpu_quota(session, run)
        if ResourceType.disk in wanted:
            disk = get_default_key(session, ResourceType.disk)
            lock_users(session, [owner_id], disk)
            parameters = {"owner": owner_id, "id": workflow_id, "resource": disk.id_}
            session.connection().execute(_MARK, parameters)
            expire_row(session, WorkflowResource, (owner_id, workflow_id, disk.id_))
    except errors.ResourceNotFound:
        return
