"""Tags of executions, jobs, calls, tasks and values, with the history of their edits."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from platform_db.models.base import Base, OfTenant, tenant_reference, user_foreign_key
from platform_db.models.types import ByteOrdered, Json


class EntityTag(OfTenant, Base):
    """A key and a value on an entity of the call graph.

    :param entity_type: of what kind the entity is; ``Null`` marks a tag as deleted.
    :param is_current: false once an edit has replaced it.
    """

    tag_hash: Mapped[str] = mapped_column(ByteOrdered)
    entity_type: Mapped[str] = mapped_column(ByteOrdered)
    entity_id: Mapped[str] = mapped_column(ByteOrdered)
    key: Mapped[str] = mapped_column(ByteOrdered)
    value: Mapped[Any] = mapped_column(Json)
    is_current: Mapped[bool] = mapped_column(server_default=sa.true())

    __table_args__ = (
        sa.PrimaryKeyConstraint("owner_id", "tag_hash"),
        user_foreign_key(),
        sa.CheckConstraint(
            "entity_type IN ('Execution', 'Job', 'CallNode', 'Task', 'Value', 'Null')",
            name="known_entity_type",
        ),
        sa.Index(None, "owner_id", "entity_id", "key"),
        sa.Index(None, "owner_id", "key"),
        # The context of a call is a value, which the tag alone refers to.
        sa.Index(
            "ix_entity_tag_context",
            "owner_id",
            sa.text("(value #>> '{}')"),
            postgresql_where="key = 'redun.context'",
        ),
    )


class EntityTagEdit(OfTenant, Base):
    """A tag that took the place of another."""

    parent_id: Mapped[str] = mapped_column(ByteOrdered)
    child_id: Mapped[str] = mapped_column(ByteOrdered)

    __table_args__ = (
        sa.PrimaryKeyConstraint("owner_id", "parent_id", "child_id"),
        tenant_reference("parent_id", "entity_tag.tag_hash", ondelete="CASCADE"),
        tenant_reference("child_id", "entity_tag.tag_hash", ondelete="CASCADE"),
        sa.Index(None, "owner_id", "child_id"),
    )
