"""``platform-db job``: showing jobs."""

from __future__ import annotations

import click

from platform_db.cli.command import group
from platform_db.cli.database import session_scope
from platform_db.cli.options import json_option
from platform_db.cli.show import show_row, show_rows

job = group("job", "An id may be given by its beginning.")


@job.command("list", example="job list 0198c2f1")
@click.argument("run")
@json_option
def list_(run: str, as_json: bool) -> None:
    """List the jobs of RUN, oldest first."""
    from platform_db.bounds import LARGEST_LIMIT
    from platform_db.cursors import read_all
    from platform_db.jobs import list_jobs
    from platform_db.workflows import find_workflow

    with session_scope() as session:
        found = find_workflow(session, run)
        rows = (
            {
                "id": str(job.id_),
                "name": job.job_name,
                "status": job.status.value,
                "backend": job.compute_backend,
                "backend_id": job.backend_job_id,
                "created": job.created.isoformat(timespec="seconds"),
            }
            for job in read_all(lambda cursor: list_jobs(session, found, limit=LARGEST_LIMIT, cursor=cursor))
        )
        show_rows(rows, as_json)


@job.command(example="job show 0198c2f1")
@click.argument("job_id", metavar="JOB")
@json_option
def show(job_id: str, as_json: bool) -> None:
    """Show JOB."""
    from platform_db.models import Job
    from platform_db.query import describe, find_by_prefix

    with session_scope() as session:
        show_row(describe(find_by_prefix(session, Job, job_id)), as_json)
