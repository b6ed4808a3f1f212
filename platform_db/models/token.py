"""Tokens: what a user or a service authenticates with."""

from __future__ import annotations

import enum
import uuid
from datetime import datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column, relationship, synonym

from platform_db.crypto.column import Sealed
from platform_db.models.base import STORAGE, Base, Guarded, partial_index, tenant_foreign_key, tenant_keys
from platform_db.models.secret import SecretAttribute, key_id_index, other_digests_column
from platform_db.models.types import Timestamp, native_enum
from platform_db.states import UserTokenStatus

if TYPE_CHECKING:
    from platform_db.models.user import User


EVERY_SCOPE = "*"


class UserTokenType(str, enum.Enum):
    """What a token is for."""

    access = "access"
    personal = "personal"
    session = "session"
    webhook = "webhook"


class UserToken(Guarded, Base):
    """A token of a user. Its value is encrypted, and found by a keyed digest.

    Once it is granted, it keeps its value: the database refuses another one with ``TokenError``.

    :param scopes: what the token may be used for, and nothing else; :data:`EVERY_SCOPE` is all there is.
    """

    owner_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("platform.user_.id_", ondelete="CASCADE"))
    type_: Mapped[UserTokenType] = mapped_column(native_enum(UserTokenType, "user_token_type"))
    status: Mapped[UserTokenStatus] = mapped_column(native_enum(UserTokenStatus, "user_token_status"))
    name: Mapped[str | None] = mapped_column(sa.Text)
    encrypted_token: Mapped[bytes | None] = mapped_column("token", Sealed)
    token_digest: Mapped[bytes | None] = mapped_column(Sealed)
    scopes: Mapped[list[str]] = mapped_column(ARRAY(sa.Text), server_default="{}")
    expires_at: Mapped[datetime | None] = mapped_column(Timestamp)
    other_token_digests: Mapped[list[bytes] | None] = other_digests_column()

    token = SecretAttribute("encrypted_token", "token_digest", "other_token_digests")

    user_id: Mapped[uuid.UUID] = synonym("owner_id")
    user: Mapped[User] = relationship(back_populates="tokens")
    last_use: Mapped[UserTokenLastUse | None] = relationship(viewonly=True)

    __table_args__ = (
        *tenant_keys(),
        sa.UniqueConstraint("token_digest"),
        key_id_index("user_token", "token"),
        sa.Index("ix_user_token_owner_id_created", "owner_id", "created", "id_"),
        partial_index("ix_user_token_access", "type_ = 'access'", "owner_id", "created", "id_"),
        partial_index("uq_user_token_active_access", "type_ = 'access' AND status = 'active'", "owner_id"),
        partial_index(
            "uq_user_token_requested_access", "type_ = 'access' AND status = 'requested'", "owner_id"
        ),
        partial_index(
            "uq_user_token_personal_name", "type_ = 'personal' AND status = 'active'", "owner_id", "name"
        ),
        sa.CheckConstraint("status <> 'active' OR token IS NOT NULL", name="active_has_value"),
        sa.CheckConstraint("(token IS NULL) = (token_digest IS NULL)", name="digest_beside_value"),
        sa.CheckConstraint("type_ <> 'personal' OR name IS NOT NULL", name="personal_has_name"),
        sa.CheckConstraint("octet_length(token_digest) = 32", name="digest_is_sha256"),
    )

    @property
    def last_used_at(self) -> datetime | None:
        """When the token last authenticated its user, to the minute."""
        return self.last_use.last_used_at if self.last_use else None


class UserTokenLastUse(Base):
    """When a token was last used: beside the token, so that using it neither rewrites nor locks it.

    A trigger adds the row with the token's: from then on it is only ever updated, which need not wait.
    """

    owner_id: Mapped[uuid.UUID]
    token_id: Mapped[uuid.UUID]
    last_used_at: Mapped[datetime | None] = mapped_column(Timestamp)

    __table_args__ = (
        sa.PrimaryKeyConstraint("owner_id", "token_id"),
        tenant_foreign_key("token_id", "user_token"),
        {"info": {STORAGE: "fillfactor = 70"}},
    )
