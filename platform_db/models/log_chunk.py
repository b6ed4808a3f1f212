"""Logs: append-only chunks of bytes, so that any program's output fits and no row is ever rewritten."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from platform_db.database.distribution import by_owner, execute_for
from platform_db.models.base import (
    REWRITTEN_OFTEN,
    STORAGE,
    Base,
    OfWorkflow,
    partial_index,
    tenant_foreign_key,
)
from platform_db.models.types import Timestamp


class LogChunk(OfWorkflow, Base):
    """A piece of a run's log, or of a job's where ``job_id`` is set.

    :param number: its place, given by the database; the pieces of one log have gaps between them.
    """

    number: Mapped[int] = mapped_column(sa.BigInteger, server_default=sa.FetchedValue())
    job_id: Mapped[uuid.UUID | None]
    at: Mapped[datetime] = mapped_column(Timestamp, server_default=sa.FetchedValue())
    data: Mapped[bytes] = mapped_column(sa.LargeBinary)
    transaction_id: Mapped[int] = mapped_column(sa.BigInteger, server_default=sa.FetchedValue())

    __table_args__ = (
        sa.PrimaryKeyConstraint("owner_id", "workflow_id", "number"),
        tenant_foreign_key("workflow_id", "workflow"),
        tenant_foreign_key("job_id", "job"),
        partial_index("ix_log_chunk_owner_id_job_id", "job_id IS NOT NULL", "owner_id", "job_id", "number"),
        # What commits behind a follower's back is found by its transaction.
        sa.Index(
            "ix_log_chunk_owner_id_workflow_id_transaction_id", "owner_id", "workflow_id", "transaction_id"
        ),
        # Each month is a table (schema/sql/logs.sql).
        {"postgresql_partition_by": "RANGE (workflow_id)"},
    )


class LogSize(OfWorkflow, Base):
    """How many bytes of log a run and its jobs have stored, and between which numbers their pieces lie.

    It is counted up once per transaction, just before its commit, so that writers hardly wait for each other.
    """

    bytes_: Mapped[int] = mapped_column(sa.BigInteger)
    first_number: Mapped[int] = mapped_column(sa.BigInteger)
    last_number: Mapped[int] = mapped_column(sa.BigInteger)

    __table_args__ = (
        sa.PrimaryKeyConstraint("owner_id", "workflow_id"),
        tenant_foreign_key("workflow_id", "workflow"),
        sa.CheckConstraint("bytes_ >= 0", name="bytes_not_negative"),
        {"info": {STORAGE: f"fillfactor = 50, {REWRITTEN_OFTEN}"}},
    )

    @staticmethod
    def add(session: Session, appended: Mapping[uuid.UUID, Appended]) -> None:
        """Count what was appended, or replaced by less, by the run's id, in one statement."""
        connection = session.connection()
        for some in by_owner(connection, appended.items(), lambda item: item[1].owner_id):
            ids, parts = zip(*some, strict=True)
            lengths = [part.length for part in parts]
            values = {
                "ids": [str(id_) for id_ in ids],
                "owners": [str(part.owner_id) for part in parts],
                "lengths": lengths,
                "first": [part.first_number for part in parts],
                "last": [part.last_number for part in parts],
            }
            statement = _ADD if min(lengths) >= 0 else _ADD_OR_TAKE_OFF
            execute_for(connection, parts[0].owner_id, statement, values)


class Appended(NamedTuple):
    """What one transaction has appended to the logs of a run and its jobs.

    :param length: how many bytes count towards the log's limit.
    """

    owner_id: uuid.UUID
    length: int
    first_number: int
    last_number: int

    def __add__(self, other: Appended) -> Appended:  # type: ignore[override]
        return Appended(
            self.owner_id,
            self.length + other.length,
            min(self.first_number, other.first_number),
            max(self.last_number, other.last_number),
        )


# A run that was deleted meanwhile is not counted: its foreign key would end the transaction.
_COUNT = """
    INSERT INTO platform.log_size (owner_id, workflow_id, bytes_, first_number, last_number)
    SELECT workflow.owner_id, workflow.id_, greatest(0, appended.length), appended.first_number,
           appended.last_number
    FROM unnest(
        CAST(:owners AS uuid[]), CAST(:ids AS uuid[]), CAST(:lengths AS bigint[]), CAST(:first AS bigint[]),
        CAST(:last AS bigint[])
    ) AS appended (owner_id, id_, length, first_number, last_number)
    JOIN platform.workflow ON workflow.owner_id = appended.owner_id AND workflow.id_ = appended.id_
    ORDER BY workflow.owner_id, workflow.id_
    ON CONFLICT (owner_id, workflow_id) DO UPDATE
    SET bytes_ = {bytes_},
        first_number = least(log_size.first_number, excluded.first_number),
        last_number = greatest(log_size.last_number, excluded.last_number)
"""
_ADD = sa.text(_COUNT.format(bytes_="log_size.bytes_ + excluded.bytes_"))

# The row that is to be inserted has to meet the CHECK, so it cannot hold a length below 0.
_ADD_OR_TAKE_OFF = sa.text(
    _COUNT.format(
        bytes_="""greatest(0, log_size.bytes_ + (
            SELECT length
            FROM unnest(CAST(:ids AS uuid[]), CAST(:lengths AS bigint[])) AS change (id_, length)
            WHERE change.id_ = excluded.workflow_id))"""
    )
)

# Gives the places of pieces in logs.
LOG_NUMBER = sa.Sequence("log_number", data_type=sa.BigInteger, metadata=Base.metadata)


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
        b"".join(session.scalars(sa.select(LogChunk.data).where(*criteria).order_by(LogChunk.number)))
    )
