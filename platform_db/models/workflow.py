"""Workflows: each row is one run."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, WriteOnlyMapped, deferred, mapped_column, relationship, validates

from platform_db import errors, priority
from platform_db.models.base import (
    CHANGED_OFTEN,
    STORAGE,
    Base,
    Running,
    partial_index,
    room_above,
    session_of,
)
from platform_db.models.expiry import expire_rows
from platform_db.models.log import HasLog
from platform_db.models.log_chunk import LogChunk
from platform_db.models.resource import WorkflowResource, quota_usage
from platform_db.models.retention import WorkspaceRetentionRule
from platform_db.models.run_number import asked_number, format_run_number, take_run_number
from platform_db.models.service import Service, WorkflowService
from platform_db.models.session import InteractiveSession, WorkflowSession
from platform_db.models.sharing import UserWorkflow
from platform_db.models.types import Json, Timestamp
from platform_db.states import RunStatus, WorkspaceRetentionRuleStatus
from platform_db.workspaces import build_workspace_path, canonical_workspace_path, list_workspace
from platform_db.workspaces.listing import Row, Search

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from platform_db.models.job import Job
    from platform_db.models.user import User


class Workflow(HasLog, Running, Base):
    """One run of a workflow.

    Its run number is given by the database when it is written. Its status is guarded there, too
    (``schema/sql/guard.sql``), where the three times and ``revision`` are also kept.

    :param logs: text with which the run's log begins.
    :param restart: whether this run restarts an earlier one of the same name.
    :param run_number: with ``restart``, the run to restart, such as ``"2"`` or ``"2.3"`` (without it, the
        latest one); otherwise the number to give, for a run that comes from elsewhere.
    :param start_after: when the queue may hand it out first; None is at once.
    :param workspace_path: where the run's files lie, stored in its canonical form
        (:func:`platform_db.workspaces.canonical_workspace_path`); by default below the owner's directory.
    """

    type_: Mapped[str] = mapped_column(sa.Text)
    specification: Mapped[Any] = deferred(mapped_column(Json, nullable=True))
    input_parameters: Mapped[Any] = deferred(mapped_column(Json, nullable=True))
    operational_options: Mapped[Any] = deferred(mapped_column(Json, nullable=True))
    engine_specific: Mapped[Any] = deferred(mapped_column(Json, nullable=True))
    complexity: Mapped[Any] = deferred(mapped_column(Json, nullable=True))
    priority: Mapped[int | None]
    job_progress: Mapped[Any] = mapped_column(Json, default=dict, server_default="{}")
    workspace_path: Mapped[str] = mapped_column(sa.Text)
    restart: Mapped[bool] = mapped_column(server_default="false")
    run_number_major: Mapped[int] = mapped_column(server_default=sa.FetchedValue())
    run_number_minor: Mapped[int] = mapped_column(server_default=sa.FetchedValue())
    git_ref: Mapped[str | None] = mapped_column(sa.Text)
    git_repo: Mapped[str | None] = mapped_column(sa.Text)
    git_provider: Mapped[str | None] = mapped_column(sa.Text)
    launcher_url: Mapped[str | None] = mapped_column(sa.Text)
    labels: Mapped[dict[str, str]] = mapped_column(Json, default=dict, server_default="{}")
    version: Mapped[int] = mapped_column(server_default="1", server_onupdate=sa.FetchedValue())
    start_after: Mapped[datetime | None] = mapped_column(Timestamp)
    stop_requested_at: Mapped[datetime | None] = mapped_column(Timestamp)

    owner: Mapped[User] = relationship(back_populates="workflows")
    jobs: Mapped[list[Job]] = relationship(
        back_populates="workflow", passive_deletes=True, order_by="(Job.created, Job.id_)"
    )
    shares: Mapped[list[UserWorkflow]] = relationship(back_populates="workflow", passive_deletes=True)
    users_it_is_shared_with: Mapped[list[User]] = relationship(
        secondary=lambda: UserWorkflow.__table__,
        primaryjoin=lambda: sa.and_(
            Workflow.owner_id == UserWorkflow.owner_id,
            Workflow.id_ == UserWorkflow.workflow_id,
            UserWorkflow.grants(),
        ),
        order_by="(User.created, User.id_)",
        viewonly=True,
    )
    """The users that the run is shared with now, read-only."""

    resources: Mapped[list[WorkflowResource]] = relationship(viewonly=True)
    retention_rules: Mapped[list[WorkspaceRetentionRule]] = relationship(
        back_populates="workflow",
        passive_deletes=True,
        order_by="(WorkspaceRetentionRule.created, WorkspaceRetentionRule.id_)",
    )
    sessions: Mapped[list[InteractiveSession]] = relationship(
        secondary=lambda: WorkflowSession.__table__,
        back_populates="workflows",
        passive_deletes=True,
        order_by="(InteractiveSession.created, InteractiveSession.id_)",
    )
    """The interactive sessions on the run; a new one that is appended gets the run's owner."""

    services: Mapped[list[Service]] = relationship(
        secondary=lambda: WorkflowService.__table__,
        back_populates="workflows",
        passive_deletes=True,
        order_by="(Service.created, Service.id_)",
    )
    """The services that the run uses; a new one that is appended gets the run's owner."""

    log_chunks: WriteOnlyMapped[LogChunk] = relationship(passive_deletes=True, order_by=LogChunk.number)

    __table_args__ = (
        *Running.constraints(),
        sa.UniqueConstraint("owner_id", "name", "run_number_major", "run_number_minor"),
        # Each index costs every change of a status its part: the status has none of its own. Neither has the
        # age alone: the planner would take it for the list of one owner, too, and read over all others' runs.
        sa.Index("ix_workflow_owner_id_created", "owner_id", "created", "id_", postgresql_include=["status"]),
        sa.Index("ix_workflow_owner_id_workspace_path", "owner_id", "workspace_path"),
        partial_index("ix_workflow_deleted", "status = 'deleted'", "id_"),
        partial_index(
            "ix_workflow_in_progress",
            "status IN ('created', 'queued', 'pending', 'running')",
            "status",
            "id_",
            "owner_id",
        ),
        # An owner's next run, and what the owner has at work. Because of IS TRUE no other index serves the
        # condition: while statistics are from before a burst of runs, the planner would read them all by one.
        sa.Index(
            "ix_workflow_ready",
            "owner_id",
            sa.text("priority DESC NULLS LAST"),
            "created",
            "id_",
            postgresql_where=sa.text("(status = 'queued' AND start_after IS NULL) IS TRUE"),
        ),
        partial_index(
            "ix_workflow_delayed",
            "(status = 'queued' AND start_after IS NOT NULL) IS TRUE",
            "owner_id",
            "start_after",
        ),
        partial_index(
            "ix_workflow_at_work", "(status IN ('pending', 'running')) IS TRUE", "owner_id", "status"
        ),
        partial_index(
            "ix_workflow_stop_requested",
            "stop_requested_at IS NOT NULL AND status = 'running'",
            "stop_requested_at",
        ),
        # The longest wait of all is one look-up.
        sa.Index(
            "ix_workflow_waiting",
            sa.text("greatest(created, start_after)"),
            postgresql_where=sa.text("(status = 'queued') IS TRUE"),
        ),
        # What is indexed must fit into an index entry.
        sa.CheckConstraint("octet_length(name) BETWEEN 1 AND 1024", name="name_length"),
        sa.CheckConstraint("octet_length(workspace_path) <= 2048", name="workspace_path_length"),
        # Statements compare paths as text, also for one that lies in another, so each has one form:
        # absolute, without ".", "..", "//" or a slash at its end. Each change of a status checks it again; a
        # regular expression takes three times as long.
        sa.CheckConstraint(
            "starts_with(workspace_path, '/') AND strpos(workspace_path || '/', '//') = 0"
            " AND strpos(workspace_path || '/', '/./') = 0 AND strpos(workspace_path || '/', '/../') = 0",
            name="workspace_path_canonical",
        ),
        sa.CheckConstraint("version >= 1", name="version_positive"),
        sa.CheckConstraint("run_number_major >= 1 AND run_number_minor >= 0", name="run_number_positive"),
        # Room for HOT updates: a run changes its status several times.
        {"info": {STORAGE: f"fillfactor = 80, {CHANGED_OFTEN}"}},
    )

    def __init__(
        self,
        id_: uuid.UUID | str | None = None,
        name: str | None = None,
        owner_id: uuid.UUID | str | None = None,
        specification: Any = None,
        type_: str | None = None,
        logs: str | bytes = "",
        input_parameters: Any = None,
        operational_options: Any = None,
        status: RunStatus = RunStatus.created,
        complexity: Any = None,
        git_ref: str = "",
        git_repo: str | None = None,
        git_provider: str | None = None,
        workspace_path: str | None = None,
        restart: bool = False,
        run_number: str | None = None,
        launcher_url: str | None = None,
        **values: Any,
    ) -> None:
        values |= {
            "id_": id_,
            "name": name,
            "owner_id": owner_id,
            "specification": specification,
            "type_": type_,
            "input_parameters": input_parameters,
            "operational_options": operational_options,
            "status": status,
            "complexity": complexity,
            "git_ref": git_ref,
            "git_repo": git_repo,
            "git_provider": git_provider,
            "workspace_path": workspace_path,
            "restart": restart,
            "launcher_url": launcher_url,
        }
        super().__init__(**{name: value for name, value in values.items() if value is not None})
        if run_number is not None:
            self._ask_for_number(run_number)
        self.take_defaults_from_owner()
        if logs:
            self.append_logs(logs)

    def take_defaults_from_owner(self) -> None:
        """Set the owner's id and the workspace's default path, once the owner is known."""
        if self.owner_id is None and self.owner is not None:
            self.owner_id = self.owner.id_
        if self.workspace_path is None and self.owner_id is not None:
            self.workspace_path = build_workspace_path(str(self.owner_id), str(self.id_))

    @validates("workspace_path")
    def _canonical_path(self, key: str, path: str) -> str:
        return canonical_workspace_path(path)

    # -- run numbers

    @property
    def run_number(self) -> str:
        """The run number, such as ``"2"`` or ``"2.1"``.

        :raises errors.RunNumberError: the run has none before it is flushed.
        """
        if self.run_number_minor is None:
            raise errors.RunNumberError("this run has no number before it is flushed")
        return format_run_number(self.run_number_major, self.run_number_minor)

    def assign_run_number(self, run_number: str | None = None) -> tuple[int, int]:
        """Give this run its number now instead of at flush, and return it.

        :param run_number: for a restart, the run that it restarts; otherwise the number to give, for a run
            that comes from elsewhere.
        :raises errors.RunNumberError: it is a restart, and there is no such run; or it has another number.
        """
        if self.run_number_minor is not None:
            if run_number not in (None, self.run_number):
                raise errors.RunNumberError(f"this run is {self.run_number} already")
            return self.run_number_major, self.run_number_minor
        if run_number is not None:
            self._ask_for_number(run_number)
        if self.run_number_minor is None:
            take_run_number(session_of(self), self)
        return self.run_number_major, self.run_number_minor

    def _ask_for_number(self, run_number: str) -> None:
        """Note the number that is given; what the database is to give stays unset."""
        self.run_number_major, minor = asked_number(run_number, restart=bool(self.restart))
        if minor is not None:
            self.run_number_minor = minor

    def get_full_workflow_name(self) -> str:
        """Return the name with the run number: ``name.2.1``."""
        return f"{self.name}.{self.run_number}"

    def get_all_restarts(self) -> Sequence[Workflow]:
        """Return the runs with the same name and major number, this one among them, oldest first."""
        statement = (
            sa.select(Workflow)
            .filter_by(owner_id=self.owner_id, name=self.name, run_number_major=self.run_number_major)
            .order_by(Workflow.run_number_minor)
        )
        return session_of(self).scalars(statement).all()

    # -- status

    def update_workflow_timestamp(self, status: RunStatus) -> None:
        """Set the time that belongs to ``status`` to now, by the database's clock, at the next flush.

        The guard sets it with every change of the status; this is for setting a time again.
        """
        now = sa.func.clock_timestamp()
        if status is RunStatus.running:
            self.run_started_at = now
            self.run_finished_at = self.run_stopped_at = None
        elif status in (RunStatus.finished, RunStatus.failed):
            self.run_finished_at = now
        elif status is RunStatus.stopped:
            self.run_stopped_at = now

    @staticmethod
    def update_workflow_status(
        session: Session,
        workflow_uuid: Workflow | uuid.UUID | str,
        status: RunStatus,
        new_logs: str | bytes = "",
        message: str | None = None,
    ) -> RunStatus:
        """Set a run's status, append to its log, and return the stored status.

        See :func:`platform_db.workflows.update_workflow_status`.
        """
        update: Callable[..., RunStatus] = room_above("workflows", "update_workflow_status")
        return update(session, workflow_uuid, status, new_logs, message)

    # -- what it has stored

    def _own_chunks(self) -> tuple[sa.ColumnElement[bool], ...]:
        owned = LogChunk.owner_id == self.owner_id
        return (owned, LogChunk.workflow_id == self.id_, LogChunk.job_id.is_(None))

    def get_input_parameters(self) -> Any:
        """Return the input parameters, ``{}`` where there are none."""
        return self.input_parameters or {}

    def get_specification(self) -> Any:
        """Return the specification."""
        return self.specification

    def get_owner_access_token(self) -> str | None:
        """Return the value of the owner's active access token."""
        return self.owner.access_token

    def get_workspace_disk_usage(self, summarize: bool = False, search: Search | None = None) -> list[Row]:
        """Return what lies in the workspace (see :func:`platform_db.workspaces.list_workspace`)."""
        return list_workspace(self.workspace_path, summarize=summarize, search=search)

    def get_quota_usage(self) -> dict[str, Any]:
        """Return the use per resource type name (see :func:`quota_usage`)."""
        return {r.resource.type_.value: quota_usage(r.resource.unit, r.quota_used) for r in self.resources}

    # -- priority

    def get_complexity_priority(self, total_cluster_memory: int) -> int:
        """Return 0 to 100: how small the run is for a cluster with that many bytes of memory."""
        return priority.complexity_priority(self.complexity, total_cluster_memory)

    def get_priority(self, cluster_memory: int) -> int:
        """Return 0 to 100: the complexity priority, lowered for an owner with many runs."""
        return priority.workflow_priority(
            self.get_complexity_priority(cluster_memory), self.owner.get_workflow_overload_priority()
        )

    # -- retention rules

    def set_workspace_retention_rules(self, rules: Sequence[Mapping[str, Any]]) -> None:
        """Add a rule for each ``{"workspace_files", "retention_days"}``, or change a known one's days."""
        known = {rule.workspace_files: rule for rule in self.retention_rules}
        for values in rules:
            if rule := known.get(values["workspace_files"]):
                rule.retention_days = values["retention_days"]
            else:
                self.retention_rules.append(WorkspaceRetentionRule(**values))

    def activate_workspace_retention_rules(self) -> None:
        """Activate the created rules, as the database does when a run finishes or fails.

        They apply at the end of the day, ``retention_days`` from today (UTC).
        """
        function = sa.func.platform.activate_workspace_retention_rules
        self._change_retention_rules(function(self.owner_id, self.id_))

    def inactivate_workspace_retention_rules(self) -> None:
        """Inactivate the rules of the runs that share this workspace, as the database does on a restart."""
        function = sa.func.platform.inactivate_workspace_retention_rules
        self._change_retention_rules(function(self.owner_id, self.workspace_path))

    def _change_retention_rules(self, change: sa.ColumnElement[Any]) -> None:
        session = session_of(self)
        session.flush()
        session.execute(sa.select(change))
        session.expire(self, ["retention_rules"])
        expire_rows(session, WorkspaceRetentionRule, {self.owner_id})

    def workspace_has_pending_retention_rules(self) -> bool:
        """Tell whether a rule of this run, or of one that shares its workspace, is being applied."""
        pending = (
            sa.select(WorkspaceRetentionRule.id_)
            .join(WorkspaceRetentionRule.workflow)
            .where(
                Workflow.owner_id == self.owner_id,
                Workflow.workspace_path == self.workspace_path,
                WorkspaceRetentionRule.owner_id == self.owner_id,
                WorkspaceRetentionRule.status == WorkspaceRetentionRuleStatus.pending,
            )
            .limit(1)
        )
        return session_of(self).scalar(pending) is not None
