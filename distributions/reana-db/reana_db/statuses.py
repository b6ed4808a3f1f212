"""Statuses as REANA knows them: by their numbers, which engines send, and by its tables of transitions."""

from __future__ import annotations

import enum
from typing import Any

from platform_db.models import (
    AccessType,
    AuditLogAction,
    InteractiveSessionType,
    JobStatus,
    ResourceType,
    ResourceUnit,
    RunStatus,
    ServiceType,
    UserTokenStatus,
    UserTokenType,
    WorkspaceRetentionRuleStatus,
)

ServiceStatus = RunStatus
QuotaResourceType = ResourceType


class QuotaHealth(enum.Enum):
    """How near use is to its limit."""

    healthy = 0
    warning = 1
    critical = 2


_NUMBERED: dict[type[enum.Enum], str] = {
    RunStatus: "created running finished failed deleted stopped queued pending",
    JobStatus: "created running finished failed stopped queued",
    WorkspaceRetentionRuleStatus: "created active inactive applied pending",
    UserTokenStatus: "requested active revoked",
    UserTokenType: "access",
    AuditLogAction: "request_token grant_token revoke_token",
    ResourceType: "cpu disk",
    ResourceUnit: "bytes_ milliseconds",
    InteractiveSessionType: "jupyter",
    ServiceType: "dask",
    AccessType: "read",
}


def _by_number(names: list[str]) -> Any:
    def _missing_(cls: type[enum.Enum], value: object) -> object:
        return cls[names[value]] if isinstance(value, int) and 0 <= value < len(names) else None

    return classmethod(_missing_)


for _enumeration, _names in _NUMBERED.items():
    _enumeration._missing_ = _by_number(_names.split())  # type: ignore[method-assign]

# The type of REANA's tokens has another name here.
UserTokenType.reana = UserTokenType.access  # type: ignore[attr-defined]


def _pairs(statuses: type[enum.Enum], follow: dict[str, str]) -> list[tuple[enum.Enum, enum.Enum]]:
    return [
        (statuses[before], statuses[after]) for before, names in follow.items() for after in names.split()
    ]


ALLOWED_WORKFLOW_STATUS_TRANSITIONS = _pairs(
    RunStatus,
    {
        "created": "deleted queued",
        "queued": "deleted pending failed",
        "pending": "running deleted",
        "running": "failed finished stopped running",
        "stopped": "deleted",
        "failed": "deleted running",
        "finished": "deleted running",
    },
)

ALLOWED_WORKSPACE_RETENTION_RULE_STATUS_TRANSITIONS = _pairs(
    WorkspaceRetentionRuleStatus,
    {
        "created": "active inactive",
        "active": "inactive pending",
        "inactive": "active",
        "pending": "applied active",
        "applied": "applied",
    },
)
