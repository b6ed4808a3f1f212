"""History: every status change, written by the database, and notes beside it."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from platform_db.models.base import ONLY_GROWING, STORAGE, Base, Identified, tenant_keys
from platform_db.models.types import Json, Timestamp
from platform_db.states import MACHINES


class StatusChange(Base):
    """One change of one row's status. The first has revision 1, and there is no gap after it.

    :param entity: the row's table, such as ``workflow``.
    :param actor: who did it, where the transaction said so (``SET LOCAL platform.actor``).
    :param reason: why, where the transaction or the transition said so (``SET LOCAL platform.reason``).
    :param overridden: whether an operator's override of the guard was in force.
    :param extra: true where an extra transition let it through, otherwise NULL, which takes no room.
    :param number: its place among all entries; readers page by it, since no clock turns it back.
    :param transaction_id: the transaction that wrote it, by which a reader finds what commits late.
    """

    owner_id: Mapped[uuid.UUID]
    entity_id: Mapped[uuid.UUID]
    revision: Mapped[int]
    entity: Mapped[str] = mapped_column(sa.Text)
    number: Mapped[int] = mapped_column(sa.BigInteger)
    from_status: Mapped[str] = mapped_column(sa.Text)
    to_status: Mapped[str] = mapped_column(sa.Text)
    at: Mapped[datetime] = mapped_column(Timestamp)
    actor: Mapped[str | None] = mapped_column(sa.Text)
    reason: Mapped[str | None] = mapped_column(sa.Text)
    overridden: Mapped[bool] = mapped_column(server_default="false")
    extra: Mapped[bool | None]
    transaction_id: Mapped[int] = mapped_column(sa.BigInteger)

    __table_args__ = (
        sa.PrimaryKeyConstraint("owner_id", "entity_id", "entity", "revision"),
        # By the number watchers read on; by the transaction they find what was committed behind them.
        sa.Index("ix_status_change_number", "number"),
        sa.Index("ix_status_change_transaction_id", "transaction_id"),
        {"info": {STORAGE: ONLY_GROWING}},
    )


class Note(Identified, Base):
    """Something worth knowing about a row that is not a status change."""

    owner_id: Mapped[uuid.UUID]
    entity: Mapped[str] = mapped_column(sa.Text)
    entity_id: Mapped[uuid.UUID]
    topic: Mapped[str] = mapped_column(sa.Text)
    message: Mapped[str] = mapped_column(sa.Text)
    details: Mapped[dict[str, Any] | None] = mapped_column(Json)
    number: Mapped[int] = mapped_column(sa.BigInteger, server_default=sa.FetchedValue())
    at: Mapped[datetime] = mapped_column(Timestamp, server_default=sa.FetchedValue())
    transaction_id: Mapped[int] = mapped_column(sa.BigInteger, server_default=sa.FetchedValue())

    __table_args__ = (
        *tenant_keys(),
        sa.Index("ix_note_owner_id_entity_id_number", "owner_id", "entity_id", "number"),
        sa.Index("ix_note_number", "number"),
        sa.Index("ix_note_transaction_id", "transaction_id"),
        {"info": {STORAGE: ONLY_GROWING}},
    )


# A revoked token stays revoked: who was shut out must not come back by a row of configuration.
EXTENSIBLE = sorted(set(MACHINES) - {"user_token"})
"""The tables that may have extra transitions."""


class ExtraTransition(Base):
    """A transition that a platform allows beyond :mod:`platform_db.states`; none by default.

    The guard looks here only where it is about to refuse.

    :param reason: why the platform needs it.
    """

    entity: Mapped[str] = mapped_column(sa.Text)
    from_status: Mapped[str] = mapped_column(sa.Text)
    to_status: Mapped[str] = mapped_column(sa.Text)
    reason: Mapped[str] = mapped_column(sa.Text)

    __table_args__ = (
        sa.PrimaryKeyConstraint("entity", "from_status", "to_status"),
        sa.CheckConstraint(sa.column("entity").in_(EXTENSIBLE), name="known_entity"),
        sa.CheckConstraint("reason <> ''", name="has_reason"),
    )


# Numbers the entries of all histories in one order.
HISTORY_NUMBER = sa.Sequence("history_number", data_type=sa.BigInteger, metadata=Base.metadata)
