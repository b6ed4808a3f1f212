"""Functions that services call: on the thread's session, each with its commit."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from datetime import date, datetime, time, timedelta

from platform_db import errors, quota, settings, tokens, workflows
from platform_db.models import Resource, ResourceType, User, WorkflowResource, WorkspaceRetentionRule
from platform_db.models import Workflow as PlatformWorkflow
from platform_db.settings.secret_keys import split_keys
from platform_db.states import RunStatus, WorkspaceRetentionRuleStatus
from platform_db.workspaces import MissingWorkspaceError
from platform_db.workspaces import build_workspace_path as path_below
from platform_db.workspaces import list_workspace as get_disk_usage
from reana_db import config
from reana_db.config import PERIODIC_RESOURCE_QUOTA_UPDATE_POLICY, WORKFLOW_TERMINATION_QUOTA_UPDATE_POLICY

logger = logging.getLogger(__name__)

_measure = get_disk_usage


# -- paths and names


def build_workspace_path(
    user_id: object, workflow_id: object = None, workspace_root_path: str | None = None
) -> str:
    """Return the path of a run's workspace, or of the directory of all the user's workspaces.

    A root beside the shared volume holds workspaces as they are, without a directory for the user.
    """
    root = workspace_root_path or config.WORKSPACE_ROOTS[0]
    if workspace_root_path and config.SHARED_VOLUME_PATH not in workspace_root_path:
        return f"{root.rstrip('/')}/{workflow_id}" if workflow_id else root
    if workspace_root_path:
        root = config.SHARED_VOLUME_PATH
    return path_below(str(user_id), str(workflow_id) if workflow_id else None, root)


def split_run_number(run_number: object) -> tuple[int, int]:
    """Return the major and the minor number.

    :raises ValueError: it is not a run number.
    """
    major, _, minor = str(run_number).partition(".")
    return int(major), int(minor or 0)


def _get_workflow_with_uuid_or_name(
    uuid_or_name: str, user_uuid: object, include_shared_workflows: bool = False
) -> PlatformWorkflow:
    """Return a run of the user's: by its id, its name, or its name and number.

    :raises ValueError: there is none.
    """
    from reana_db.database import Session

    if not uuid_or_name:
        raise ValueError("no workflow is named")
    try:
        return workflows.get_workflow(
            Session, uuid_or_name, str(user_uuid), include_shared=include_shared_workflows
        )
    except (errors.NotFound, errors.WrongUsage) as error:
        raise ValueError(str(error)) from error


# -- quotas


def get_default_quota_resource(resource_type: str) -> Resource:
    """Return the default resource of a type."""
    from reana_db.database import Session

    return quota.get_default_quota_resource(Session, resource_type)


def should_skip_quota_update(resource_type: ResourceType) -> bool:
    """Tell whether both policies, that of a run's end and that of the cronjob, leave this type out."""
    return not PERIODIC_RESOURCE_QUOTA_UPDATE_POLICY and (
        resource_type.name not in WORKFLOW_TERMINATION_QUOTA_UPDATE_POLICY
    )


def get_disk_usage_or_zero(workspace_path: str) -> int:
    """Return the bytes that a workspace takes; 0 where it is missing, or where the policies say so."""
    if should_skip_quota_update(ResourceType.disk):
        return 0
    try:
        return int(get_disk_usage(workspace_path, summarize=True)[0]["size"]["raw"])
    except MissingWorkspaceError:
        return 0


def store_workflow_disk_quota(
    workflow: PlatformWorkflow, bytes_to_sum: int | None = None, override_policy_checks: bool = False
) -> WorkflowResource | None:
    """Measure the workspace of a run, or add bytes to what it takes.

    :returns: None where the policies say that nothing is to be done.
    """
    from reana_db.database import Session

    if should_skip_quota_update(ResourceType.disk) and not override_policy_checks:
        return None
    # A test suite may have put another measure in the place of platform-db's.
    replaced = bytes_to_sum is None and get_disk_usage is not _measure
    measured = get_disk_usage_or_zero(workflow.workspace_path) if replaced else None
    stored = quota.store_workflow_disk_quota(Session, workflow, bytes_to_sum, measured=measured)
    Session.commit()
    return stored


def update_workflows_disk_quota() -> None:
    """Measure all workspaces, side by side, and store what they take in batches.

    :raises errors.PartialFailure: some could not be measured; the others are stored.
    """
    from reana_db.database import Session, new_session

    if should_skip_quota_update(ResourceType.disk):
        return
    Session.commit()  # The job has transactions of its own, which would wait for this one.
    if get_disk_usage is _measure:
        quota.update_disk_usage(new_session).raise_for_problems()
        return
    for workflow in Session.query(PlatformWorkflow).all():
        store_workflow_disk_quota(workflow)


def update_users_disk_quota(
    user: User | None = None, bytes_to_sum: int | None = None, override_policy_checks: bool = False
) -> None:
    """Sum up what the workspaces of a user, or of all, take; or add bytes to the sum of one."""
    from reana_db.database import Session

    if override_policy_checks or not should_skip_quota_update(ResourceType.disk):
        quota.update_users_disk_quota(Session, user, bytes_to_sum)
        Session.commit()


def update_workflow_cpu_quota(workflow: PlatformWorkflow) -> int | None:
    """Store the milliseconds that a run took, for it and for its owner, and return them.

    :returns: 0 while it has not ended; None where the policies say that nothing is to be done.
    """
    from reana_db.database import Session

    if should_skip_quota_update(ResourceType.cpu):
        return None
    milliseconds = quota.update_workflow_cpu_quota(Session, workflow)
    Session.commit()
    return milliseconds


def update_workflows_cpu_quota() -> None:
    """Store the processing time of all runs, sessions and services, and of their owners.

    :raises errors.PartialFailure: that of some users could not be; that of the others is stored.
    """
    from reana_db.database import Session, new_session

    if not should_skip_quota_update(ResourceType.cpu):
        Session.commit()
        quota.update_cpu_usage(new_session).raise_for_problems()


def update_users_cpu_quota(user: User | None = None) -> None:
    """Sum up the processing time of a user, or of all."""
    from reana_db.database import Session

    if not should_skip_quota_update(ResourceType.cpu):
        quota.update_users_cpu_quota(Session, user)
        Session.commit()


def account_for_ended_run(workflow: PlatformWorkflow) -> None:
    """Count what a run has used that has ended, as the policy says; a failure is logged."""
    from reana_db import models
    from reana_db.database import Session

    policy = models.WORKFLOW_TERMINATION_QUOTA_UPDATE_POLICY
    try:
        if ResourceType.cpu.name in policy and workflow.status is not RunStatus.deleted:
            update_workflow_cpu_quota(workflow)
        if ResourceType.disk.name in policy:
            store_workflow_disk_quota(workflow)
    except Exception:
        Session.rollback()
        logger.exception("the quotas of an ended run's owner could not be updated")


# -- retention rules


def update_workspace_retention_rules(
    rules: Iterable[WorkspaceRetentionRule], status: WorkspaceRetentionRuleStatus
) -> None:
    """Set the status of rules; one that becomes active applies at the end of the day, its days from today.

    A rule whose files could not be removed becomes active again with its date: the next run tries again.

    :raises errors.Refused: REANA knows no such transition.
    """
    from reana_db.database import Session

    for rule in list(rules):
        if rule.status == status:
            continue
        if not rule.can_transition_to(status):
            raise errors.Refused(
                f"Cannot transition workspace retention rule {rule.id_} from {rule.status} to {status}"
            )
        if status == WorkspaceRetentionRuleStatus.inactive:
            rule.apply_on = None
        elif status == WorkspaceRetentionRuleStatus.active and (
            rule.apply_on is None or rule.status != WorkspaceRetentionRuleStatus.pending
        ):
            rule.apply_on = datetime.combine(date.today() + timedelta(days=rule.retention_days + 1), time())
        rule.status = status
    Session.commit()


# -- secrets


def change_key_encrypted_columns(old_key: str) -> None:
    """Encrypt all secrets with the configured key that are encrypted with the one before.

    :raises errors.PartialFailure: some could not be; those that could are.
    """
    from reana_db.database import new_session

    configured = settings.get_settings().secret_key
    keys = split_keys(configured.get_secret_value() if configured else "")
    before = os.environ.get("PLATFORM_DB_SECRET_KEY")
    os.environ["PLATFORM_DB_SECRET_KEY"] = ",".join(dict.fromkeys([*keys, config.derived_key(old_key)]))
    settings.reset_settings()
    try:
        tokens.rotate(new_session).raise_for_problems()
    finally:
        os.environ["PLATFORM_DB_SECRET_KEY"] = before or ""
        settings.reset_settings()
