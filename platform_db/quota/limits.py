"""Setting a user's limit, and changing what is used only inside it."""

from __future__ import annotations

from sqlalchemy.orm import Session

from platform_db import units
from platform_db.audit import recorded_as
from platform_db.bounds import require_amount
from platform_db.database.session import takes_session
from platform_db.models import Resource, ResourceType, ResourceUnit, UserResource
from platform_db.models.identity import UserOrId, user_id_of
from platform_db.quota.resources import get_resource, lock_users

UNLIMITED = "unlimited"


@takes_session
def set_limit(
    session: Session,
    user: UserOrId,
    resource: Resource | ResourceType | str,
    limit: int | None,
    *,
    actor: UserOrId | None = None,
) -> int | None:
    """Set how much of a resource a user may use, and return the limit before; a change is recorded.

    :param resource: a resource, its name, or a type for the default one of that type.
    :param limit: in the resource's unit; None is unlimited, 0 is none.
    :param actor: the user who sets it, for the audit log.
    :raises errors.UserNotFound: there is no such user.
    :raises errors.ResourceNotFound: there is no such resource.
    :raises errors.InvalidArgument: the limit is negative, or more than a ``bigint`` column holds.
    """
    if limit is not None:
        require_amount(limit, "limit")
    session.flush()
    user_id, found = user_id_of(user), get_resource(session, resource)
    lock_users(session, [user_id], found)
    with recorded_as(session, actor_id=None if actor is None else user_id_of(actor)):
        total = session.get_one(UserResource, (user_id, found.id_), populate_existing=True)
        before, total.quota_limit = total.quota_limit, limit
        session.flush()
    return before


def parse_limit(unit: ResourceUnit, text: str) -> int | None:
    """Read a limit: ``50GiB``, ``100h``, ``unlimited`` (None); a bare number is in bytes or milliseconds.

    :raises errors.InvalidArgument: it is something else, or negative.
    """
    if text.strip().lower() == UNLIMITED:
        return None
    parse = units.parse_bytes if unit is ResourceUnit.bytes_ else units.parse_milliseconds
    return require_amount(parse(text), "limit")


def format_limit(unit: ResourceUnit, limit: int | None) -> str:
    """Write a limit as people read it."""
    return UNLIMITED if limit is None else ResourceUnit.human_readable_unit(unit, limit)
