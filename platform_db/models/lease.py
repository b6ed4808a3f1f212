"""Leases: which worker holds which row. They change often, so they are rows of their own."""

from __future__ import annotations

import uuid
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from platform_db.models.base import REWRITTEN_OFTEN, STORAGE, Base
from platform_db.models.types import Timestamp


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
