"""Finding runs, and what happens to them as a whole."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from contextlib import suppress

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.logs import append_log
from platform_db.models import ResourceType, UserWorkflow, Workflow, split_run_number
from platform_db.quota.termination import account_for_ended_run
from platform_db.states import RunStatus
from platform_db.transitions import transition
from platform_db.types import SCHEMA, is_text, parse_id

ENDED = frozenset({RunStatus.finished, RunStatus.failed, RunStatus.stopped})


def get_workflow(
    session: Session,
    uuid_or_name: uuid.UUID | str,
    user_id: uuid.UUID | str,
    include_shared: bool = False,
) -> Workflow:
    """Find a run of the user's.

    :param uuid_or_name: its id; or ``name`` (the latest run), ``name.2`` or ``name.2.1``. Where a run of
        ``name`` and a workflow that is called ``name.2`` both exist, the run is meant.
    :param include_shared: also find what others share with the user, by id or by name.
    :raises errors.WorkflowNotFound: there is none that the user may see.
    :raises errors.InvalidIdentifier: ``user_id`` is no UUID.
    """
    user = parse_id(user_id, "user id")
    own = sa.select(Workflow).where(Workflow.owner_id == user)
    # In a query of their own, driven from the few shares: one with an OR reads all tenants' runs.
    shares = shared_with(user).subquery()
    shared = sa.select(Workflow).join(
        shares, (Workflow.owner_id == shares.c.owner_id) & (Workflow.id_ == shares.c.workflow_id)
    )
    for criteria in _readings(uuid_or_name):
        for visible in (own, shared) if include_shared else (own,):
            workflow = session.scalars(
                visible.where(*criteria)
                .order_by(Workflow.run_number_major.desc(), Workflow.run_number_minor.desc())
                .limit(1)
            ).one_or_none()
            if workflow is not None:
                return workflow
    raise errors.WorkflowNotFound(f"there is no workflow {str(uuid_or_name)!r}")


def shared_with(user_id: uuid.UUID) -> sa.Select[uuid.UUID, uuid.UUID]:
    """Select the owner and the id of what is shared with the user now."""
    return sa.select(UserWorkflow.owner_id, UserWorkflow.workflow_id).where(
        UserWorkflow.user_id == user_id,
        sa.or_(UserWorkflow.valid_until.is_(None), UserWorkflow.valid_until > sa.func.now()),
    )


def _readings(uuid_or_name: uuid.UUID | str) -> list[list[sa.ColumnElement[bool]]]:
    """Return what ``uuid_or_name`` can mean, the likeliest first."""
    if isinstance(uuid_or_name, uuid.UUID):
        return [[Workflow.id_ == uuid_or_name]]
    if not is_text(uuid_or_name):
        return []  # The database has no place for it, so no name has it.
    readings: list[list[sa.ColumnElement[bool]]] = []
    with suppress(ValueError):
        readings.append([Workflow.id_ == uuid.UUID(uuid_or_name)])
    parts = uuid_or_name.split(".")
    for taken in (2, 1):
        name, number = ".".join(parts[:-taken]), ".".join(parts[-taken:])
        if not name:
            continue
        try:
            major, minor = split_run_number(number)
        except errors.RunNumberError:
            continue
        readings.append(
            [
                Workflow.name == name,
                Workflow.run_number_major == major,
                Workflow.run_number_minor == minor,
            ]
        )
    readings.append([Workflow.name == uuid_or_name])
    return readings


def list_workflows(
    session: Session,
    user_id: uuid.UUID | str,
    *,
    statuses: Sequence[RunStatus] | None = None,
    limit: int = 100,
    after: Workflow | None = None,
) -> Sequence[Workflow]:
    """Return the user's runs, newest first; specifications and logs are not loaded.

    :param after: the last run of the page before.
    """
    query = (
        sa.select(Workflow)
        .where(Workflow.owner_id == parse_id(user_id, "user id"))
        .order_by(Workflow.id_.desc())
        .limit(limit)
    )
    if statuses is not None:
        query = query.where(Workflow.status.in_(statuses))
    if after is not None:
        query = query.where(Workflow.id_ < after.id_)
    return session.scalars(query).all()


def count_by_status(session: Session, user_id: uuid.UUID | str) -> dict[RunStatus, int]:
    """Return how many runs of the user's have which status; a status that none has is not there."""
    rows = session.connection().execute(_COUNT_BY_STATUS, {"user": str(parse_id(user_id, "user id"))})
    return {RunStatus(row.status): row.runs for row in rows}


_COUNT_BY_STATUS = sa.text(
    f"""
    SELECT status, count(*) AS runs FROM {SCHEMA}.workflow
    WHERE owner_id = CAST(:user AS uuid) GROUP BY status ORDER BY status
    """
)


def update_workflow_status(
    session: Session,
    workflow_uuid: uuid.UUID | str,
    status: RunStatus,
    new_logs: str | bytes = "",
    message: str | None = None,
    quota_types: Iterable[ResourceType | str] | None = None,
) -> RunStatus:
    """Set a run's status, append to its log, and return the stored status.

    A run that ends has its processing time counted at once, and its workspace marked for the next disk run,
    as ``PLATFORM_DB_WORKFLOW_TERMINATION_QUOTA_UPDATE_POLICY`` says.

    :param new_logs: appended to the run's log, even where the status does not change.
    :param message: the reason, for the history.
    :param quota_types: what to update if the run ends, whatever the policy says.
    :raises errors.InvalidTransition: the stored status does not allow it; nothing is appended.
    :raises errors.WorkflowNotFound: there is no such run.
    """
    workflow_id = parse_id(workflow_uuid, "workflow id")
    stored = transition(session, workflow_id, RunStatus(status), reason=message)
    if new_logs:
        append_log(session, workflow_id, new_logs)
    if stored in ENDED:
        account_for_ended_run(session, workflow_id, quota_types)
    return RunStatus(stored)
