"""Retention rules: which files of a workspace go, and when."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column, relationship

from platform_db.models.base import Base, Guarded, OfWorkflow, tenant_foreign_key, tenant_keys
from platform_db.models.types import Timestamp, native_enum
from platform_db.states import WorkspaceRetentionRuleStatus

if TYPE_CHECKING:
    from platform_db.models.workflow import Workflow


class WorkspaceRetentionRule(OfWorkflow, Guarded, Base):
    """A rule: files that match ``workspace_files`` go ``retention_days`` after the run has ended.

    The database activates a run's rules when it finishes or fails, and inactivates them when a run that
    shares the workspace is restarted.
    """

    workspace_files: Mapped[str] = mapped_column(sa.Text)
    retention_days: Mapped[int]
    apply_on: Mapped[datetime | None] = mapped_column(Timestamp)
    status: Mapped[WorkspaceRetentionRuleStatus] = mapped_column(
        native_enum(WorkspaceRetentionRuleStatus, "workspace_retention_rule_status"), server_default="created"
    )

    workflow: Mapped[Workflow] = relationship(back_populates="retention_rules")
    audit_logs: Mapped[list[WorkspaceRetentionAuditLog]] = relationship(
        viewonly=True, order_by="WorkspaceRetentionAuditLog.id_"
    )

    __table_args__ = (
        *tenant_keys(),
        tenant_foreign_key("workflow_id", "workflow"),
        sa.UniqueConstraint("owner_id", "workflow_id", "workspace_files"),
        sa.Index("ix_workspace_retention_rule_status_apply_on", "status", "apply_on"),
        # A century: with more days, the date to apply it on would be none that the run's end could compute.
        sa.CheckConstraint("retention_days BETWEEN 0 AND 36500", name="days_within_a_century"),
        sa.CheckConstraint("status <> 'active' OR apply_on IS NOT NULL", name="active_has_date"),
    )


class WorkspaceRetentionAuditLog(Base):
    """One change of a rule, written by the database."""

    id_: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(always=True))
    owner_id: Mapped[uuid.UUID]
    workspace_retention_rule_id: Mapped[uuid.UUID]
    status: Mapped[WorkspaceRetentionRuleStatus] = mapped_column(
        native_enum(WorkspaceRetentionRuleStatus, "workspace_retention_rule_status")
    )
    retention_days: Mapped[int]
    apply_on: Mapped[datetime | None] = mapped_column(Timestamp)
    at: Mapped[datetime] = mapped_column(Timestamp, server_default=sa.func.clock_timestamp())

    __table_args__ = (
        sa.PrimaryKeyConstraint("owner_id", "workspace_retention_rule_id", "id_"),
        tenant_foreign_key("workspace_retention_rule_id", "workspace_retention_rule"),
    )


class PruneMark(Base):
    """How far pruning has looked at a table whose rows it looks at once.

    :param name: the table.
    """

    name: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    until: Mapped[datetime] = mapped_column(Timestamp)
