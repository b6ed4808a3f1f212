"""Deleting dispatches: marked now, as a user's act, and pruned later like other runs."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.database.session import takes_session
from platform_db.integrations.covalent.dispatches import dispatch_id_of, is_stored
from platform_db.integrations.covalent.listing import select_dispatches
from platform_db.integrations.covalent.statuses import ALL
from platform_db.models import Workflow
from platform_db.models.identity import UserOrId, user_id_of
from platform_db.workflows import delete_workflows

REASON = "deleted in Covalent's UI"


@takes_session
def delete_dispatches(
    session: Session, owner: UserOrId, dispatches: Sequence[uuid.UUID | str] | None
) -> dict[str, Any]:
    """Delete dispatches, and return which could be deleted, which could not, and a message for the user.

    Those that are unknown or deleted already cannot be, nor those that are running: they have to end before.
    An id that is given again is reported again, as one that is deleted by then. None and an empty list
    delete nothing.

    :raises errors.InvalidArgument: one is no id; then nothing is deleted.
    """
    owner_id = user_id_of(owner)
    ids = [dispatch_id_of(id_) for id_ in dispatches or ()]
    session.flush()
    stored = sa.select(Workflow.id_).where(is_stored(owner_id), Workflow.id_.in_(set(ids)))
    return _delete(session, owner_id, session.scalars(stored).all(), ids)


@takes_session
def delete_all(
    session: Session, owner: UserOrId, *, status_filter: str = ALL, search_string: str | None = ""
) -> dict[str, Any]:
    """Delete an owner's dispatches, sublattices among them, as :func:`delete_dispatches` does.

    :param status_filter: as :func:`list_dispatches` takes it.
    :param search_string: as the list's ``search``.
    :raises errors.InvalidArgument: a parameter has another value; then nothing is deleted.
    """
    owner_id = user_id_of(owner)
    session.flush()
    found = select_dispatches(owner_id, search_string, status_filter).with_only_columns(Workflow.id_)
    ids = session.scalars(found).all()
    return _delete(session, owner_id, ids, ids)


def _delete(
    session: Session, owner_id: uuid.UUID, stored: Sequence[uuid.UUID], asked: Sequence[uuid.UUID]
) -> dict[str, Any]:
    results = delete_workflows(session, stored, owner=owner_id, reason=REASON)
    deleted = {result.id_ for result in results if result.changed}
    success: list[str] = []
    failure: list[str] = []
    for id_ in asked:
        (success if id_ in deleted else failure).append(str(id_))
        deleted.discard(id_)
    if not success:
        message = "No dispatches were deleted"
    elif failure:
        message = "Some of the dispatches could not be deleted"
    else:
        message = "Dispatch(es) have been deleted successfully!"
    return {"success_items": success, "failure_items": failure, "message": message}
