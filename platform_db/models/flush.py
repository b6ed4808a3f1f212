"""What the models complete at flush: owners of children, run numbers, and a new user's quota limits.

Each does its work for the whole flush in one statement, whatever the number of rows.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session, UOWTransaction

from platform_db.models.base import Base
from platform_db.models.resource import UserResource
from platform_db.models.run_number import assign_run_numbers
from platform_db.models.user import User
from platform_db.models.workflow import Workflow


@event.listens_for(Session, "before_flush")
def complete_new_rows(session: Session, context: UOWTransaction, instances: Any) -> None:
    """Fill in what new rows need before they are written."""
    new = [row for row in session.new if isinstance(row, Base)]
    if not new:
        return
    _give_owners(session, [row for row in new if type(row).owner_from is not None])
    workflows = [row for row in new if isinstance(row, Workflow)]
    if workflows:
        for workflow in workflows:
            workflow.take_defaults_from_owner()
        assign_run_numbers(session, workflows)


@event.listens_for(Session, "after_flush")
def give_new_users_their_limits(session: Session, context: UOWTransaction) -> None:
    """Give each new user the default limit of every resource."""
    users = [row.id_ for row in session.new if isinstance(row, User)]
    if users:
        UserResource.create_defaults(session, users)


def _give_owners(session: Session, children: Iterable[Base]) -> None:
    """Set ``owner_id`` of the children that were given only their parent's id."""
    orphans: dict[str, dict[uuid.UUID, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for child in children:
        attribute, parent = type(child).owner_from or ("", "")
        parent_id = getattr(child, attribute)
        if parent_id is not None and getattr(child, type(child).tenant_column or "") is None:
            orphans[parent][uuid.UUID(str(parent_id))].append(child)
    for parent, waiting in orphans.items():
        for parent_id, owner_id in _owners(session, parent, list(waiting)):
            for child in waiting[parent_id]:
                child.owner_id = owner_id


def _owners(session: Session, parent: str, ids: list[uuid.UUID]) -> Iterable[tuple[uuid.UUID, uuid.UUID]]:
    """Return the id and the owner's id of the parents: of new ones from the session, of others stored."""
    model = next(mapper.class_ for mapper in Base.registry.mappers if mapper.class_.__name__ == parent)
    new = [(row.id_, row.owner_id) for row in session.new if isinstance(row, model) and row.owner_id]
    missing = set(ids) - {id_ for id_, _ in new}
    stored = (
        session.connection().execute(
            sa.select(model.id_, model.owner_id).where(
                model.id_ == sa.any_(sa.bindparam("ids", list(missing), ARRAY(sa.Uuid)))
            )
        )
        if missing
        else ()
    )
    return [*(pair for pair in new if pair[0] in set(ids)), *((row[0], row[1]) for row in stored)]
