"""Seals: what makes a later change of the audit log evident.

A seal covers the audit rows after the last row of the seal before it, up to its own last row. Rows know
nothing of their seal, so none is ever updated, and none can be in two seals. Each seal's hash covers its
rows, and the hash of the seal before.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from platform_db.models.base import ONLY_GROWING, STORAGE, Base
from platform_db.models.types import Timestamp


class AuditSeal(Base):
    """One seal. Seals are never changed and never deleted.

    :param previous_hash: the hash of the seal before; zeros for the first.
    :param last_row: the number of the last audit row that it may cover.
    :param row_count: how many rows it covers.
    :param last_created: the latest ``created`` of its rows, and not after the seal was made; by it retention
        finds what is old.
    :param content_hash: SHA-256 of the digests of its rows.
    :param first_kept_seal: the first seal whose rows were still kept when this one was made; the rows of
        those before it were removed by retention.
    :param hash: SHA-256 of all of the above and of ``sealed_at``.
    :param signature: Ed25519 over ``hash``, where a signing key was configured.
    """

    number: Mapped[int] = mapped_column(sa.BigInteger, autoincrement=False)
    previous_hash: Mapped[bytes] = mapped_column(sa.LargeBinary)
    last_row: Mapped[int] = mapped_column(sa.BigInteger)
    row_count: Mapped[int] = mapped_column(sa.BigInteger)
    last_created: Mapped[datetime | None] = mapped_column(Timestamp)
    content_hash: Mapped[bytes] = mapped_column(sa.LargeBinary)
    first_kept_seal: Mapped[int] = mapped_column(sa.BigInteger)
    sealed_at: Mapped[datetime] = mapped_column(Timestamp)
    hash: Mapped[bytes] = mapped_column(sa.LargeBinary)
    signature: Mapped[bytes | None] = mapped_column(sa.LargeBinary)

    __table_args__ = (
        sa.PrimaryKeyConstraint("number"),
        sa.Index("ix_audit_seal_sealed_at", "sealed_at"),
        sa.CheckConstraint("number >= 1", name="number_positive"),
        sa.CheckConstraint("first_kept_seal BETWEEN 1 AND number", name="first_kept_seal_known"),
        sa.CheckConstraint(
            "octet_length(previous_hash) = 32 AND octet_length(content_hash) = 32"
            " AND octet_length(hash) = 32",
            name="hashes_are_sha256",
        ),
    )


class AuditSealDigests(Base):
    """The digests of a seal's rows: they name the row where a seal's content is found changed.

    :param digests: per row its number (8 bytes, big endian) and the SHA-256 of the rest of its line.
    """

    seal_number: Mapped[int] = mapped_column(
        sa.ForeignKey("platform.audit_seal.number"), primary_key=True, autoincrement=False
    )
    digests: Mapped[bytes] = mapped_column(sa.LargeBinary)

    __table_args__ = ({"info": {STORAGE: ONLY_GROWING}},)


class AuditChain(Base):
    """The lock of those who add to the chain: its only row."""

    singleton: Mapped[bool] = mapped_column(server_default="true")

    __table_args__ = (sa.PrimaryKeyConstraint("singleton"), sa.CheckConstraint("singleton", name="singleton"))
