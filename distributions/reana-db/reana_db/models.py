"""REANA's names and habits on platform-db's models: the classes are platform-db's own, extended in place."""

from __future__ import annotations

import json
import logging
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import relationship, synonym

from platform_db import errors, priority
from platform_db.models import *
from platform_db.models.base import session_of
from platform_db.models.expiry import expire_row
from platform_db.models.resource import quota_usage
from platform_db.states import Status
from platform_db.workspaces import list_workspace
from reana_db import columns
from reana_db import errors as _errors  # raises platform-db's as SQLAlchemy's, too
from reana_db.config import (
    DEFAULT_QUOTA_LIMITS,
    DEFAULT_QUOTA_RESOURCES,
    REANA_MAX_CONCURRENT_BATCH_WORKFLOWS,
    REANA_RUNTIME_KUBERNETES_KEEP_ALIVE_JOBS_WITH_STATUSES,
    WORKFLOW_TERMINATION_QUOTA_UPDATE_POLICY,
)
from reana_db.statuses import (
    ALLOWED_WORKFLOW_STATUS_TRANSITIONS,
    ALLOWED_WORKSPACE_RETENTION_RULE_STATUS_TRANSITIONS,
    QuotaHealth,
    QuotaResourceType,
    ServiceStatus,
)
from reana_db.utils import update_workspace_retention_rules

WORKFLOW_TIME_FORMAT = "%Y-%m-%dT%H:%M:%S"

columns.install()

C = TypeVar("C")


def added_to(model: type) -> Callable[[C], C]:
    """Give a class of platform-db's what the decorated one has."""

    def add(habits: C) -> C:
        for name, value in vars(habits).items():
            if name == "__init__" or not name.startswith("__"):
                setattr(model, name, value)
        return habits

    return add


def generate_uuid() -> str:
    """Return a new id, as text."""
    return str(uuid.uuid4())


NAMES: dict[type, dict[str, str]] = {
    UserToken: {"user_": "user"},
    Workflow: {"reana_specification": "specification"},
    Job: {"workflow_uuid": "workflow_id", "docker_img": "container_image", "cmd": "command"},
    InteractiveSession: {"workflow": "workflows"},
    Service: {"workflow": "workflows"},
    ServiceLog: {"id": "number", "event_time": "at"},
    WorkspaceRetentionAuditLog: {"timestamp": "at", "action": "status"},
}
"""What REANA calls attributes of platform-db's."""

for _model, _names in NAMES.items():
    for _name, _own_name in _names.items():
        setattr(_model, _name, synonym(_own_name))

ServiceLog.service = relationship(Service, viewonly=True)
WorkflowResource.workflow = relationship(Workflow, viewonly=True)

# -- runs

# Services read these of each run of a list: not one by one, with a statement each.
_attribute: Any
for _attribute in (
    Workflow.specification,
    Workflow.input_parameters,
    Workflow.operational_options,
    Workflow.engine_specific,
    Workflow.complexity,
):
    _attribute.property.deferred = False
    _attribute.property.strategy_key = (("deferred", False), ("instrument", True))

_create_run = Workflow.__init__


@added_to(Workflow)
class _Workflow:
    get_new_run_number = Workflow.assign_run_number

    def __init__(
        self: Any,
        id_: Any,
        name: Any,
        owner_id: Any,
        reana_specification: Any,
        type_: Any,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        _create_run(self, id_, name, owner_id, reana_specification, type_, *args, **kwargs)
        self.input_parameters = self.input_parameters or {}
        self.operational_options = self.operational_options or {}
        self.complexity = self.complexity or []

    def can_transition_to(self: Any, next_status: RunStatus) -> bool:
        return (self.status, next_status) in ALLOWED_WORKFLOW_STATUS_TRANSITIONS

    def update_workflow_timestamp(self: Any, new_status: RunStatus) -> None:
        if new_status is RunStatus.running:
            self.run_started_at = datetime.now()
        elif new_status in (RunStatus.finished, RunStatus.failed):
            self.run_finished_at = datetime.now()
        elif new_status is RunStatus.stopped:
            self.run_stopped_at = datetime.now()

    @staticmethod
    def update_workflow_status(
        db_session: Any, workflow_uuid: Any, status: Any, new_logs: str = "", message: str | None = None
    ) -> None:
        workflow = db_session.query(Workflow).filter_by(id_=workflow_uuid).first()
        if workflow is None:
            raise errors.WorkflowNotFound(f"there is no workflow {workflow_uuid}")
        if status:
            workflow.status = status
        if new_logs:
            workflow.append_logs(f"{new_logs}\n")
        db_session.commit()

    def get_input_parameters(self: Any) -> Any:
        return self.specification.get("inputs", {}).get("parameters", {})

    def get_specification(self: Any) -> Any:
        return self.specification["workflow"].get("specification", {})

    def set_workspace_retention_rules(self: Any, rules: Iterable[Mapping[str, Any]]) -> None:
        session = session_of(self)
        session.add_all(WorkspaceRetentionRule(workflow_id=self.id_, **rule) for rule in rules)
        session.commit()

    def activate_workspace_retention_rules(self: Any) -> None:
        created = (
            session_of(self)
            .query(WorkspaceRetentionRule)
            .filter_by(
                owner_id=self.owner_id, workflow_id=self.id_, status=WorkspaceRetentionRuleStatus.created
            )
        )
        update_workspace_retention_rules(created, WorkspaceRetentionRuleStatus.active)

    def inactivate_workspace_retention_rules(self: Any) -> None:
        statuses = WorkspaceRetentionRuleStatus.created, WorkspaceRetentionRuleStatus.active
        rules = _rules_of_restarts(self, *statuses)
        update_workspace_retention_rules(rules, WorkspaceRetentionRuleStatus.inactive)

    def workspace_has_pending_retention_rules(self: Any) -> bool:
        return _rules_of_restarts(self, WorkspaceRetentionRuleStatus.pending).first() is not None

    def get_workspace_disk_usage(self: Any, summarize: bool = False, search: Any = None) -> Any:
        search = json.loads(search) if isinstance(search, str) and search else search
        return list_workspace(self.workspace_path, summarize=summarize, search=search)


def _rules_of_restarts(run: Workflow, *statuses: WorkspaceRetentionRuleStatus) -> Any:
    """Return the query of the rules of a run and of its restarts: REANA gives them all one workspace."""
    return (
        session_of(run)
        .query(WorkspaceRetentionRule)
        .join(WorkspaceRetentionRule.workflow)
        .filter(
            Workflow.owner_id == run.owner_id,
            Workflow.name == run.name,
            Workflow.run_number_major == run.run_number_major,
            WorkspaceRetentionRule.status.in_(statuses),
        )
    )


@event.listens_for(Workflow.status, "set")
def stamp(workflow: Workflow, status: RunStatus, before: RunStatus, initiator: Any) -> None:
    """Take the time of a status from this service's clock, as services do themselves."""
    if status != before:
        workflow.update_workflow_timestamp(status)


# Services mark it as changed by this name (flag_modified).
_attributes = sa.inspect(Workflow).class_manager
_attributes["reana_specification"] = _attributes["specification"]


@added_to(WorkspaceRetentionRule)
class _WorkspaceRetentionRule:
    def can_transition_to(self: Any, next_status: WorkspaceRetentionRuleStatus) -> bool:
        return (self.status, next_status) in ALLOWED_WORKSPACE_RETENTION_RULE_STATUS_TRANSITIONS

    def serialize(self: Any) -> dict[str, Any]:
        return {
            "id": str(self.id_),
            "workspace_files": self.workspace_files,
            "retention_days": self.retention_days,
            "apply_on": self.apply_on and self.apply_on.strftime(WORKFLOW_TIME_FORMAT),
            "status": self.status.name,
        }


# -- jobs


class Attribute:
    """What a job has for REANA alone, among its ``attributes``."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, job: Any, owner: type) -> Any:
        return self if job is None else (job.attributes or {}).get(self.name)

    def __set__(self, job: Any, value: Any) -> None:
        job.attributes = {**(job.attributes or {}), self.name: value}


@added_to(Job)
class _Job:
    cvmfs_mounts = Attribute()
    shared_file_system = Attribute()
    prettified_cmd = Attribute()

    @property
    def env_vars(self: Any) -> str | None:
        return None if self.environment is None else json.dumps(self.environment)

    @env_vars.setter
    def env_vars(self: Any, value: Any) -> None:
        self.environment = json.loads(value) if isinstance(value, str) else value


@added_to(JobCache)
class _JobCache:
    @property
    def access_times(self: Any) -> Any:
        return vars(self).get("_access_times") or self.job.attributes.get("access_times")

    @access_times.setter
    def access_times(self: Any, times: Any) -> None:
        self._access_times = times


@event.listens_for(JobCache, "before_insert")
def keep_access_times(mapper: Any, connection: sa.Connection, cached: Any) -> None:
    """Keep the times with the job: they serve until its result is known."""
    times = {"access_times": vars(cached).get("_access_times")}
    if times["access_times"] is None:
        return
    job = sa.update(Job).where(Job.owner_id == cached.owner_id, Job.id_ == cached.job_id)
    connection.execute(job.values(attributes=Job.attributes.op("||")(sa.literal(times, Job.attributes.type))))
    expire_row(session_of(cached), Job, (cached.owner_id, cached.job_id), ["attributes"])


@added_to(Status)
class _Status:
    @classmethod
    def should_cleanup_job(cls: Any, job_status: Status | str) -> bool:
        kept = set(REANA_RUNTIME_KUBERNETES_KEEP_ALIVE_JOBS_WITH_STATUSES)
        if unknown := kept - set(cls.__members__):
            logging.warning(
                "REANA_RUNTIME_KUBERNETES_KEEP_ALIVE_JOBS_WITH_STATUSES: there is no status %s; "
                "jobs are cleaned up that should perhaps stay",
                ", ".join(sorted(unknown)),
            )
        return getattr(job_status, "name", job_status) not in kept


# -- sessions and services


@added_to(Service)
class _Service:
    @property
    def logs(self: Any) -> list[ServiceLog]:
        return list(session_of(self).scalars(self.log_entries.select()))


@added_to(ServiceLog)
class _ServiceLog:
    @property
    def log(self: Any) -> Any:
        return json.loads(self.data)

    @log.setter
    def log(self: Any, value: Any) -> None:
        self.data = json.dumps(value).encode()


# -- users


class Rows(Sequence[Any]):
    """The rows of a collection that platform-db only writes to, and the collection's own methods."""

    def __init__(self, user: User, collection: Any) -> None:
        self.user, self.collection = user, collection

    def __len__(self) -> int:
        return len(self._read())

    def __getitem__(self, place: Any) -> Any:
        return self._read()[place]

    def _read(self) -> Sequence[Any]:
        return session_of(self.user).scalars(self.collection.select()).all()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.collection, name)


class ReadableRelationship:
    """A relationship that platform-db only writes to: of a user it is read, of the class it is joined."""

    def __init__(self, attribute: Any) -> None:
        self.attribute = attribute

    def __get__(self, user: User | None, owner: type) -> Any:
        return self.attribute if user is None else Rows(user, self.attribute.__get__(user, owner))


_request_token = User.request_access_token


@added_to(User)
class _User:
    tokens = ReadableRelationship(User.tokens)
    audit_logs = ReadableRelationship(User.audit_logs)

    def request_access_token(self: Any) -> None:
        _request_token(self)
        session_of(self).commit()

    def log_action(self: Any, action: AuditLogAction | str, details: Any = None) -> AuditLog:
        row = AuditLog(owner_id=self.id_, actor_id=self.id_, action=action, details=_without_secrets(details))
        session = session_of(self)
        session.add(row)
        session.commit()
        return row

    def get_quota_usage(self: Any) -> dict[str, Any]:
        return _usage(self.resources)

    def has_exceeded_quota(self: Any) -> bool:
        return any(r.quota_limit and r.quota_used >= r.quota_limit for r in self.resources)

    def get_workflow_overload_priority(self: Any) -> float:
        active = session_of(self).scalar(
            sa.select(sa.func.count())
            .select_from(Workflow)
            .where(Workflow.owner_id == self.id_, Workflow.status.in_((RunStatus.pending, RunStatus.running)))
        )
        return priority.overload_factor(active or 0, REANA_MAX_CONCURRENT_BATCH_WORKFLOWS)


_SECRET = re.compile(r"(?<=Token: )\S+|[^\s@()]+@[^\s@()]+")


def _without_secrets(details: Any) -> Any:
    """Return details without e-mail addresses and granted tokens: the audit log has ids only."""
    if isinstance(details, str):
        return _SECRET.sub("…", details)
    if isinstance(details, Mapping):
        return {name: _without_secrets(value) for name, value in details.items()}
    return details


# -- quotas


def _usage(resources: Iterable[Any]) -> dict[str, Any]:
    """Return use, limit and health of the resources that REANA knows."""
    usage = {}
    for row in resources:
        limit = getattr(row, "quota_limit", 0)
        if row.resource.type_.name in DEFAULT_QUOTA_RESOURCES:
            usage[row.resource.type_.name] = quota_usage(
                row.resource.unit, row.quota_used, max(limit, 0) if limit else None
            )
    return usage


_create_default_resources = Resource.initialise_default_resources


@added_to(Resource)
class _Resource:
    @staticmethod
    def initialise_default_resources(session: Any = None) -> list[Any]:
        from reana_db.database import Session

        if session is not None:
            return _create_default_resources(session)
        created = _create_default_resources(Session())
        Session.commit()
        return list(Session.query(Resource).filter(Resource.name.in_(created)))
