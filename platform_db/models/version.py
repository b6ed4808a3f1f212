"""Earlier versions of a run's specification."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, deferred, mapped_column

from platform_db.models.base import Base, OfWorkflow, tenant_foreign_key
from platform_db.models.types import Json, Timestamp


class WorkflowVersion(OfWorkflow, Base):
    """What a run was asked to do before it was changed; the run itself has the latest version.

    :param replaced_at: when the next version took its place.
    """

    version: Mapped[int]
    specification: Mapped[Any] = deferred(mapped_column(Json, nullable=True))
    labels: Mapped[dict[str, str]] = mapped_column(Json)
    priority: Mapped[int | None]
    replaced_at: Mapped[datetime] = mapped_column(Timestamp, server_default=sa.func.clock_timestamp())

    __table_args__ = (
        sa.PrimaryKeyConstraint("owner_id", "workflow_id", "version"),
        tenant_foreign_key("workflow_id", "workflow"),
        sa.CheckConstraint("version >= 1", name="version_positive"),
    )
