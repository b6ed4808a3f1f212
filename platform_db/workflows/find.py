"""Finding one run, by its id or by its name and number."""

from __future__ import annotations

import uuid
from contextlib import suppress

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.database.session import takes_session
from platform_db.identifiers import parse_id
from platform_db.models import Workflow, split_run_number
from platform_db.models.types import is_text
from platform_db.query.lookup import find_by_prefix
from platform_db.query.shared import shared_with


@takes_session
def get_workflow(
    session: Session, uuid_or_name: uuid.UUID | str, user_id: uuid.UUID | str, include_shared: bool = False
) -> Workflow:
    """Find a run of the user's.

    :param uuid_or_name: its id; or ``name`` (the latest run), ``name.2`` or ``name.2.1``. Where a run of
        ``name`` and a workflow that is called ``name.2`` both exist, the run is meant.
    :param include_shared: also find what others share with the user, by id or by name.
    :raises errors.WorkflowNotFound: there is none that the user may see.
    :raises errors.InvalidIdentifier: ``user_id`` is no UUID.
    """
    user = parse_id(user_id, "user id")
    own = sa.select(Workflow).where(Workflow.owner_id == user)
    # In a query of their own, driven from the few shares: one with an OR reads all tenants' runs.
    shares = shared_with(user).subquery()
    shared = sa.select(Workflow).join(
        shares, (Workflow.owner_id == shares.c.owner_id) & (Workflow.id_ == shares.c.workflow_id)
    )
    for criteria in _readings(uuid_or_name):
        for visible in (own, shared) if include_shared else (own,):
            workflow = session.scalars(
                visible.where(*criteria)
                .order_by(Workflow.run_number_major.desc(), Workflow.run_number_minor.desc())
                .limit(1)
            ).one_or_none()
            if workflow is not None:
                return workflow
    raise errors.WorkflowNotFound(f"there is no workflow {str(uuid_or_name)!r}")


@takes_session
def find_workflow(session: Session, run: str, user_id: uuid.UUID | str | None = None) -> Workflow:
    """Find a run as people write it: by its id or the beginning of it, or by the name of a user's run.

    :param run: an id, hexadecimal digits that an id begins with, or, with ``user_id``, what
        :func:`get_workflow` takes.
    :param user_id: find only this user's own runs.
    :raises errors.WorkflowNotFound: there is none.
    :raises errors.AmbiguousIdentifier: several ids begin so; names them.
    :raises errors.InvalidIdentifier: without ``user_id``, this is no id and no beginning of one.
    """
    if user_id is None:
        return find_by_prefix(session, Workflow, run)
    owner = parse_id(user_id, "user id")
    try:
        return get_workflow(session, run, owner)
    except errors.WorkflowNotFound as not_found:
        try:
            return find_by_prefix(session, Workflow, run, Workflow.owner_id == owner)
        except errors.AmbiguousIdentifier:
            raise
        except (errors.InvalidIdentifier, errors.WorkflowNotFound):
            raise not_found from None


def _readings(uuid_or_name: uuid.UUID | str) -> list[list[sa.ColumnElement[bool]]]:
    """Return what ``uuid_or_name`` can mean, the likeliest first."""
    if isinstance(uuid_or_name, uuid.UUID):
        return [[Workflow.id_ == uuid_or_name]]
    if not is_text(uuid_or_name):
        return []  # The database has no place for it, so no name has it.
    readings: list[list[sa.ColumnElement[bool]]] = []
    with suppress(ValueError):
        readings.append([Workflow.id_ == uuid.UUID(uuid_or_name)])
    parts = uuid_or_name.split(".")
    for taken in (2, 1):
        name, number = ".".join(parts[:-taken]), ".".join(parts[-taken:])
        if not name:
            continue
        with suppress(errors.RunNumberError):
            major, minor = split_run_number(number)
            numbered = [Workflow.run_number_major == major, Workflow.run_number_minor == minor]
            readings.append([Workflow.name == name, *numbered])
    readings.append([Workflow.name == uuid_or_name])
    return readings
