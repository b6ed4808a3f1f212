"""Lists of a run's jobs."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.cursors import Page
from platform_db.database.paging import read_page
from platform_db.database.session import takes_session
from platform_db.models import Job, Workflow
from platform_db.models.base import identity_of


@takes_session
def list_jobs(
    session: Session, workflow: Workflow, *, limit: int = 100, cursor: str | None = None
) -> Page[Job]:
    """Return a page of a run's jobs, oldest first.

    :param cursor: where the page before ended.
    :raises errors.InvalidIdentifier: this list gave no such cursor.
    """
    owner_id, workflow_id = identity_of(workflow)
    return read_page(
        session,
        sa.select(Job).where(Job.owner_id == owner_id, Job.workflow_id == workflow_id),
        (Job.created, Job.id_),
        query=("jobs", owner_id, workflow_id),
        limit=limit,
        cursor=cursor,
        descending=False,
    )
