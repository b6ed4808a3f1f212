"""``platform-db job``: looking at jobs."""

from __future__ import annotations

import click

from platform_db.cli.database import session_scope
from platform_db.cli.show import as_json_option, show_row, show_rows


@click.group
def job() -> None:
    """Look at jobs; an id may be given by its beginning."""


@job.command("list")
@click.argument("run")
@as_json_option
def list_(run: str, as_json: bool) -> None:
    """List the jobs of RUN, oldest first."""
    import sqlalchemy as sa

    from platform_db.models import Job, Workflow
    from platform_db.query.lookup import find_by_prefix

    with session_scope() as session:
        found = find_by_prefix(session, Workflow, run)
        query = sa.select(Job).where(Job.owner_id == found.owner_id, Job.workflow_id == found.id_)
        jobs = [
            {
                "id": str(job.id_),
                "name": job.job_name,
                "status": job.status.value,
                "backend": job.compute_backend,
                "backend_id": job.backend_job_id,
                "created": job.created.isoformat(timespec="seconds"),
            }
            for job in session.scalars(query.order_by(Job.id_))
        ]
    show_rows(jobs, as_json)


@job.command
@click.argument("job_id", metavar="JOB")
@as_json_option
def show(job_id: str, as_json: bool) -> None:
    """Show JOB."""
    from platform_db.models import Job
    from platform_db.query.lookup import describe, find_by_prefix

    with session_scope() as session:
        show_row(describe(find_by_prefix(session, Job, job_id)), as_json)
