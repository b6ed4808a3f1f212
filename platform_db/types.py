"""Column types and identifiers that all models share."""

from __future__ import annotations

import enum
import uuid

import sqlalchemy as sa
import uuid_utils
from sqlalchemy.dialects.postgresql import ENUM, JSONB

from platform_db import errors

SCHEMA = "platform"

Json = JSONB(none_as_null=True)
Timestamp = sa.DateTime(timezone=True)

# Which transaction wrote a row. A reader that pages on keeps its snapshot, and so finds what committed late.
CURRENT_TRANSACTION = sa.text("pg_current_xact_id()::text::bigint")


class SealedBytes(bytes):
    """Encrypted or digested bytes: nothing that prints them shows them."""

    def __repr__(self) -> str:
        return "<sealed>"

    __str__ = __repr__


class Sealed(sa.TypeDecorator[bytes]):
    """A column of encrypted or digested bytes. SQLAlchemy logs the rows that it fetches: not these."""

    impl = sa.LargeBinary
    cache_ok = True

    def process_result_value(self, value: bytes | None, dialect: sa.Dialect) -> SealedBytes | None:
        """Hide what was fetched from whatever prints it."""
        return None if value is None else SealedBytes(value)


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


def is_text(text: str) -> bool:
    """Tell whether the database can store ``text``: it has no NUL and no half of a surrogate pair."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def native_enum(members: type[enum.Enum], name: str) -> ENUM:
    """Return the native enumeration ``platform.<name>`` that stores the members' values."""
    return ENUM(
        members,
        name=name,
        schema=SCHEMA,
        values_callable=lambda enumeration: [member.value for member in enumeration],
    )
