"""Lists of a run's jobs."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.database.session import takes_session
from platform_db.models import Job, Workflow


@takes_session
def list_jobs(session: Session, workflow: Workflow) -> Sequence[Job]:
    """Return the jobs of a run, oldest first."""
    query = sa.select(Job).where(Job.owner_id == workflow.owner_id, Job.workflow_id == workflow.id_)
    return session.scalars(query.order_by(Job.id_)).all()
