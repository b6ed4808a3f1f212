"""Sharing: who else may read a workflow, and until when."""

from __future__ import annotations

import enum
import uuid
from datetime import datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column, relationship

from platform_db.models.base import Base, OfWorkflow, Timestamped, tenant_foreign_key
from platform_db.models.types import Timestamp, native_enum

if TYPE_CHECKING:
    from platform_db.models.user import User
    from platform_db.models.workflow import Workflow


class AccessType(str, enum.Enum):
    """What a share allows."""

    read = "read"


class UserWorkflow(OfWorkflow, Timestamped, Base):
    """A workflow shared with a user. Once ``valid_until`` has passed, it grants nothing."""

    user_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("platform.user_.id_", ondelete="CASCADE"))
    access_type: Mapped[AccessType] = mapped_column(
        native_enum(AccessType, "workflow_access_type"), server_default="read"
    )
    message: Mapped[str | None] = mapped_column(sa.Text)
    valid_until: Mapped[datetime | None] = mapped_column(Timestamp)

    workflow: Mapped[Workflow] = relationship(back_populates="shares")
    user: Mapped[User] = relationship()

    @classmethod
    def grants(cls) -> sa.ColumnElement[bool]:
        """Return the condition that the share's time is not over."""
        return sa.or_(cls.valid_until.is_(None), cls.valid_until > sa.func.now())

    __table_args__ = (
        sa.PrimaryKeyConstraint("owner_id", "workflow_id", "user_id"),
        tenant_foreign_key("workflow_id", "workflow"),
        sa.Index("ix_user_workflow_user_id", "user_id"),
        sa.CheckConstraint("user_id <> owner_id", name="not_with_owner"),
    )
