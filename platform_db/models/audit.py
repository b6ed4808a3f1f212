"""The audit log: who did what, about whom. Ids only: no names, no e-mail addresses, no secrets."""

from __future__ import annotations

import enum
import uuid
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import INET
from sqlalchemy.orm import Mapped, mapped_column, synonym, validates

from platform_db import errors
from platform_db.crypto.token_format import require_no_token
from platform_db.identifiers import SCHEMA
from platform_db.models.base import (
    INDEXED_AS,
    ONLY_GROWING,
    REWRITTEN_OFTEN,
    STORAGE,
    Base,
    Identified,
    tenant_keys,
)
from platform_db.models.types import Json, Timestamp

NOBODY = uuid.UUID(int=2**128 - 1)
"""Whose row it is that is about no user in particular, such as the rotation of the secret keys.

The Max UUID (RFC 9562): a CHECK keeps it from users. The id of zeros is a real user's in some platforms.
"""


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
    set_queue_limits = "set_queue_limits"
    share_workflow = "share_workflow"
    unshare_workflow = "unshare_workflow"
    override_guard = "override_guard"
    allow_transition = "allow_transition"
    forbid_transition = "forbid_transition"
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


class ReadableTime(sa.TypeDecorator[datetime]):
    """A time that Python and the cursors of lists can hold: one beyond is read as the nearest of them.

    The database stamps each row, but imports and superusers can store any time.
    """

    impl = Timestamp
    cache_ok = True

    def column_expression(self, column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        """Return what is read of a column."""
        return sa.func.greatest(sa.func.least(column, _LATEST, type_=self), _EARLIEST, type_=self)


_EARLIEST: sa.ColumnElement[Any] = sa.literal_column("timestamptz '1901-01-01Z'")
_LATEST: sa.ColumnElement[Any] = sa.literal_column("timestamptz '8999-12-31Z'")


class _AuditRow(Identified):
    """What a row says, wherever it is."""

    owner_id: Mapped[uuid.UUID]
    actor_id: Mapped[uuid.UUID | None] = mapped_column(server_default=_setting("actor_id", "uuid"))
    action: Mapped[str] = mapped_column(sa.Text)
    details: Mapped[dict[str, Any] | None] = mapped_column(Json)
    request_id: Mapped[str | None] = mapped_column(sa.Text, server_default=_setting("request_id", "text"))
    address: Mapped[str | None] = mapped_column(INET, server_default=_setting("address", "inet"))
    service: Mapped[str | None] = mapped_column(sa.Text, server_default=_setting("service", "text"))
    created: Mapped[datetime] = mapped_column(ReadableTime, server_default=sa.FetchedValue())


class AuditInbox(_AuditRow, Base):
    """A row that is not sealed yet. Writers append here; the sealer alone removes rows, as it seals them."""

    __table_args__ = (
        # Without UNIQUE (id_): a row whose id another one has gets a new one when it is sealed.
        sa.PrimaryKeyConstraint("owner_id", "id_"),
        sa.Index("ix_audit_inbox_created_id_", "created", "id_"),
        # What one tenant writes must not stop those who seal, list and prune for all.
        sa.CheckConstraint("octet_length(details::text) <= 65536", name="details_bounded"),
        # What readers of JSON agree on: nesting that no parser gives up at, numbers that a double holds.
        sa.CheckConstraint(
            "jsonb_typeof(details) = 'object' AND NOT details @? '$.**{32}'"
            " AND NOT details @? '$.** ? (@ > 1e308 || @ < -1e308)'",
            name="details_readable",
        ),
        sa.CheckConstraint(
            "octet_length(action) <= 256 AND octet_length(request_id) <= 1024"
            " AND octet_length(service) <= 1024",
            name="texts_bounded",
        ),
        {"info": {STORAGE: REWRITTEN_OFTEN}},
    )


class AuditSealed(_AuditRow, Base):
    """A row with its place in the log, which it has from the transaction that collects it."""

    number: Mapped[int] = mapped_column(sa.BigInteger)
    created: Mapped[datetime] = mapped_column(ReadableTime)

    __table_args__ = (
        *tenant_keys(),
        sa.UniqueConstraint("number"),
        # Each serves one filter's list, newest first, and its pages. Lists go on by id, not by number: an
        # incremental sort of the few rows of one microsecond costs less than indexing a large log again.
        sa.Index("ix_audit_sealed_owner_id_created_number", "owner_id", "created", "number"),
        sa.Index("ix_audit_sealed_actor_id_created_number", "actor_id", "created", "number"),
        sa.Index("ix_audit_sealed_action_created_number", "action", "created", "number"),
        sa.Index("ix_audit_sealed_created_number", "created", "number"),
        {"info": {STORAGE: ONLY_GROWING}},
    )


class AuditLog(_AuditRow, Base):
    """One action. Rows outlive the user they speak of, are never updated, and go by retention alone.

    What the caller does not say about who, and from where, is taken from the transaction
    (:func:`platform_db.audit.set_origin`).

    It is a view of the rows that wait in the inbox and of those that are sealed, and stores new ones in the
    inbox.

    :param number: the place in the log; None until the row is sealed.
    :param owner_id: whom it is about, also ``user_id``; :data:`NOBODY` where that is no user in particular.
    :param actor_id: the user who did it; None where none was given, as for an act of the platform.
    :param details: what else there is to know, in ids and plain values.
    :param request_id: the request that caused it.
    :param address: the network address that the request came from.
    :param service: the service that recorded it.
    :param created: when, which the database says and no caller sets; with the owner and the id it is the
        session's key of the row.
    """

    number: Mapped[int | None] = mapped_column(sa.BigInteger, server_default=sa.FetchedValue())

    user_id: Mapped[uuid.UUID] = synonym("owner_id")

    # No table: nothing that works on all tables is to find it.
    metadata = sa.MetaData(schema=SCHEMA)

    __table_args__ = (
        sa.PrimaryKeyConstraint("owner_id", "id_"),
        {"info": {INDEXED_AS: AuditSealed.__table__}},
    )
    # Of two rows with one id, of which one waits and one is sealed, the session must not show one twice.
    __mapper_args__ = {"primary_key": ("owner_id", "id_", "created")}

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
