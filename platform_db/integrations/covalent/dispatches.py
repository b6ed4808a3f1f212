"""Which run is a dispatch, and which job is an electron."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session, undefer

from platform_db import errors
from platform_db.bounds import LARGEST_AMOUNT, require_amount
from platform_db.identifiers import parse_id
from platform_db.models import RunStatus, Workflow

DISPATCH = "covalent"
SUBLATTICE = "covalent-sublattice"
KINDS = (DISPATCH, SUBLATTICE)


class Electron(NamedTuple):
    """A node of a dispatch."""

    dispatch_id: uuid.UUID | str
    node_id: int


def dispatch_id_of(id_: uuid.UUID | str) -> uuid.UUID:
    """Return a dispatch's id, which is its run's.

    :raises errors.InvalidArgument: it is none.
    """
    try:
        return parse_id(id_, "dispatch id")
    except errors.InvalidIdentifier as error:
        raise errors.InvalidArgument(str(error)) from None


def job_id_of(dispatch_id: uuid.UUID, node_id: int) -> uuid.UUID:
    """Return the id of an electron's job; it follows from the dispatch, so that saving again finds it.

    :raises errors.InvalidArgument: the node's id is no number.
    """
    require_amount(node_id, "node id", smallest=-LARGEST_AMOUNT)
    return uuid.uuid5(dispatch_id, str(node_id))


def as_iso(time: datetime | None) -> str | None:
    """Return a time as text in ISO 8601."""
    return None if time is None else time.isoformat()


def is_stored(owner_id: uuid.UUID) -> sa.ColumnElement[bool]:
    """Return the condition that a run is a dispatch of the owner's which is not deleted."""
    return sa.and_(
        Workflow.owner_id == owner_id, Workflow.type_.in_(KINDS), Workflow.status != RunStatus.deleted
    )


def read_dispatch(
    session: Session, owner_id: uuid.UUID, dispatch_id: uuid.UUID | str, *columns: Any
) -> sa.Row[Any]:
    """Return a dispatch's id and these columns.

    :raises errors.InvalidArgument: this is no id.
    :raises errors.WorkflowNotFound: the owner has no such dispatch, or has deleted it.
    """
    id_ = dispatch_id_of(dispatch_id)
    session.flush()
    statement = sa.select(Workflow.id_, *columns).where(is_stored(owner_id), Workflow.id_ == id_)
    found = session.execute(statement).one_or_none()
    if found is None:
        raise errors.WorkflowNotFound(f"there is no dispatch {id_}")
    return found


def lock_run(session: Session, owner_id: uuid.UUID, id_: uuid.UUID) -> Workflow | None:
    """Return an owner's run with all that is stored of it, locked until the transaction ends."""
    return session.scalars(
        sa.select(Workflow)
        .where(Workflow.owner_id == owner_id, Workflow.id_ == id_)
        .options(undefer(Workflow.specification), undefer(Workflow.engine_specific))
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    ).one_or_none()
