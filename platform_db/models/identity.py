"""Whose id is meant, where a function takes a user or a user's id."""

from __future__ import annotations

import uuid

import sqlalchemy as sa

from platform_db.identifiers import parse_id
from platform_db.models.user import User

UserOrId = User | uuid.UUID | str


def user_id_of(user: UserOrId) -> uuid.UUID:
    """Return a user's id, also of one whose attributes a commit has expired, without loading them.

    :raises errors.InvalidIdentifier: this is no id.
    """
    if not isinstance(user, User):
        return parse_id(user, "user id")
    identity = sa.inspect(user).identity
    return identity[0] if identity else user.id_
