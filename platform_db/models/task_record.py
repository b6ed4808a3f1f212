"""Task records: what a cluster's scheduler logs of each task, under the task's own id."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSON, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from platform_db.models.base import CHANGED_OFTEN, STORAGE, Base, partial_index
from platform_db.models.types import ByteOrdered, Timestamp

# Not jsonb, which refuses NUL and halves of surrogate pairs, and changes the order of keys: this is the
# message as it was sent, and nothing queries inside.
_Message = JSON(none_as_null=True)


class TaskRecord(Base):
    """A task, from its submission to its result, as the scheduler's messages tell it.

    :mod:`platform_db.tasks` writes and reads it; the values of messages and texts are encoded.

    :param cluster: the history that the task belongs to; schedulers that share it share one history.
    :param msg_id: the task's id, which the scheduler's client made.
    :param submitted: by the client's clock, like the times of the other machines.
    :param extra: values that no column has, as JSON text by their keys.
    :param size: bytes of the values, as they were encoded.
    """

    owner_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("platform.user_.id_", ondelete="CASCADE"))
    cluster: Mapped[str] = mapped_column(ByteOrdered)
    msg_id: Mapped[str] = mapped_column(ByteOrdered)
    header: Mapped[Any | None] = mapped_column(_Message)
    metadata_: Mapped[Any | None] = mapped_column("metadata", _Message)
    content: Mapped[Any | None] = mapped_column(_Message)
    buffers: Mapped[bytes | None] = mapped_column(sa.LargeBinary)
    submitted: Mapped[datetime | None] = mapped_column(Timestamp)
    client_uuid: Mapped[str | None] = mapped_column(ByteOrdered)
    engine_uuid: Mapped[str | None] = mapped_column(ByteOrdered)
    started: Mapped[datetime | None] = mapped_column(Timestamp)
    completed: Mapped[datetime | None] = mapped_column(Timestamp)
    resubmitted: Mapped[str | None] = mapped_column(ByteOrdered)
    received: Mapped[datetime | None] = mapped_column(Timestamp)
    result_header: Mapped[Any | None] = mapped_column(_Message)
    result_metadata: Mapped[Any | None] = mapped_column(_Message)
    result_content: Mapped[Any | None] = mapped_column(_Message)
    result_buffers: Mapped[bytes | None] = mapped_column(sa.LargeBinary)
    queue: Mapped[str | None] = mapped_column(ByteOrdered)
    execute_input: Mapped[str | None] = mapped_column(ByteOrdered)
    execute_result: Mapped[Any | None] = mapped_column(_Message)
    error: Mapped[Any | None] = mapped_column(_Message)
    stdout: Mapped[str | None] = mapped_column(ByteOrdered)
    stderr: Mapped[str | None] = mapped_column(ByteOrdered)
    label: Mapped[str | None] = mapped_column(ByteOrdered)
    extra: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    size: Mapped[int] = mapped_column(sa.BigInteger)

    __table_args__ = (
        sa.PrimaryKeyConstraint("owner_id", "msg_id"),
        sa.CheckConstraint("size >= 0", name="size_not_negative"),
        # Not with the id as a key: a look-up by ids would read all of a history in it.
        sa.Index(None, "owner_id", "cluster", "submitted", postgresql_include=["msg_id"]),
        # For lists of all that an owner has.
        sa.Index(None, "owner_id", "submitted"),
        partial_index("ix_task_record_incomplete", "completed IS NULL", "owner_id", "cluster", "submitted"),
        # Without those that have not completed: they would all be equal, and what is equal shares an entry,
        # which the server cannot mark as dead while one of them lives.
        partial_index(
            "ix_task_record_completed", "completed IS NOT NULL", "owner_id", "cluster", "completed"
        ),
        partial_index(
            "ix_task_record_owner_id_cluster_label", "label IS NOT NULL", "owner_id", "cluster", "label"
        ),
        sa.Index(None, "owner_id", "client_uuid"),
        # A record is changed twice or more: room for its new versions beside it.
        {"info": {STORAGE: f"fillfactor = 70, {CHANGED_OFTEN}"}},
    )
