"""Lists of a run's jobs."""

from __future__ import annotations

from sqlalchemy.orm import Session

from platform_db.cursors import Page
from platform_db.database.session import takes_session
from platform_db.models import Job, Workflow
from platform_db.models.base import identity_of
from platform_db.query.find import find


@takes_session
def list_jobs(
    session: Session, workflow: Workflow, *, limit: int = 100, cursor: str | None = None
) -> Page[Job]:
    """Return a page of a run's jobs, oldest first.

    :param cursor: where the page before ended.
    :raises errors.InvalidIdentifier: this list gave no such cursor.
    """
    owner_id, workflow_id = identity_of(workflow)
    of_run = {"owner_id": owner_id, "workflow_id": workflow_id}
    return find(session, Job, of_run, sort="created", limit=limit, cursor=cursor)
