"""Logs: append-only chunks of bytes, so that any program's output fits and no row is ever rewritten."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from platform_db.models.base import (
    ONLY_GROWING,
    REWRITTEN_OFTEN,
    STORAGE,
    Base,
    Identified,
    tenant_foreign_key,
)
from platform_db.models.types import CURRENT_TRANSACTION, Timestamp


class LogChunk(Identified, Base):
    """A piece of a run's log, or of a job's where ``job_id`` is set. Their order is that of their ids."""

    __tablename__ = "log_chunk"
    tenant_column = "owner_id"
    owner_from = ("workflow_id", "Workflow")

    owner_id: Mapped[uuid.UUID]
    workflow_id: Mapped[uuid.UUID]
    job_id: Mapped[uuid.UUID | None]
    at: Mapped[datetime] = mapped_column(Timestamp, server_default=sa.func.clock_timestamp())
    data: Mapped[bytes] = mapped_column(sa.LargeBinary)
    transaction_id: Mapped[int] = mapped_column(sa.BigInteger, server_default=CURRENT_TRANSACTION)

    __mapper_args__ = {"primary_key": ["id_"]}
    __table_args__ = (
        sa.PrimaryKeyConstraint("owner_id", "workflow_id", "id_"),
        tenant_foreign_key("workflow_id", "workflow"),
        tenant_foreign_key("job_id", "job"),
        sa.Index(
            "ix_log_chunk_owner_id_job_id",
            "owner_id",
            "job_id",
            "id_",
            postgresql_where=sa.text("job_id IS NOT NULL"),
        ),
        # What commits behind a follower's back is found by its transaction.
        sa.Index(
            "ix_log_chunk_owner_id_workflow_id_transaction_id", "owner_id", "workflow_id", "transaction_id"
        ),
        # Chunks arrive in the order of time, so a block range index serves pruning at next to no cost.
        sa.Index("ix_log_chunk_at", "at", postgresql_using="brin"),
        {"info": {STORAGE: ONLY_GROWING}},
    )


class LogSize(Base):
    """How many bytes of log a run and its jobs have stored.

    It is counted up once per transaction, just before its commit, so that writers hardly wait for each other.
    """

    __tablename__ = "log_size"
    tenant_column = "owner_id"
    owner_from = ("workflow_id", "Workflow")

    owner_id: Mapped[uuid.UUID]
    workflow_id: Mapped[uuid.UUID]
    bytes_: Mapped[int] = mapped_column(sa.BigInteger)

    __mapper_args__ = {"primary_key": ["workflow_id"]}
    __table_args__ = (
        sa.PrimaryKeyConstraint("owner_id", "workflow_id"),
        tenant_foreign_key("workflow_id", "workflow"),
        sa.CheckConstraint("bytes_ >= 0", name="bytes_not_negative"),
        {"info": {STORAGE: f"fillfactor = 50, {REWRITTEN_OFTEN}"}},
    )

    @staticmethod
    def add(session: Session, lengths: Mapping[uuid.UUID, int]) -> None:
        """Count so many bytes more, by the run's id, in one statement."""
        values = {"ids": [str(id_) for id_ in lengths], "lengths": list(lengths.values())}
        session.connection().execute(_ADD, values)


_ADD = sa.text(
    """
    INSERT INTO platform.log_size (owner_id, workflow_id, bytes_)
    SELECT workflow.owner_id, workflow.id_, appended.length
    FROM unnest(CAST(:ids AS uuid[]), CAST(:lengths AS bigint[])) AS appended (id_, length)
    JOIN platform.workflow ON workflow.id_ = appended.id_
    ORDER BY workflow.owner_id, workflow.id_
    ON CONFLICT (owner_id, workflow_id) DO UPDATE SET bytes_ = log_size.bytes_ + excluded.bytes_
    """
)


def encode_log(text: str | bytes) -> bytes:
    """Return the bytes to store; a lone surrogate, which UTF-8 has no place for, is kept as three bytes."""
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")


def decode_log(data: bytes) -> str:
    """Return stored bytes as text; those that are not UTF-8 show as ``\\xff``."""
    return data.decode("utf-8", "backslashreplace")


def read_logs(session: Session, *criteria: sa.ColumnElement[bool]) -> str:
    """Join the chunks that meet the criteria; what the session has not flushed yet is flushed first."""
    session.flush()
    return decode_log(
        b"".join(session.scalars(sa.select(LogChunk.data).where(*criteria).order_by(LogChunk.id_)))
    )
