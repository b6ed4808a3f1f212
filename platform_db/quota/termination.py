"""What a run's end means for quotas: its processing time is known now, and its workspace has changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.lifecycle.target import Key, arrays_of
from platform_db.models import ResourceType, WorkflowResource
from platform_db.models.expiry import expire_row
from platform_db.quota.cpu import update_workflow_cpu_quota
from platform_db.quota.resources import get_default_key, lock_users, require_type
from platform_db.settings import get_settings

_MARK = sa.text("""
    UPDATE platform.workflow_resource SET stale = true
    FROM unnest(CAST(:owners AS uuid[]), CAST(:ids AS uuid[])) AS given (owner_id, workflow_id)
    WHERE workflow_resource.owner_id = given.owner_id AND workflow_resource.workflow_id = given.workflow_id
      AND resource_id = CAST(:resource AS uuid)
    """)


def account_for_ended_run(
    session: Session, run: Key, types: Iterable[ResourceType | str] | None = None
) -> None:
    """Count the processing time of a run that has ended, and mark its workspace for the next disk run.

    Its row is locked by the transaction that ends it, so the workspace is not measured here. A workspace that
    has no figure yet needs no mark. Without the default resources nothing is counted.

    :param run: the run's key.
    :param types: as :func:`account_for_ended_runs`.
    :raises errors.InvalidArgument: it names an unknown type.
    """
    account_for_ended_runs(session, [run], [run], types)


def account_for_ended_runs(
    session: Session,
    runs: Sequence[Key],
    started: Sequence[Key],
    types: Iterable[ResourceType | str] | None = None,
) -> None:
    """Do what :func:`account_for_ended_run` does for many runs.

    :param runs: their keys.
    :param started: the keys of those that had been started; the others have used no processing time.
    :param types: what to update, instead of what the policy says
        (``PLATFORM_DB_WORKFLOW_TERMINATION_QUOTA_UPDATE_POLICY``).
    :raises errors.InvalidArgument: it names an unknown type.
    """
    if types is None:
        types = get_settings().workflow_termination_quota_update_policy
    wanted = set(map(require_type, types))
    try:
        if ResourceType.disk in wanted and runs:  # First: it locks all owners in key order.
            disk = get_default_key(session, ResourceType.disk)
            lock_users(session, [owner_id for owner_id, _ in runs], disk)
            session.connection().execute(_MARK, {**arrays_of(runs), "resource": disk.id_})
            for key in runs:
                expire_row(session, WorkflowResource, (*key, disk.id_))
        if ResourceType.cpu in wanted:
            for run in started:
                update_workflow_cpu_quota(session, run)
    except errors.ResourceNotFound:
        return
