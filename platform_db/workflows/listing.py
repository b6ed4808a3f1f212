"""Lists of a user's runs, and how many have which status."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.bounds import require_limit
from platform_db.identifiers import parse_id
from platform_db.models import Workflow
from platform_db.states import RunStatus


def list_workflows(
    session: Session,
    user_id: uuid.UUID | str | None,
    *,
    statuses: Sequence[RunStatus | str] | None = None,
    limit: int = 100,
    after: Workflow | None = None,
) -> Sequence[Workflow]:
    """Return the user's runs, newest first; specifications and logs are not loaded.

    :param user_id: the user; None for the runs of all users.
    :param statuses: only runs with one of these statuses, or of the statuses with these names.
    :param limit: how many at most.
    :param after: the last run of the page before.
    :raises errors.UnknownStatus: there is no status of this name.
    """
    query = sa.select(Workflow).order_by(Workflow.id_.desc()).limit(require_limit(limit))
    if user_id is not None:
        query = query.where(Workflow.owner_id == parse_id(user_id, "user id"))
    if statuses is not None:
        query = query.where(Workflow.status.in_([_status(status) for status in statuses]))
    if after is not None:
        query = query.where(Workflow.id_ < after.id_)
    return session.scalars(query).all()


def _status(name: RunStatus | str) -> RunStatus:
    try:
        return RunStatus(name)
    except ValueError:
        known = ", ".join(RunStatus)
        raise errors.UnknownStatus(f"a workflow has no status {name!r}, only {known}") from None


def count_by_status(session: Session, user_id: uuid.UUID | str) -> dict[RunStatus, int]:
    """Return how many runs of the user's have which status; a status that none has is not there."""
    rows = session.connection().execute(_COUNT_BY_STATUS, {"user": str(parse_id(user_id, "user id"))})
    return {RunStatus(row.status): row.runs for row in rows}


_COUNT_BY_STATUS = sa.text(
    """
    SELECT status, count(*) AS runs FROM platform.workflow
    WHERE owner_id = CAST(:user AS uuid) GROUP BY status ORDER BY status
    """
)
