"""What watchers of changes need beside the history."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from platform_db.models.base import CHANGED_OFTEN, ONLY_GROWING, REWRITTEN_OFTEN, STORAGE, Base
from platform_db.models.types import Json, Timestamp


class RowEvent(Base):
    """That a run, a job, a session or a service was created or deleted, which no status change tells.

    It has no foreign key: it outlives the row and its owner, until watchers have seen it.

    :param kind: ``created`` or ``deleted``.
    :param status: the status of the row at that moment.
    :param revision: the revision of the row at that moment.
    :param number: its place among all entries of the history.
    :param transaction_id: the transaction that wrote it, by which a reader finds what commits late.
    """

    number: Mapped[int] = mapped_column(sa.BigInteger)
    owner_id: Mapped[uuid.UUID]
    entity: Mapped[str] = mapped_column(sa.Text)
    entity_id: Mapped[uuid.UUID]
    kind: Mapped[str] = mapped_column(sa.Text)
    status: Mapped[str] = mapped_column(sa.Text)
    revision: Mapped[int]
    at: Mapped[datetime] = mapped_column(Timestamp)
    transaction_id: Mapped[int] = mapped_column(sa.BigInteger)

    __table_args__ = (
        sa.PrimaryKeyConstraint("owner_id", "number"),
        sa.Index("ix_row_event_number", "number"),
        sa.Index("ix_row_event_transaction_id", "transaction_id"),
        sa.CheckConstraint("kind IN ('created', 'deleted')", name="known_kind"),
        {"info": {STORAGE: ONLY_GROWING}},
    )


class EventCheckpoint(Base):
    """How far a watcher has come.

    :param cursor: where the next page begins (:mod:`platform_db.events.place`).
    :param number: the number in it, for people.
    :param seen_at: what was committed a day before this has been seen.
    :param moved_at: when the watcher last stored its place.
    :param version: a number that grows whenever it is written. A watcher that finds another one was replaced.
    :param failed: how many events its handler failed on and were skipped.
    """

    name: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    cursor: Mapped[str] = mapped_column(sa.Text)
    number: Mapped[int] = mapped_column(sa.BigInteger)
    seen_at: Mapped[datetime] = mapped_column(Timestamp)
    moved_at: Mapped[datetime] = mapped_column(Timestamp, server_default=sa.func.clock_timestamp())
    version: Mapped[int] = mapped_column(sa.BigInteger, server_default="1")
    failed: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")

    __table_args__ = (
        sa.CheckConstraint("octet_length(name) BETWEEN 1 AND 255", name="name_length"),
        {"info": {STORAGE: f"fillfactor = 50, {REWRITTEN_OFTEN}"}},
    )


class EventFailure(Base):
    """An event that a watcher's handler failed on, and that was skipped.

    :param event: the event, as JSON.
    :param error: what the handler said last.
    """

    name: Mapped[str] = mapped_column(sa.ForeignKey("platform.event_checkpoint.name", ondelete="CASCADE"))
    number: Mapped[int] = mapped_column(sa.BigInteger)
    event: Mapped[Any] = mapped_column(Json)
    error: Mapped[str] = mapped_column(sa.Text)
    attempts: Mapped[int]
    at: Mapped[datetime] = mapped_column(Timestamp, server_default=sa.func.clock_timestamp())

    __table_args__ = (sa.PrimaryKeyConstraint("name", "number"), {"info": {STORAGE: CHANGED_OFTEN}})
