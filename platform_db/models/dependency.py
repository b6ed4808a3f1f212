"""The graph of a run: which job depends on which."""

from __future__ import annotations

import uuid

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from platform_db.models.base import Base, OfWorkflow, tenant_foreign_key


class JobDependency(OfWorkflow, Base):
    """An edge from a job to one that depends on it, in the same run.

    The database refuses edges between runs and edges that close a cycle (``schema/sql/dependencies.sql``).

    :param name: tells several edges between the same two jobs apart, such as the parameter that is passed on.
    :param kind: what the edge is, in the platform's own words.
    """

    parent_id: Mapped[uuid.UUID]
    child_id: Mapped[uuid.UUID]
    name: Mapped[str] = mapped_column(sa.Text, server_default="")
    kind: Mapped[str] = mapped_column(sa.Text, server_default="")

    __table_args__ = (
        sa.PrimaryKeyConstraint("owner_id", "workflow_id", "parent_id", "child_id", "name"),
        tenant_foreign_key("workflow_id", "workflow"),
        tenant_foreign_key("parent_id", "job"),
        tenant_foreign_key("child_id", "job"),
        sa.Index("ix_job_dependency_owner_id_parent_id", "owner_id", "parent_id"),
        sa.Index("ix_job_dependency_owner_id_child_id", "owner_id", "child_id"),
        # What is indexed must fit into an index entry.
        sa.CheckConstraint("octet_length(name) <= 1024", name="name_length"),
    )
