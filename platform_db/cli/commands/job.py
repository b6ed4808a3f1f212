"""``platform-db job``: showing jobs."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from platform_db.bounds import LARGEST_LIMIT
from platform_db.cli.command import group
from platform_db.cli.database import session_scope
from platform_db.cli.listing import list_options, read_filter, show_page
from platform_db.cli.options import json_option
from platform_db.cli.show import show_row

if TYPE_CHECKING:
    from platform_db.models import Job

job = group("job", "An id may be given by its beginning.")


@job.command("list", example="job list 0198c2f1 --status failed")
@click.argument("run")
@list_options("created", LARGEST_LIMIT)
@json_option
def list_(
    run: str,
    statuses: tuple[str, ...],
    name: str | None,
    since: datetime | None,
    filters: tuple[str, ...],
    as_json: bool,
    **chosen: Any,
) -> None:
    """List the jobs of RUN, oldest first."""
    from platform_db.models import Job
    from platform_db.query import find
    from platform_db.workflows import find_workflow

    with session_scope() as session:
        found = find_workflow(session, run)
        wanted = read_filter(statuses, name, since, filters)
        of_run = {"owner_id": found.owner_id, "workflow_id": found.id_}
        page = find(session, Job, {**wanted, **of_run}, **chosen)
        show_page(page, map(_summary, page.rows), as_json, lambda row: row)


@job.command(example="job show 0198c2f1")
@click.argument("job_id", metavar="JOB")
@json_option
def show(job_id: str, as_json: bool) -> None:
    """Show JOB."""
    from platform_db.models import Job
    from platform_db.query import describe, find_by_prefix

    with session_scope() as session:
        show_row(describe(find_by_prefix(session, Job, job_id)), as_json)


def _summary(job: Job) -> dict[str, Any]:
    return {
        "id": str(job.id_),
        "name": job.job_name,
        "status": job.status.value,
        "backend": job.compute_backend,
        "backend_id": job.backend_job_id,
        "created": job.created.isoformat(timespec="seconds"),
    }
