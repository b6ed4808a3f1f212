"""Lists of a user's runs, and how many have which status."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.cursors import Page
from platform_db.database.paging import read_page
from platform_db.database.session import takes_session
from platform_db.identifiers import parse_id
from platform_db.models import Workflow
from platform_db.states import WORKFLOW, RunStatus


@takes_session
def list_workflows(
    session: Session,
    user_id: uuid.UUID | str | None,
    *,
    statuses: Sequence[RunStatus | str] | None = None,
    limit: int = 100,
    cursor: str | None = None,
) -> Page[Workflow]:
    """Return a page of the user's runs, newest first; specifications and logs are not loaded.

    :param user_id: the user; None for the runs of all users.
    :param statuses: only runs with one of these, or of these names.
    :param cursor: where the page before ended, with the same arguments.
    :raises errors.InvalidIdentifier: this list gave no such cursor.
    :raises errors.UnknownStatus: there is no status of this name.
    """
    owner_id = None if user_id is None else parse_id(user_id, "user id")
    statement = sa.select(Workflow)
    if owner_id is not None:
        statement = statement.where(Workflow.owner_id == owner_id)
    if statuses is not None:
        statuses = sorted({WORKFLOW.status(status) for status in statuses})
        statement = statement.where(Workflow.status.in_(statuses))
    return read_page(
        session,
        statement,
        (Workflow.created, Workflow.id_),
        query=("workflows", owner_id, statuses),
        limit=limit,
        cursor=cursor,
    )


@takes_session
def count_by_status(session: Session, user_id: uuid.UUID | str) -> dict[RunStatus, int]:
    """Return how many runs of the user's have which status; a status that none has is not there."""
    rows = session.connection().execute(_COUNT_BY_STATUS, {"user": parse_id(user_id, "user id")})
    return {RunStatus(status): runs for status, runs in rows}


# A page asks for it each time: the ORM would double what it takes.
_COUNT_BY_STATUS = sa.text("""
    SELECT status, count(*) FROM platform.workflow
    WHERE owner_id = CAST(:user AS uuid) GROUP BY status ORDER BY status
    """)
