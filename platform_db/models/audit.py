"""The audit log: who did what, about whom. Ids only: no names, no e-mail addresses, no secrets."""

from __future__ import annotations

import enum
import uuid
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import INET
from sqlalchemy.orm import Mapped, mapped_column, validates

from platform_db import errors
from platform_db.crypto.token_format import require_no_token
from platform_db.models.base import Base, Created, Identified
from platform_db.models.types import Json

NOBODY = uuid.UUID(int=0)
"""Whom a row is about that is about no user in particular, such as the rotation of the secret keys."""


class AuditLogAction(str, enum.Enum):
    """The actions that platform-db itself records."""

    request_token = "request_token"
    grant_token = "grant_token"
    issue_token = "issue_token"
    revoke_token = "revoke_token"
    purge_token = "purge_token"
    create_user = "create_user"
    delete_user = "delete_user"
    set_quota_limit = "set_quota_limit"
    share_workflow = "share_workflow"
    unshare_workflow = "unshare_workflow"
    override_guard = "override_guard"
    rotate_keys = "rotate_keys"
    apply_retention = "apply_retention"


_registered_actions = {action.value for action in AuditLogAction}


def register_audit_action(action: str) -> str:
    """Let the platform's own ``action`` be recorded in this process, and return it."""
    _registered_actions.add(action)
    return action


def _setting(name: str, type_: str) -> sa.TextClause:
    """Return the value of the transaction's setting ``platform.<name>``, NULL where there is none."""
    return sa.text(f"(nullif(current_setting('platform.{name}', true), ''))::{type_}")


class AuditLog(Identified, Created, Base):
    """One action. Rows outlive the user they speak of, are never updated, and go by retention alone.

    What the caller does not say about who, and from where, is taken from the transaction
    (:func:`platform_db.audit.set_origin`).

    :param number: the place in the log, given by the database; not without gaps.
    :param user_id: whom it is about; :data:`NOBODY` where it is about no user in particular.
    :param actor_id: the user who did it; None where nobody said who, as where the platform itself did it.
    :param details: what else there is to know, in ids and plain values.
    :param request_id: the request that caused it.
    :param address: the network address that the request came from.
    :param service: the service that recorded it.
    """

    __tablename__ = "audit_log"
    tenant_column = "user_id"

    number: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(always=True))
    user_id: Mapped[uuid.UUID]
    actor_id: Mapped[uuid.UUID | None] = mapped_column(server_default=_setting("actor_id", "uuid"))
    action: Mapped[str] = mapped_column(sa.Text)
    details: Mapped[dict[str, Any] | None] = mapped_column(Json)
    request_id: Mapped[str | None] = mapped_column(sa.Text, server_default=_setting("request_id", "text"))
    address: Mapped[str | None] = mapped_column(INET, server_default=_setting("address", "inet"))
    service: Mapped[str | None] = mapped_column(sa.Text, server_default=_setting("service", "text"))

    __mapper_args__ = {"primary_key": ["id_"]}
    __table_args__ = (
        sa.PrimaryKeyConstraint("user_id", "id_"),
        sa.UniqueConstraint("id_", name="uq_audit_log_id_"),
        sa.UniqueConstraint("number"),
        # Each serves one filter's list, newest first, and its pages.
        sa.Index("ix_audit_log_user_id_created_number", "user_id", "created", "number"),
        sa.Index("ix_audit_log_actor_id_created_number", "actor_id", "created", "number"),
        sa.Index("ix_audit_log_action_created_number", "action", "created", "number"),
        sa.Index("ix_audit_log_created_number", "created", "number"),
    )

    @validates("action")
    def _known_action(self, key: str, action: AuditLogAction | str) -> str:
        name = action.value if isinstance(action, AuditLogAction) else action
        if name not in _registered_actions:
            raise errors.UnknownAction(f"{name!r} is not a registered audit action")
        return name

    @validates("details")
    def _without_tokens(self, key: str, details: dict[str, Any] | None) -> dict[str, Any] | None:
        # Not by a constraint: the server's own log would show the row that it refuses.
        require_no_token(details)
        return details
