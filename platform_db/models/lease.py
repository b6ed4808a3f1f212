"""Leases: who works on what right now. They are hot, so they stand beside what they speak of."""

from __future__ import annotations

import uuid
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from platform_db.models.base import REWRITTEN_OFTEN, STORAGE, Base
from platform_db.models.types import Timestamp
from platform_db.states import INTERACTIVE_SESSION, JOB, SERVICE, WORKFLOW

# What can be worked on. In any other status a row has ended.
ALIVE = ("created", "queued", "pending", "running")


class Lease(Base):
    """A tenant's row (a run, a session …) that a worker keeps alive by its heartbeat.

    A lease belongs to one life of the row: the database drops it when the row is started again.
    """

    __tablename__ = "lease"
    tenant_column = "owner_id"

    owner_id: Mapped[uuid.UUID]
    entity: Mapped[str] = mapped_column(sa.Text)
    entity_id: Mapped[uuid.UUID]
    holder: Mapped[str] = mapped_column(sa.Text)
    heartbeat_at: Mapped[datetime] = mapped_column(Timestamp)

    __mapper_args__ = {"primary_key": ["entity_id"]}
    __table_args__ = (
        sa.PrimaryKeyConstraint("owner_id", "entity_id"),
        sa.Index("ix_lease_holder", "holder"),
        # No index on the heartbeat: with one, no heartbeat could be a HOT update. There is a lease for what
        # works right now only, so reading all of them costs little.
        {"info": {STORAGE: f"fillfactor = 50, {REWRITTEN_OFTEN}"}},
    )


class TaskLease(Base):
    """A job of the platform itself, such as a cronjob, that runs once at a time."""

    __tablename__ = "task_lease"

    name: Mapped[str] = mapped_column(sa.Text)
    holder: Mapped[str] = mapped_column(sa.Text)
    acquired_at: Mapped[datetime] = mapped_column(Timestamp)
    expires_at: Mapped[datetime] = mapped_column(Timestamp)

    __table_args__ = (sa.PrimaryKeyConstraint("name"),)


def lease_statements() -> list[str]:
    """Return the statements by which a row that is started again loses the lease of its life before.

    At the start, not at the end: ends are many, and would then wait for whoever beats at this moment.
    """
    return [
        """\
CREATE FUNCTION platform.drop_former_lease() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM platform.lease WHERE owner_id = NEW.owner_id AND entity_id = NEW.id_;
    RETURN NULL;
END
$$;""",
        *(
            f"""\
CREATE TRIGGER drop_former_lease AFTER UPDATE OF status ON platform.{machine.entity}
    FOR EACH ROW WHEN (OLD.status NOT IN ({alive}) AND NEW.status IN ({alive}))
    EXECUTE FUNCTION platform.drop_former_lease();"""
            for machine in (WORKFLOW, JOB, INTERACTIVE_SESSION, SERVICE)
            for alive in [", ".join(f"'{status}'" for status in machine.statuses if status in ALIVE)]
        ),
    ]
