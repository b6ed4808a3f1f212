"""Services: what runs beside a workflow on its behalf, such as a Dask cluster."""

from __future__ import annotations

import enum
import uuid
from datetime import datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, WriteOnlyMapped, mapped_column, relationship

from platform_db.models.base import (
    CHANGED_OFTEN,
    ONLY_GROWING,
    STORAGE,
    Base,
    OnWorkflows,
    alive_index,
    partial_index,
    session_of,
    tenant_foreign_key,
)
from platform_db.models.log_chunk import decode_log, encode_log
from platform_db.models.resource import ServiceResource
from platform_db.models.session import WorkflowLink
from platform_db.models.types import Timestamp, native_enum

if TYPE_CHECKING:
    from platform_db.models.workflow import Workflow


class ServiceType(str, enum.Enum):
    """Kinds of services."""

    dask = "dask"


class Service(OnWorkflows, Base):
    """A service of a user's workflows."""

    uri: Mapped[str | None] = mapped_column(sa.Text)
    type_: Mapped[ServiceType] = mapped_column(
        native_enum(ServiceType, "service_type"), server_default="dask"
    )

    workflows: Mapped[list[Workflow]] = relationship(
        secondary=lambda: WorkflowService.__table__,
        back_populates="services",
        passive_deletes=True,
        order_by="(Workflow.created, Workflow.id_)",
    )
    resources: Mapped[list[ServiceResource]] = relationship(passive_deletes=True)
    log_entries: WriteOnlyMapped[ServiceLog] = relationship(
        passive_deletes=True, order_by=lambda: ServiceLog.number
    )

    __table_args__ = (
        *OnWorkflows.constraints(),
        sa.Index("ix_service_owner_id_created", "owner_id", "created", "id_"),
        partial_index("uq_service_owner_id_name", "status <> 'deleted'", "owner_id", "name"),
        alive_index("service"),
        {"info": {STORAGE: CHANGED_OFTEN}},
    )

    def append_logs(self, text: str | bytes) -> None:
        """Append to the service's log."""
        self.log_entries.add(ServiceLog(data=encode_log(text)))

    @property
    def logs(self) -> str:
        """The service's log as one text; bytes that are not UTF-8 show as ``\\xff``."""
        session = session_of(self)
        session.flush()
        return decode_log(
            b"".join(session.scalars(self.log_entries.select().with_only_columns(ServiceLog.data)))
        )


class ServiceLog(Base):
    """A piece of a service's log; their order is that of their numbers."""

    owner_from = ("service_id", "Service")

    owner_id: Mapped[uuid.UUID]
    service_id: Mapped[uuid.UUID]
    number: Mapped[int] = mapped_column(sa.BigInteger, server_default=sa.FetchedValue())
    at: Mapped[datetime] = mapped_column(Timestamp, server_default=sa.FetchedValue())
    transaction_id: Mapped[int] = mapped_column(sa.BigInteger, server_default=sa.FetchedValue())
    data: Mapped[bytes] = mapped_column(sa.LargeBinary)

    __table_args__ = (
        sa.PrimaryKeyConstraint("owner_id", "service_id", "number"),
        tenant_foreign_key("service_id", "service"),
        {"info": {STORAGE: ONLY_GROWING}},
    )


class WorkflowService(WorkflowLink, Base):
    """The link between a workflow and a service that it uses."""

    service_id: Mapped[uuid.UUID]

    __table_args__ = WorkflowLink.constraints("service_id", "service")
