"""Column types that the models share."""

from __future__ import annotations

import enum

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ENUM, JSONB

from platform_db.identifiers import SCHEMA

Json = JSONB(none_as_null=True)
Timestamp = sa.DateTime(timezone=True)

# Which transaction wrote a row. A reader that pages on keeps its snapshot, and so finds what committed late.
CURRENT_TRANSACTION = sa.text("pg_current_xact_id()::text::bigint")


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
