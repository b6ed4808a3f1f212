"""Lists of a user's runs, and how many have which status."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.cursors import Page
from platform_db.database.session import takes_session
from platform_db.identifiers import parse_id
from platform_db.models import Workflow
from platform_db.query.find import find
from platform_db.states import WORKFLOW, RunStatus


@takes_session
def list_workflows(
    session: Session,
    user_id: uuid.UUID | str | None,
    *,
    statuses: Sequence[RunStatus | str] | None = None,
    limit: int = 100,
    cursor: str | None = None,
    scan: bool = False,
) -> Page[Workflow]:
    """Return a page of the user's runs, newest first; specifications and logs are not loaded.

    :param user_id: the user; None for the runs of all users: of any status, or in progress.
    :param statuses: only runs with one of these, or of these names.
    :param cursor: where the page before ended, with the same arguments.
    :param scan: read the whole table, if need be.
    :raises errors.InvalidIdentifier: this list gave no such cursor.
    :raises errors.UnknownStatus: there is no status of this name.
    :raises errors.Refused: nothing serves this across all users.
    """
    filter_: dict[str, Any] = {} if user_id is None else {"owner_id": parse_id(user_id, "user id")}
    if statuses is not None:
        filter_["status"] = {"$in": sorted({WORKFLOW.status(status) for status in statuses})}
    return find(session, Workflow, filter_, limit=limit, cursor=cursor, scan=scan)


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
