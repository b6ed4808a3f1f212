"""Jobs: the steps of a run, as they were observed on a compute backend."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, WriteOnlyMapped, deferred, foreign, mapped_column, relationship

from platform_db.models.base import (
    CHANGED_OFTEN,
    REWRITTEN_OFTEN,
    SET_BY_TRIGGER,
    STORAGE,
    Base,
    Guarded,
    Identified,
    OfWorkflow,
    Timestamped,
    partial_index,
    tenant_foreign_key,
    tenant_keys,
)
from platform_db.models.log import HasLog
from platform_db.models.log_chunk import LogChunk
from platform_db.models.types import Json, Timestamp, native_enum
from platform_db.states import JobStatus

if TYPE_CHECKING:
    from platform_db.models.workflow import Workflow


class Job(HasLog, OfWorkflow, Guarded, Base):
    """One job of a run.

    :param phase: how far the job is in the engine's own words, such as ``publishing``; each is kept in the
        history, as a note with the topic ``phase``.
    """

    backend_job_id: Mapped[str | None] = mapped_column(sa.Text)
    compute_backend: Mapped[str | None] = mapped_column(sa.Text)
    job_name: Mapped[str | None] = mapped_column(sa.Text)
    status: Mapped[JobStatus] = mapped_column(native_enum(JobStatus, "job_status"), server_default="created")
    phase: Mapped[str | None] = mapped_column(sa.Text)
    container_image: Mapped[str | None] = mapped_column(sa.Text)
    command: Mapped[str | None] = deferred(mapped_column(sa.Text))
    environment: Mapped[Any] = deferred(mapped_column(Json, nullable=True))
    attributes: Mapped[dict[str, Any]] = mapped_column(Json, server_default="{}")
    deleted: Mapped[bool] = mapped_column(server_default="false")
    started_at: Mapped[datetime | None] = mapped_column(Timestamp, **SET_BY_TRIGGER)
    finished_at: Mapped[datetime | None] = mapped_column(Timestamp, **SET_BY_TRIGGER)

    workflow: Mapped[Workflow] = relationship(back_populates="jobs")
    cached: Mapped[list[JobCache]] = relationship(back_populates="job", passive_deletes=True)
    log_chunks: WriteOnlyMapped[LogChunk] = relationship(
        # A piece of a job's log is its run's, too.
        primaryjoin=lambda: sa.and_(
            Job.owner_id == foreign(LogChunk.owner_id),
            Job.workflow_id == foreign(LogChunk.workflow_id),
            Job.id_ == foreign(LogChunk.job_id),
        ),
        passive_deletes=True,
        order_by=LogChunk.number,
        overlaps="log_chunks",
    )

    __table_args__ = (
        *tenant_keys(),
        tenant_foreign_key("workflow_id", "workflow"),
        sa.Index("ix_job_owner_id_workflow_id", "owner_id", "workflow_id", "created", "id_"),
        sa.Index("ix_job_compute_backend_backend_job_id", "compute_backend", "backend_job_id"),
        # By the run: recovery probes it for each run that has jobs alive, and not for each job.
        partial_index(
            "ix_job_in_progress_workflow_id",
            "status IN ('created', 'queued', 'running')",
            "owner_id",
            "workflow_id",
        ),
        partial_index("ix_job_queue", "(status = 'queued') IS TRUE", "owner_id", "created", "id_"),
        sa.CheckConstraint("octet_length(phase) BETWEEN 1 AND 255", name="phase_length"),
        sa.CheckConstraint("status <> 'running' OR started_at IS NOT NULL", name="running_has_start"),
        sa.CheckConstraint(
            "status NOT IN ('finished', 'failed', 'stopped') OR finished_at IS NOT NULL",
            name="finished_has_end",
        ),
        {"info": {STORAGE: f"fillfactor = 80, {CHANGED_OFTEN}"}},
    )

    def _own_chunks(self) -> tuple[sa.ColumnElement[bool], ...]:
        owned = LogChunk.owner_id == self.owner_id
        return (owned, LogChunk.workflow_id == self.workflow_id, LogChunk.job_id == self.id_)


class JobCache(Identified, Timestamped, Base):
    """The result of a job, to be found again by its parameters and the hash of its workspace.

    Found by a digest of the two, because parameters outgrow what an index entry can hold. A job may be cached
    before its result is known, with neither of them: it is found once both are set, beside the path, and then
    takes the place of an older result for the same.
    """

    owner_from = ("job_id", "Job")

    owner_id: Mapped[uuid.UUID]
    job_id: Mapped[uuid.UUID]
    parameters: Mapped[str | None] = deferred(mapped_column(sa.Text))
    workspace_hash: Mapped[str | None] = mapped_column(sa.Text)
    result_path: Mapped[str | None] = mapped_column(sa.Text)
    digest: Mapped[bytes | None] = mapped_column(
        sa.LargeBinary, sa.Computed("platform.job_cache_digest(parameters, workspace_hash)", persisted=True)
    )

    job: Mapped[Job] = relationship(back_populates="cached")
    use: Mapped[JobCacheUse | None] = relationship(passive_deletes=True)

    __table_args__ = (
        *tenant_keys(),
        sa.UniqueConstraint("owner_id", "digest"),
        tenant_foreign_key("job_id", "job"),
        sa.Index("ix_job_cache_owner_id_job_id", "owner_id", "job_id"),
        sa.CheckConstraint("digest IS NULL OR result_path IS NOT NULL", name="result_has_path"),
        {"info": {STORAGE: CHANGED_OFTEN}},
    )


class JobCacheUse(Base):
    """How often and when a cached result was last used: beside it, so that a hit does not rewrite it."""

    owner_from = ("job_cache_id", "JobCache")

    owner_id: Mapped[uuid.UUID]
    job_cache_id: Mapped[uuid.UUID]
    hits: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    last_hit_at: Mapped[datetime | None] = mapped_column(Timestamp)

    __table_args__ = (
        sa.PrimaryKeyConstraint("owner_id", "job_cache_id"),
        tenant_foreign_key("job_cache_id", "job_cache"),
        sa.CheckConstraint("hits >= 0", name="hits_not_negative"),
        {"info": {STORAGE: f"fillfactor = 70, {REWRITTEN_OFTEN}"}},
    )
