"""Users: the tenants of the platform."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, WriteOnlyMapped, foreign, mapped_column, object_session, relationship

from platform_db import errors, priority
from platform_db.models.audit import NOBODY, AuditLog, AuditLogAction
from platform_db.models.base import Base, Identified, Timestamped, session_of
from platform_db.models.resource import UserResource, quota_usage
from platform_db.models.sharing import UserWorkflow
from platform_db.models.token import EVERY_SCOPE, UserToken, UserTokenType
from platform_db.settings import get_settings
from platform_db.states import RunStatus, UserTokenStatus
from platform_db.workspaces import build_workspace_path

if TYPE_CHECKING:
    from platform_db.models.workflow import Workflow


class User(Identified, Timestamped, Base):
    """A person who runs workflows.

    At flush, a new user gets one :class:`UserResource` per :class:`Resource`, with the default limits.

    :param access_token: a value that becomes the user's active access token.
    """

    __tablename__ = "user_"
    __table_args__ = (
        sa.PrimaryKeyConstraint("id_"),
        sa.Index("uq_user__email", sa.text("lower(email)"), unique=True),
        sa.UniqueConstraint("idp_issuer", "idp_subject"),
        sa.CheckConstraint("(idp_issuer IS NULL) = (idp_subject IS NULL)", name="idp_complete"),
        sa.CheckConstraint("email <> '' AND email !~ '[[:cntrl:]]'", name="email_printable"),
        sa.CheckConstraint(f"id_ <> '{NOBODY}'", name="id_not_reserved"),
        sa.Index("ix_user__created", "created", "id_"),
    )

    email: Mapped[str] = mapped_column(sa.Text)
    full_name: Mapped[str | None] = mapped_column(sa.Text)
    username: Mapped[str | None] = mapped_column(sa.Text)
    idp_issuer: Mapped[str | None] = mapped_column(sa.Text)
    idp_subject: Mapped[str | None] = mapped_column(sa.Text)

    # Not a list: a user may have had a hundred thousand tokens.
    tokens: WriteOnlyMapped[UserToken] = relationship(
        back_populates="user", passive_deletes=True, order_by="(UserToken.created, UserToken.id_)"
    )
    resources: Mapped[list[UserResource]] = relationship(back_populates="user", passive_deletes=True)
    workflows: Mapped[list[Workflow]] = relationship(
        back_populates="owner", passive_deletes="all", order_by="(Workflow.created, Workflow.id_)"
    )
    workflows_shared_with_me: Mapped[list[Workflow]] = relationship(
        secondary=lambda: UserWorkflow.__table__,
        primaryjoin=lambda: sa.and_(User.id_ == UserWorkflow.user_id, UserWorkflow.grants()),
        secondaryjoin="and_(UserWorkflow.owner_id == Workflow.owner_id, "
        "UserWorkflow.workflow_id == Workflow.id_)",
        order_by="(Workflow.created, Workflow.id_)",
        viewonly=True,
    )
    """What others share with the user now, read-only; :func:`platform_db.workflows.list_shared` has pages."""

    # Audit rows outlive the user: there is no foreign key, and nothing follows when the user is deleted.
    audit_logs: WriteOnlyMapped[AuditLog] = relationship(
        primaryjoin=lambda: User.id_ == foreign(AuditLog.owner_id),
        order_by=(AuditLog.created, AuditLog.id_),
        passive_deletes="all",
    )
    """The audit rows about the user: ``session.scalars(user.audit_logs.select())``."""

    def __init__(self, *, access_token: str | None = None, **values: Any) -> None:
        super().__init__(**values)
        if access_token is not None:
            self.access_token = access_token

    @classmethod
    def owned_by(cls, tenant: uuid.UUID) -> sa.ColumnElement[bool]:
        """Return the condition that the user is the tenant."""
        return cls.id_ == tenant

    # -- tokens

    @property
    def latest_access_token(self) -> UserToken | None:
        """The access token that was requested or granted last."""
        return self._access_token()

    @property
    def active_token(self) -> UserToken | None:
        """The active access token, unless its time is over; there is at most one."""
        return self._access_token(UserTokenStatus.active)

    @property
    def access_token_status(self) -> str | None:
        """The status of the latest access token, by name; ``expired`` once an active one's time is over."""
        latest = self.latest_access_token
        if latest is None:
            return None
        expired = latest.status is UserTokenStatus.active and self.active_token is None
        return "expired" if expired else latest.status.value

    @property
    def access_token(self) -> str | None:
        """The value of the active access token."""
        token = self.active_token
        return token.token if token else None

    @access_token.setter
    def access_token(self, value: str) -> None:
        """Grant an access token with this value, for every scope; a requested one becomes active.

        Where another process has granted one since the user was loaded, the flush raises ``TokenError``.

        :raises errors.TokenError: the user has an active one.
        :raises errors.MalformedToken: the value is empty, or a mistyped ``pdb_…``.
        """
        if self.active_token is not None:
            raise errors.TokenError(f"user {self.id_} has already an active access token")
        requested = self._access_token(UserTokenStatus.requested)
        token = requested or UserToken(owner_id=self.id_, type_=UserTokenType.access)
        token.token = value
        token.scopes = [EVERY_SCOPE]
        token.status = UserTokenStatus.active
        if requested is None:
            self.tokens.add(token)
        # Not by log_action(): a new user is in no session yet.
        self.audit_logs.add(AuditLog(action=AuditLogAction.grant_token, details={"token_id": str(token.id_)}))

    def request_access_token(self) -> UserToken:
        """Ask for an access token, which an administrator grants.

        :raises errors.TokenError: the user has an active or a requested one.
        """
        words = {UserTokenStatus.active: "an active", UserTokenStatus.requested: "requested an"}
        for status, word in words.items():
            if self._access_token(status) is not None:
                raise errors.TokenError(f"user {self.id_} has already {word} access token")
        token = UserToken(owner_id=self.id_, type_=UserTokenType.access, status=UserTokenStatus.requested)
        self.tokens.add(token)
        self.log_action(AuditLogAction.request_token, {"token_id": str(token.id_)})
        return token

    def _access_token(self, status: UserTokenStatus | None = None) -> UserToken | None:
        """Return the newest access token, of this status if one is given; an active one is not expired."""
        pending = sa.inspect(self).attrs.tokens.history.added or ()
        for new in reversed(pending):
            if new.type_ is UserTokenType.access and status in (None, new.status):
                token: UserToken = new
                return token
        session = object_session(self)
        if session is None or not sa.inspect(self).persistent:
            return None
        query = (
            sa.select(UserToken)
            .where(UserToken.owner_id == self.id_, UserToken.type_ == UserTokenType.access)
            .order_by(UserToken.created.desc(), UserToken.id_.desc())
            .limit(1)
        )
        if status is not None:
            query = query.where(UserToken.status == status)
        if status is UserTokenStatus.active:
            query = query.where(
                sa.or_(UserToken.expires_at.is_(None), UserToken.expires_at > sa.func.statement_timestamp())
            )
        found: UserToken | None = session.scalars(query).one_or_none()
        return found

    # -- audit

    def log_action(self, action: AuditLogAction | str, details: Mapping[str, Any] | None = None) -> AuditLog:
        """Add an audit row about this user; it is stored with the session's transaction.

        :raises errors.UnknownAction: the action is not registered.
        :raises errors.TokenInText: a token's value is in the details.
        """
        row = AuditLog(owner_id=self.id_, action=action, details=dict(details) if details else None)
        session_of(self).add(row)
        return row

    # -- workspaces and quotas

    def get_user_workspace(self) -> str:
        """Return the path below which the user's workspaces lie."""
        return build_workspace_path(str(self.id_))

    def initialize_user_quota_limits(self) -> None:
        """Give the user the default limit for each resource that has none yet."""
        UserResource.create_defaults(session_of(self), [self.id_])

    def has_exceeded_quota(self) -> bool:
        """Tell whether the use of any resource has reached its limit."""
        return any(r.quota_limit is not None and r.quota_used >= r.quota_limit for r in self.resources)

    def get_quota_usage(self) -> dict[str, Any]:
        """Return use, limit and health per resource type name (see :func:`quota_usage`)."""
        return {
            r.resource.type_.value: quota_usage(r.resource.unit, r.quota_used, r.quota_limit)
            for r in self.resources
        }

    def get_workflow_overload_priority(self) -> float:
        """Return the factor, from 1.0 down to 0.1, by which the user's many runs lower their priority."""
        from platform_db.models.workflow import Workflow

        active = session_of(self).scalar(
            sa.select(sa.func.count())
            .select_from(Workflow)
            .where(Workflow.owner_id == self.id_, Workflow.status.in_((RunStatus.pending, RunStatus.running)))
        )
        return priority.overload_factor(active or 0, get_settings().max_concurrent_workflows)
