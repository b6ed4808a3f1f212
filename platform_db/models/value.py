"""Values of tasks: arguments, results, files and handles, each known by the hash of its content."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, deferred, mapped_column

from platform_db.models.base import (
    ONLY_GROWING,
    STORAGE,
    Base,
    OfTenant,
    tenant_reference,
    user_foreign_key,
)
from platform_db.models.types import ByteOrdered, Timestamp


class Value(OfTenant, Base):
    """A value of one owner's: two owners that have the same one have a row each.

    :param value_hash: what the client made of the content. It finds the owner's own value and no other's.
    :param type_: the name of the value's type.
    :param format_: the media type of the content.
    :param value: the content; empty where a store of files has it.
    :param size: bytes of the content, wherever it is. What is stored here counts in the owner's "database
        storage" (``schema/sql/storage.sql``).
    :param seen_at: when it was last recorded, or lost what referred to it. A day later it may be pruned
        where nothing refers to it.
    """

    value_hash: Mapped[str] = mapped_column(ByteOrdered)
    type_: Mapped[str] = mapped_column("type", ByteOrdered)
    format_: Mapped[str] = mapped_column("format", ByteOrdered)
    value: Mapped[bytes] = deferred(mapped_column(sa.LargeBinary, nullable=False))
    size: Mapped[int] = mapped_column(sa.BigInteger)
    seen_at: Mapped[datetime] = mapped_column(Timestamp, server_default=sa.func.statement_timestamp())

    __table_args__ = (
        sa.PrimaryKeyConstraint("owner_id", "value_hash"),
        user_foreign_key(),
        sa.Index(None, "owner_id", "type"),
        # Finds what was recorded in a span of time in few blocks, and costs a new row nothing.
        sa.Index("ix_value_seen_at", "seen_at", postgresql_using="brin"),
        sa.CheckConstraint("octet_length(value) IN (0, size)", name="size_of_value"),
        {"info": {STORAGE: ONLY_GROWING}},
    )


class Subvalue(OfTenant, Base):
    """A value that is part of another."""

    value_hash: Mapped[str] = mapped_column(ByteOrdered)
    parent_value_hash: Mapped[str] = mapped_column(ByteOrdered)

    __table_args__ = (
        sa.PrimaryKeyConstraint("owner_id", "parent_value_hash", "value_hash"),
        tenant_reference("parent_value_hash", "value.value_hash", ondelete="CASCADE"),
        tenant_reference("value_hash", "value.value_hash"),
        sa.Index(None, "owner_id", "value_hash"),
        {"info": {STORAGE: ONLY_GROWING}},
    )


class ValueFile(OfTenant, Base):
    """The path of a value that is a file."""

    value_hash: Mapped[str] = mapped_column(ByteOrdered)
    path: Mapped[str] = mapped_column(ByteOrdered)

    __table_args__ = (
        sa.PrimaryKeyConstraint("owner_id", "value_hash"),
        tenant_reference("value_hash", "value.value_hash", ondelete="CASCADE"),
        sa.Index(None, "owner_id", "path"),
        {"info": {STORAGE: ONLY_GROWING}},
    )


class Handle(OfTenant, Base):
    """A state of something outside, such as a connection, that tasks hand on and change.

    :param is_valid: false once an earlier state was taken up again.
    """

    hash: Mapped[str] = mapped_column(ByteOrdered)
    fullname: Mapped[str] = mapped_column(ByteOrdered)
    value_hash: Mapped[str] = mapped_column(ByteOrdered)
    key: Mapped[str] = mapped_column(ByteOrdered)
    is_valid: Mapped[bool] = mapped_column(server_default=sa.true())

    __table_args__ = (
        sa.PrimaryKeyConstraint("owner_id", "hash"),
        tenant_reference("value_hash", "value.value_hash"),
        sa.Index(None, "owner_id", "fullname"),
        sa.Index(None, "owner_id", "value_hash"),
    )


class HandleEdge(OfTenant, Base):
    """A state of a handle that came of another."""

    parent_id: Mapped[str] = mapped_column(ByteOrdered)
    child_id: Mapped[str] = mapped_column(ByteOrdered)

    __table_args__ = (
        sa.PrimaryKeyConstraint("owner_id", "parent_id", "child_id"),
        tenant_reference("parent_id", "handle.hash", ondelete="CASCADE"),
        tenant_reference("child_id", "handle.hash", ondelete="CASCADE"),
        sa.Index(None, "owner_id", "child_id"),
    )
