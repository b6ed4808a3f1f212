"""Where a dispatch belongs: the outermost one, and the electron's job that dispatched it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.integrations.covalent.dispatches import (
    DISPATCH,
    KINDS,
    SUBLATTICE,
    Electron,
    dispatch_id_of,
    is_stored,
    job_id_of,
    lock_run,
)
from platform_db.models import Job, RunStatus, Workflow


class Place(NamedTuple):
    """Where a dispatch belongs; JSON's values.

    :param root_dispatch_id: the outermost dispatch, which may be itself.
    :param parent_job_id: the job of the electron that dispatched it, where that is known.
    """

    root_dispatch_id: str
    parent_job_id: str | None


def place_below(session: Session, owner_id: uuid.UUID, id_: uuid.UUID, parent: Electron) -> Place:
    """Note a dispatch at the electron that dispatched it, and return its place.

    :raises errors.NotFound: there is no such electron.
    :raises errors.InvalidArgument: it belongs to this very dispatch, or to one of its sublattices.
    """
    parent_id = dispatch_id_of(parent.dispatch_id)
    job_id = job_id_of(parent_id, parent.node_id)
    run = lock_run(session, owner_id, parent_id)
    job = None
    if run is not None and run.type_ in KINDS and run.status is not RunStatus.deleted:
        job = session.scalars(
            sa.select(Job)
            .where(Job.owner_id == owner_id, Job.id_ == job_id)
            .with_for_update(key_share=True)
            .execution_options(populate_existing=True)
        ).one_or_none()
    if run is None or job is None:
        raise errors.NotFound(f"there is no electron {parent.node_id} of a dispatch {parent_id}")
    root: str = run.engine_specific["root_dispatch_id"]
    if root == str(id_):
        raise errors.InvalidArgument(f"dispatch {id_} cannot be one of its own sublattices")
    job.attributes = {**job.attributes, "sub_dispatch_id": str(id_)}
    session.flush()
    return Place(root, str(job_id))


def place_in(session: Session, owner_id: uuid.UUID, id_: uuid.UUID, root: uuid.UUID | None) -> Place:
    """Return a dispatch's place below an outermost one; its parent is found where that names it."""
    if root in (None, id_):
        return Place(str(id_), None)
    named = Job.attributes["sub_dispatch_id"].astext == str(id_)
    parent = (
        sa.select(Job.id_)
        .join(Job.workflow)
        .where(is_stored(owner_id), sa.or_(Workflow.id_ == root, str(root) == ROOT), named)
        .limit(1)
    )
    job_id = session.scalar(parent)
    return Place(str(root), None if job_id is None else str(job_id))


def put(session: Session, run: Workflow, place: Place) -> None:
    """Put a dispatch, and what it has dispatched, in its place."""
    id_ = str(run.id_)
    former = run.engine_specific and run.engine_specific["root_dispatch_id"]
    run.type_ = DISPATCH if place == (id_, None) else SUBLATTICE
    run.engine_specific = {**(run.engine_specific or {}), **place._asdict()}
    if former == id_ != place.root_dispatch_id:
        moved = sa.func.jsonb_set(
            Workflow.engine_specific, ["root_dispatch_id"], sa.literal(place.root_dispatch_id, JSONB)
        )
        session.execute(
            sa.update(Workflow)
            .where(Workflow.owner_id == run.owner_id, Workflow.type_ == SUBLATTICE, id_ == ROOT)
            .values(engine_specific=moved)
            .execution_options(synchronize_session="fetch")
        )


def adopt(session: Session, run: Workflow, job_ids: Mapping[uuid.UUID, uuid.UUID]) -> None:
    """Put those that a dispatch's electrons name in their places, as far as they are stored.

    :param job_ids: the electron's job for each.
    """
    root: str = run.engine_specific["root_dispatch_id"]
    for id_ in sorted(job_ids.keys() - {run.id_, uuid.UUID(root)}):
        child = lock_run(session, run.owner_id, id_)
        if child is not None and child.type_ in KINDS:
            put(session, child, Place(root, str(job_ids[id_])))
    session.flush()


ROOT: Any = sa.func.jsonb_extract_path_text(Workflow.engine_specific, "root_dispatch_id")
"""The id of the outermost dispatch, in SQL."""
