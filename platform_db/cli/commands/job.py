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
from platform_db.cli.runs import find_job, find_run, owner_option, run_options
from platform_db.cli.show import show_row

if TYPE_CHECKING:
    from platform_db.models import Job

job = group(
    "job",
    "A run is named by its id or, with --user, by its name. An id may be given by its beginning.",
)


@job.command("list", example="job list analysis --user ada@example.org --status failed")
@run_options
@list_options("created", LARGEST_LIMIT)
@json_option
def list_(
    run: str,
    user: str | None,
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

    with session_scope() as session:
        found = find_run(session, run, user)
        wanted = read_filter(statuses, name, since, filters)
        of_run = {"owner_id": found.owner_id, "workflow_id": found.id_}
        page = find(session, Job, {**wanted, **of_run}, **chosen)
        show_page(page, map(_summary, page.rows), as_json, lambda row: row)


@job.command(example="job show fit --run analysis.2 --user ada@example.org")
@click.argument("job_id", metavar="JOB")
@click.option("--run", metavar="RUN", help="The run whose job it is: then JOB may be its name.")
@owner_option
@json_option
def show(job_id: str, run: str | None, user: str | None, as_json: bool) -> None:
    """Show JOB, by its id or, with --run, by its name."""
    from platform_db.models import Job
    from platform_db.query import describe, find_by_prefix

    if user is not None and run is None:
        raise click.UsageError("--user says whose run --run names: give both")
    with session_scope() as session:
        if run is None:
            found = find_by_prefix(session, Job, job_id)
        else:
            found = find_job(session, find_run(session, run, user), job_id)
        show_row(describe(found), as_json)


def _summary(job: Job) -> dict[str, Any]:
    return {
        "id": str(job.id_),
        "name": job.job_name,
        "status": job.status.value,
        "backend": job.compute_backend,
        "backend_id": job.backend_job_id,
        "created": job.created.isoformat(timespec="seconds"),
    }
