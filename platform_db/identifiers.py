"""Ids of rows, and the name of the schema that holds them."""

from __future__ import annotations

import uuid

import uuid_utils

from platform_db import errors

SCHEMA = "platform"


def new_id() -> uuid.UUID:
    """Return a new time-ordered id (UUIDv7, RFC 9562)."""
    return uuid.UUID(int=uuid_utils.uuid7().int)


def parse_id(value: str | uuid.UUID, what: str = "id") -> uuid.UUID:
    """Return ``value`` as a UUID.

    :raises errors.InvalidIdentifier: it is none; the server is never asked.
    """
    if isinstance(value, uuid.UUID):
        return value
    try:
        return uuid.UUID(value)
    except (ValueError, AttributeError, TypeError):
        raise errors.InvalidIdentifier(f"{value!r} is not a valid {what}: a UUID is needed") from None
