"""Leases, which change often and so are rows of their own, and how the platform's jobs ended last."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from platform_db.models.base import REWRITTEN_OFTEN, STORAGE, Base
from platform_db.models.types import Json, Timestamp


class Lease(Base):
    """A tenant's row (a run, a session …) that a worker keeps alive by its heartbeat.

    A lease belongs to one life of the row: the database drops it when the row is started again.
    """

    owner_id: Mapped[uuid.UUID]
    entity: Mapped[str] = mapped_column(sa.Text)
    entity_id: Mapped[uuid.UUID]
    holder: Mapped[str] = mapped_column(sa.Text)
    heartbeat_at: Mapped[datetime] = mapped_column(Timestamp)

    __table_args__ = (
        sa.PrimaryKeyConstraint("owner_id", "entity_id"),
        sa.Index("ix_lease_holder", "holder"),
        # No index on the heartbeat: with one, no heartbeat could be a HOT update. There is a lease for what
        # works right now only, so reading all of them costs little.
        {"info": {STORAGE: f"fillfactor = 50, {REWRITTEN_OFTEN}"}},
    )


class TaskLease(Base):
    """A job of the platform itself, such as a cronjob, that runs once at a time."""

    name: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    holder: Mapped[str] = mapped_column(sa.Text)
    acquired_at: Mapped[datetime] = mapped_column(Timestamp)
    expires_at: Mapped[datetime] = mapped_column(Timestamp)


class TaskOutcome(Base):
    """How a job of the platform itself, such as a cronjob, ended last.

    :param name: the command, such as ``audit seal``.
    :param shard: which share of the work, from 1 on, of so many ``shards``.
    :param seconds: how long it took.
    :param succeeded_at: when it last ended with exit code 0; a failure leaves it as it was.
    :param drift: by the names of resources, how many users' totals were not the sum of their figures; None
        where the job does not look.
    """

    name: Mapped[str] = mapped_column(sa.Text)
    shard: Mapped[int]
    shards: Mapped[int]
    exit_code: Mapped[int]
    seconds: Mapped[float]
    ended_at: Mapped[datetime] = mapped_column(Timestamp)
    succeeded_at: Mapped[datetime | None] = mapped_column(Timestamp)
    drift: Mapped[dict[str, Any] | None] = mapped_column(Json)

    __table_args__ = (
        sa.PrimaryKeyConstraint("name", "shard", "shards"),
        sa.CheckConstraint("octet_length(name) BETWEEN 1 AND 100", name="name_length"),
        sa.CheckConstraint("shard BETWEEN 1 AND shards", name="shard_of_shards"),
        sa.CheckConstraint("exit_code BETWEEN 0 AND 255", name="exit_code_of_a_process"),
        sa.CheckConstraint("seconds >= 0", name="seconds_not_negative"),
    )
