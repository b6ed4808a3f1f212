"""What the commands share that take a run, or a job of one."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import click

from platform_db.cli.options import options, user_option

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from platform_db.models import Job, Workflow

owner_option = user_option("Only this user's")
run_options = options(click.argument("run"), owner_option)


def find_run(session: Session, run: str, user: str | None) -> Workflow:
    """Return the run that is meant, of this user where one is named."""
    return find_run_of(session, run, find_owner(session, user))


def find_owner(session: Session, user: str | None) -> uuid.UUID | None:
    """Return the id of the user who is named, if one is."""
    from platform_db.users import find_user

    return None if user is None else find_user(session, user).id_


def find_run_of(session: Session, run: str, owner_id: uuid.UUID | None) -> Workflow:
    """Return the run that is meant, of this owner if that is given."""
    from platform_db import errors
    from platform_db.workflows import find_workflow

    if owner_id is not None:
        return find_workflow(session, run, owner_id)
    try:
        return find_workflow(session, run)
    except errors.AmbiguousIdentifier:
        raise
    except errors.InvalidIdentifier as error:
        raise errors.InvalidIdentifier(str(error), hint="a run's name is looked for with --user") from None


def find_job(session: Session, run: Workflow, job: str) -> Job:
    """Return the job of a run that is meant: by its name, its id, or the beginning of that."""
    from platform_db import errors
    from platform_db.models import Job
    from platform_db.query import find, find_by_prefix

    of_run = {"owner_id": run.owner_id, "workflow_id": run.id_}
    named = find(session, Job, {**of_run, "name": job}, limit=2).rows
    if len(named) == 1:
        return named[0]
    if named:
        raise errors.AmbiguousIdentifier(
            f"several jobs of this run are called {job!r}", hint="name one by its id: job list shows them"
        )
    try:
        return find_by_prefix(session, Job, job, Job.owner_id == run.owner_id, Job.workflow_id == run.id_)
    except errors.AmbiguousIdentifier:
        raise
    except errors.InvalidIdentifier:
        raise errors.NotFound(f"this run has no job {job!r}") from None
