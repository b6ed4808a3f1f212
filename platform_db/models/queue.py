"""The queue: each owner's turn and limits, and the keys by which a run is created once."""

from __future__ import annotations

import uuid
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from platform_db.models.base import (
    CHANGED_OFTEN,
    REWRITTEN_OFTEN,
    STORAGE,
    Base,
    Identified,
    OfWorkflow,
    Timestamped,
    tenant_foreign_key,
    tenant_keys,
)
from platform_db.models.types import Timestamp


class OwnerLimit(Base):
    """An owner's turn in the queue, and how much of it the owner may take; it comes with the user.

    All of it is in one row of the owner, which a claim locks: claims of two owners never meet.

    :param concurrent_runs: how many pending and running runs the owner may have; None is the default of the
        settings, 0 is none.
    :param starts_per_minute: how many runs may be claimed a minute; None is the default of the settings.
    :param claims: counts the claims that served the owner, and the changes of the limits. A claim serves only
        an owner of whom it knows the last one.
    :param served_at: when a run of the owner was taken last; the owner who has waited longest is next.
    :param jobs_served_at: the same for jobs. Jobs that start all the time cost no owner the turn with runs.
    :param starts_until: the starts of the past last until then: one takes a minute's share of
        ``starts_per_minute``, and less than a minute may lie ahead.
    """

    owner_id: Mapped[uuid.UUID] = mapped_column(
        sa.ForeignKey("platform.user_.id_", ondelete="CASCADE"), primary_key=True
    )
    concurrent_runs: Mapped[int | None]
    starts_per_minute: Mapped[int | None]
    claims: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    served_at: Mapped[datetime] = mapped_column(Timestamp, server_default="-infinity")
    jobs_served_at: Mapped[datetime] = mapped_column(Timestamp, server_default="-infinity")
    starts_until: Mapped[datetime] = mapped_column(Timestamp, server_default="-infinity")

    __table_args__ = (
        sa.CheckConstraint("concurrent_runs >= 0", name="concurrent_runs_not_negative"),
        sa.CheckConstraint("starts_per_minute >= 0", name="starts_per_minute_not_negative"),
        {"info": {STORAGE: f"fillfactor = 50, {REWRITTEN_OFTEN}"}},
    )


class IdempotencyKey(OfWorkflow, Identified, Timestamped, Base):
    """A key that a client gave with a run, so that asking again does not create it again.

    :param digest: SHA-256 of what was asked.
    """

    key: Mapped[str] = mapped_column(sa.Text)
    digest: Mapped[bytes] = mapped_column(sa.LargeBinary)

    __table_args__ = (
        *tenant_keys(),
        sa.UniqueConstraint("owner_id", "key"),
        tenant_foreign_key("workflow_id", "workflow"),
        sa.Index("ix_idempotency_key_owner_id_workflow_id", "owner_id", "workflow_id"),
        sa.CheckConstraint("octet_length(key) BETWEEN 1 AND 255", name="key_length"),
        sa.CheckConstraint("octet_length(digest) = 32", name="digest_length"),
        {"info": {STORAGE: CHANGED_OFTEN}},
    )
