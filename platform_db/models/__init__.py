"""What is stored. One file per concept."""

from platform_db.models import flush as flush
from platform_db.models.audit import (
    NOBODY,
    AuditInbox,
    AuditLog,
    AuditLogAction,
    AuditSealed,
    register_audit_action,
)
from platform_db.models.base import Base
from platform_db.models.call import (
    CallArgument,
    CallArgumentSource,
    CallEdge,
    CallExecution,
    CallJob,
    CallNode,
    CallSubtreeTask,
    CallTask,
    Evaluation,
)
from platform_db.models.dependency import JobDependency
from platform_db.models.entity_tag import EntityTag, EntityTagEdit
from platform_db.models.event import EventCheckpoint, EventFailure, RowEvent
from platform_db.models.history import ExtraTransition, Note, StatusChange
from platform_db.models.job import Job, JobCache, JobCacheUse
from platform_db.models.lease import Lease, TaskLease, TaskOutcome
from platform_db.models.log_chunk import LogChunk, LogSize
from platform_db.models.progress import WorkflowProgress
from platform_db.models.queue import IdempotencyKey, OwnerLimit
from platform_db.models.resource import (
    InteractiveSessionResource,
    QuotaReservation,
    Resource,
    ResourceType,
    ResourceUnit,
    ServiceResource,
    UserResource,
    WorkflowResource,
)
from platform_db.models.result import WorkflowResult
from platform_db.models.retention import PruneMark, WorkspaceRetentionAuditLog, WorkspaceRetentionRule
from platform_db.models.run_number import RunCounter, format_run_number, split_run_number
from platform_db.models.seal import AuditChain, AuditSeal, AuditSealDigests
from platform_db.models.secret import SecretDigest
from platform_db.models.service import Service, ServiceLog, ServiceType, WorkflowService
from platform_db.models.session import InteractiveSession, InteractiveSessionType, WorkflowSession
from platform_db.models.sharing import AccessType, UserWorkflow
from platform_db.models.task_record import TaskRecord
from platform_db.models.token import UserToken, UserTokenLastUse, UserTokenType
from platform_db.models.user import User
from platform_db.models.value import Handle, HandleEdge, Subvalue, Value, ValueFile
from platform_db.models.version import WorkflowVersion
from platform_db.models.workflow import Workflow
from platform_db.states import JobStatus, RunStatus, UserTokenStatus, WorkspaceRetentionRuleStatus

__all__ = [
    "NOBODY",
    "AccessType",
    "AuditChain",
    "AuditInbox",
    "AuditLog",
    "AuditLogAction",
    "AuditSeal",
    "AuditSealDigests",
    "AuditSealed",
    "Base",
    "CallArgument",
    "CallArgumentSource",
    "CallEdge",
    "CallExecution",
    "CallJob",
    "CallNode",
    "CallSubtreeTask",
    "CallTask",
    "EntityTag",
    "EntityTagEdit",
    "Evaluation",
    "EventCheckpoint",
    "EventFailure",
    "ExtraTransition",
    "Handle",
    "HandleEdge",
    "IdempotencyKey",
    "InteractiveSession",
    "InteractiveSessionResource",
    "InteractiveSessionType",
    "Job",
    "JobCache",
    "JobCacheUse",
    "JobDependency",
    "JobStatus",
    "Lease",
    "LogChunk",
    "LogSize",
    "Note",
    "OwnerLimit",
    "PruneMark",
    "QuotaReservation",
    "Resource",
    "ResourceType",
    "ResourceUnit",
    "RowEvent",
    "RunCounter",
    "RunStatus",
    "SecretDigest",
    "Service",
    "ServiceLog",
    "ServiceResource",
    "ServiceType",
    "StatusChange",
    "Subvalue",
    "TaskLease",
    "TaskOutcome",
    "TaskRecord",
    "User",
    "UserResource",
    "UserToken",
    "UserTokenLastUse",
    "UserTokenStatus",
    "UserTokenType",
    "UserWorkflow",
    "Value",
    "ValueFile",
    "Workflow",
    "WorkflowProgress",
    "WorkflowResource",
    "WorkflowResult",
    "WorkflowService",
    "WorkflowSession",
    "WorkflowVersion",
    "WorkspaceRetentionAuditLog",
    "WorkspaceRetentionRule",
    "WorkspaceRetentionRuleStatus",
    "format_run_number",
    "register_audit_action",
    "split_run_number",
]
