"""Which resource is meant, and which rows of users are locked before a figure of theirs is written."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.database.distribution import execute_for_users
from platform_db.database.session import takes_session
from platform_db.models import Resource, ResourceType, UserResource
from platform_db.models.resource import DEFAULT_RESOURCES

DEFAULT_NAMES: dict[str, str] = {type_: name for name, type_, _, _ in DEFAULT_RESOURCES}


@takes_session
def get_default_quota_resource(session: Session, type_: ResourceType | str) -> Resource:
    """Return the default resource of a type.

    "processing time" for ``cpu``, "shared storage" for ``disk``, "database storage" for ``database``.

    :raises errors.ResourceNotFound: the default resources were never created.
    :raises errors.InvalidArgument: there is no such type.
    """
    return get_resource(session, require_type(type_))


def require_type(type_: ResourceType | str) -> ResourceType:
    """Return the type of resources that has this name.

    :raises errors.InvalidArgument: there is none.
    """
    try:
        return ResourceType(type_)
    except ValueError:
        known = ", ".join(ResourceType.__members__)
        raise errors.InvalidArgument(
            f"there is no type of resources {type_!r}; choose from {known}"
        ) from None


class ResourceKey(NamedTuple):
    """What statements need to know of a resource."""

    id_: uuid.UUID
    name: str


AnyResource: TypeAlias = "Resource | ResourceKey"

_KEY = sa.text("SELECT id_, name FROM platform.resource WHERE name = :name")


def get_default_key(session: Session, type_: ResourceType) -> ResourceKey:
    """Return the key of a type's default resource, without the ORM: a job starts sooner without its mappers.

    :raises errors.ResourceNotFound: the default resources were never created.
    """
    row = session.connection().execute(_KEY, {"name": DEFAULT_NAMES[type_]}).one_or_none()
    if row is None:
        raise errors.ResourceNotFound(f"there is no resource {DEFAULT_NAMES[type_]!r}")
    return ResourceKey(*row)


def get_resource(session: Session, resource: Resource | ResourceType | str) -> Resource:
    """Return the resource that is meant: by itself, by its name, or the default one by its type.

    :raises errors.ResourceNotFound: there is none.
    """
    if isinstance(resource, Resource):
        return resource
    name = resource_name(resource)
    found = session.scalars(sa.select(Resource).where(Resource.name == name)).one_or_none()
    if found is None:
        is_default = name in DEFAULT_NAMES.values()
        hint = (
            None
            if is_default
            else "cpu, disk and database mean the default ones, others go by their own names"
        )
        raise errors.ResourceNotFound(f"there is no resource {name!r}", hint=hint)
    return found


def resource_name(resource: Resource | ResourceType | str) -> str:
    """Return the name of the resource that is meant; the database is not asked."""
    return resource.name if isinstance(resource, Resource) else DEFAULT_NAMES.get(resource, resource)


def locking(users: str) -> str:
    """Return the query that locks the rows of users, in the order that all writers have in common.

    :param users: what follows the id of a user that is meant.
    """
    return f"""
        SELECT owner_id, resource_id, quota_used FROM platform.user_resource WHERE owner_id {users}
        ORDER BY owner_id, resource_id FOR NO KEY UPDATE
    """


LOCK_USERS = sa.text(locking("= ANY(CAST(:users AS uuid[]))"))


def lock_users(session: Session, users: Iterable[uuid.UUID], resource: AnyResource) -> None:
    """Lock everything that the users have of any resource; see :func:`lock_remaining_users`.

    :raises errors.UserNotFound: there is no such user.
    """
    wanted = set(users)
    if missing := wanted - lock_remaining_users(session, wanted, resource):
        raise errors.UserNotFound(f"there is no user {min(missing)}")


def lock_remaining_users(
    session: Session, users: Iterable[uuid.UUID], resource: AnyResource
) -> set[uuid.UUID]:
    """Lock everything that the users have of any resource until the transaction ends; return who is there.

    Each writer of a user's figure locks these rows first, so that what the next statement reads stays as it
    is, and so that no two writers wait for each other, in whatever order they change what. A row that is
    missing is created, with the default limit. Jobs pass over users who were deleted meanwhile.
    """
    wanted = set(users)

    def lock(users: set[uuid.UUID]) -> set[uuid.UUID]:
        rows = execute_for_users(session.connection(), LOCK_USERS, users)
        return {row.owner_id for row in rows if row.resource_id == resource.id_}

    locked = lock(wanted)
    if missing := wanted - locked:
        UserResource.create_defaults(session, missing)
        locked |= lock(missing)
    return locked
