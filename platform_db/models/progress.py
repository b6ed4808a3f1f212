"""How far a run is: counts of its jobs, kept by the database beside the run."""

from __future__ import annotations

import uuid

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from platform_db.models.base import REWRITTEN_OFTEN, STORAGE, Base, OfWorkflow, tenant_foreign_key


class WorkflowProgress(OfWorkflow, Base):
    """A part of the counts of a run's jobs; the run's progress is the sum of its parts.

    A trigger counts each new, changed or deleted job into a part that no other transaction holds
    (``schema/sql/progress.sql``). So a single part may be negative.
    """

    part: Mapped[uuid.UUID]
    total: Mapped[int] = mapped_column(sa.BigInteger)
    running: Mapped[int] = mapped_column(sa.BigInteger)
    finished: Mapped[int] = mapped_column(sa.BigInteger)
    failed: Mapped[int] = mapped_column(sa.BigInteger)
    stopped: Mapped[int] = mapped_column(sa.BigInteger)

    __table_args__ = (
        sa.PrimaryKeyConstraint("owner_id", "workflow_id", "part"),
        tenant_foreign_key("workflow_id", "workflow"),
        {"info": {STORAGE: f"fillfactor = 50, {REWRITTEN_OFTEN}"}},
    )
