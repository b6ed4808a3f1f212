"""Interactive sessions: notebooks and the like that users open, often on a run's workspace."""

from __future__ import annotations

import enum
import uuid
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column, relationship

from platform_db.crypto.column import Sealed
from platform_db.models.base import (
    CHANGED_OFTEN,
    STORAGE,
    Base,
    OfWorkflow,
    OnWorkflows,
    alive_index,
    partial_index,
    tenant_foreign_key,
)
from platform_db.models.resource import InteractiveSessionResource
from platform_db.models.secret import SecretAttribute, key_id_index, other_digests_column
from platform_db.models.types import native_enum

if TYPE_CHECKING:
    from platform_db.models.workflow import Workflow


class InteractiveSessionType(str, enum.Enum):
    """Kinds of interactive sessions."""

    jupyter = "jupyter"


class InteractiveSession(OnWorkflows, Base):
    """An interactive session. Its secret is encrypted, and found by a keyed digest."""

    path: Mapped[str] = mapped_column(sa.Text)
    type_: Mapped[InteractiveSessionType] = mapped_column(
        native_enum(InteractiveSessionType, "interactive_session_type"), server_default="jupyter"
    )
    encrypted_secret: Mapped[bytes | None] = mapped_column("secret", Sealed)
    secret_digest: Mapped[bytes | None] = mapped_column(Sealed)
    other_secret_digests: Mapped[list[bytes] | None] = other_digests_column()

    secret = SecretAttribute("encrypted_secret", "secret_digest", "other_secret_digests")

    workflows: Mapped[list[Workflow]] = relationship(
        secondary=lambda: WorkflowSession.__table__,
        back_populates="sessions",
        passive_deletes=True,
        order_by="(Workflow.created, Workflow.id_)",
    )
    resources: Mapped[list[InteractiveSessionResource]] = relationship(passive_deletes=True)

    __table_args__ = (
        *OnWorkflows.constraints(),
        sa.Index("ix_interactive_session_owner_id_created", "owner_id", "created", "id_"),
        partial_index("uq_interactive_session_owner_id_path", "status <> 'deleted'", "owner_id", "path"),
        alive_index("interactive_session"),
        key_id_index("interactive_session", "secret"),
        sa.CheckConstraint("(secret IS NULL) = (secret_digest IS NULL)", name="digest_beside_value"),
        {"info": {STORAGE: CHANGED_OFTEN}},
    )


class WorkflowLink(OfWorkflow):
    """A link of a workflow with a session or service of the same owner."""

    @staticmethod
    def constraints(column: str, to: str) -> tuple[sa.schema.SchemaItem, ...]:
        """Return the keys and the index of a table of links.

        :param column: refers to what the workflow is linked with.
        :param to: that row's table.
        """
        return (
            sa.PrimaryKeyConstraint("owner_id", "workflow_id", column),
            tenant_foreign_key("workflow_id", "workflow"),
            tenant_foreign_key(column, to),
            sa.Index(None, "owner_id", column),
        )


class WorkflowSession(WorkflowLink, Base):
    """The link between a workflow and an interactive session on it."""

    session_id: Mapped[uuid.UUID]

    __table_args__ = WorkflowLink.constraints("session_id", "interactive_session")
