"""Results of runs and of their jobs."""

from __future__ import annotations

import uuid

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, deferred, mapped_column

from platform_db.models.base import (
    Base,
    Identified,
    OfWorkflow,
    Timestamped,
    partial_index,
    tenant_foreign_key,
    tenant_keys,
)


class WorkflowResult(OfWorkflow, Identified, Timestamped, Base):
    """A named result of a run, or of a job where ``job_id`` is set: its content, or where that is.

    What is stored here counts in the owner's "database storage" (``schema/sql/storage.sql``).

    :param size: bytes of the content.
    :param sha256: the digest of the content.
    :param file: the name of the file in the run's workspace that has the content, where ``data`` has not.
    :param former_file: the name of the file that the content before was in, if it was in one.
    """

    job_id: Mapped[uuid.UUID | None]
    name: Mapped[str] = mapped_column(sa.Text)
    media_type: Mapped[str] = mapped_column(sa.Text)
    size: Mapped[int] = mapped_column(sa.BigInteger)
    sha256: Mapped[bytes] = mapped_column(sa.LargeBinary)
    data: Mapped[bytes | None] = deferred(mapped_column(sa.LargeBinary))
    file: Mapped[uuid.UUID | None]
    former_file: Mapped[uuid.UUID | None]

    __table_args__ = (
        *tenant_keys(),
        sa.UniqueConstraint("owner_id", "workflow_id", "job_id", "name", postgresql_nulls_not_distinct=True),
        tenant_foreign_key("workflow_id", "workflow"),
        tenant_foreign_key("job_id", "job"),
        partial_index("ix_workflow_result_owner_id_job_id", "job_id IS NOT NULL", "owner_id", "job_id"),
        sa.CheckConstraint("octet_length(name) BETWEEN 1 AND 1024", name="name_length"),
        sa.CheckConstraint("octet_length(media_type) BETWEEN 1 AND 255", name="media_type_length"),
        sa.CheckConstraint("num_nonnulls(data, file) = 1", name="one_content"),
        sa.CheckConstraint("size >= 0 AND octet_length(data) = size", name="size_of_data"),
        sa.CheckConstraint("octet_length(sha256) = 32", name="sha256_length"),
    )
