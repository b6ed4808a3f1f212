"""Who uses how much: one row per user, and on demand one per workflow, biggest first."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.bounds import require_limit
from platform_db.models import ResourceType, ResourceUnit
from platform_db.models.resource import quota_usage
from platform_db.quota.resources import DEFAULT_NAMES

ROWS_FETCHED = 1000


@dataclass(frozen=True)
class ResourceUse:
    """What a user has of one resource.

    :param limit: None is unlimited.
    :param reserved: what is held for what is about to be used.
    :param measured_at: when the total was last brought up to date.
    """

    resource: str
    type_: str
    unit: ResourceUnit
    used: int
    limit: int | None
    reserved: int
    period_start_at: datetime | None
    measured_at: datetime | None

    def human_readable(self, amount: int) -> str:
        """Write an amount of this resource for people."""
        return ResourceUnit.human_readable_unit(self.unit, amount)

    def as_dict(self) -> dict[str, Any]:
        """Return it as :meth:`platform_db.models.User.get_quota_usage` does, and more."""
        return {
            **quota_usage(self.unit, self.used, self.limit),
            "resource": self.resource,
            "reserved": self.reserved,
            "period_start_at": self.period_start_at and self.period_start_at.isoformat(),
            "measured_at": self.measured_at and self.measured_at.isoformat(),
        }


@dataclass(frozen=True)
class UserUse:
    """What a user has of all resources."""

    user_id: uuid.UUID
    email: str
    resources: list[ResourceUse]

    def as_dict(self) -> dict[str, Any]:
        """Return it with one entry per resource; that of a type's default resource is named by the type."""
        return {
            "user_id": str(self.user_id),
            "email": self.email,
            "quota": {r.type_: r.as_dict() for r in self.resources},
        }


_USERS = """
    SELECT u.id_ AS user_id, u.email, r.name, r.type_, r.unit, t.quota_used, t.quota_limit,
           t.quota_reserved, t.quota_period_start_at, t.measured_at
    FROM platform.user_ AS u
    LEFT JOIN (platform.user_resource AS t JOIN platform.resource AS r ON r.id_ = t.resource_id)
        ON t.owner_id = u.id_
"""
_IN_ORDER = " ORDER BY u.id_, r.type_, r.name"
_ALL_USERS = sa.text(_USERS + _IN_ORDER)
_ONE_USER = sa.text(f"{_USERS} WHERE u.id_ = CAST(:user AS uuid) {_IN_ORDER}")


def report_users(session: Session, user_id: uuid.UUID | None = None) -> Iterator[UserUse]:
    """Yield what each user, or the given one, has of each resource, in the order of their ids."""
    statement = _ALL_USERS if user_id is None else _ONE_USER
    rows = session.connection().execute(
        statement, {"user": user_id}, execution_options={"yield_per": ROWS_FETCHED}
    )
    for (id_, email), found in groupby(rows, key=itemgetter(0, 1)):
        resources = [
            ResourceUse(name, type_, ResourceUnit(unit), *amounts)
            for _, _, name, type_, unit, *amounts in found
            if name is not None
        ]
        yield UserUse(id_, email, resources)


@dataclass(frozen=True)
class StoredBytes:
    """How many bytes each system has stored for a user.

    The first three add up to "database storage", which is counted with each write.

    :param results: of runs and jobs, as far as the database has them.
    :param tasks: of a cluster's task records.
    :param values: of calls, such as redun's.
    :param values_in_files: what a store of files has of values, which is no part of the database's.
    """

    results: int
    tasks: int
    values: int
    values_in_files: int

    def as_dict(self) -> dict[str, Any]:
        """Return each as plain bytes and for people."""
        return {name: quota_usage(ResourceUnit.bytes_, size)["usage"] for name, size in vars(self).items()}


_STORED = sa.text("""
    SELECT (SELECT coalesce(sum(size), 0)::bigint FROM platform.workflow_result
            WHERE owner_id = CAST(:user AS uuid) AND file IS NULL) AS results,
           (SELECT coalesce(sum(size), 0)::bigint FROM platform.task_record
            WHERE owner_id = CAST(:user AS uuid)) AS tasks, counted.*
    FROM (
        SELECT coalesce(sum(octet_length(value)), 0)::bigint AS values,
               coalesce(sum(size - octet_length(value)), 0)::bigint AS values_in_files
        FROM platform.value WHERE owner_id = CAST(:user AS uuid)
    ) AS counted
    """)


def report_stored(session: Session, user_id: uuid.UUID) -> StoredBytes:
    """Return how many bytes each system has stored for a user; it reads all of the user's rows."""
    return StoredBytes(**session.connection().execute(_STORED, {"user": user_id}).one()._mapping)


@dataclass(frozen=True)
class WorkflowUse:
    """What a run uses.

    :param disk: bytes; None if its workspace was never measured.
    :param cpu: milliseconds; None if it has not ended.
    :param shared_by: how many of its owner's runs share its workspace; their owner's total has it once.
    """

    workflow_id: uuid.UUID
    name: str
    status: str
    disk: int | None
    cpu: int | None
    method: str | None
    shared_by: int
    measured_at: datetime | None

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            **vars(self),
            "workflow_id": str(self.workflow_id),
            "disk": None if self.disk is None else quota_usage(ResourceUnit.bytes_, self.disk)["usage"],
            "cpu": None if self.cpu is None else quota_usage(ResourceUnit.milliseconds, self.cpu)["usage"],
            "measured_at": self.measured_at and self.measured_at.isoformat(),
        }


_CPU, _DISK = DEFAULT_NAMES[ResourceType.cpu], DEFAULT_NAMES[ResourceType.disk]

_WORKFLOWS = sa.text(f"""
    SELECT w.id_ AS workflow_id, w.status,
           w.name || '.' || w.run_number_major
               || CASE WHEN w.run_number_minor > 0 THEN '.' || w.run_number_minor ELSE '' END AS name,
           disk.quota_used AS disk, cpu.quota_used AS cpu, disk.method, disk.measured_at,
           count(*) OVER (PARTITION BY w.workspace_path) AS shared_by
    FROM platform.workflow AS w
    LEFT JOIN platform.workflow_resource AS disk
        ON disk.owner_id = w.owner_id AND disk.workflow_id = w.id_
       AND disk.resource_id = (SELECT id_ FROM platform.resource WHERE name = '{_DISK}')
    LEFT JOIN platform.workflow_resource AS cpu
        ON cpu.owner_id = w.owner_id AND cpu.workflow_id = w.id_
       AND cpu.resource_id = (SELECT id_ FROM platform.resource WHERE name = '{_CPU}')
    WHERE w.owner_id = CAST(:user AS uuid)
    ORDER BY disk.quota_used DESC NULLS LAST, cpu.quota_used DESC NULLS LAST, w.id_ DESC
    LIMIT CAST(:limit AS bigint)
    """)


def report_workflows(session: Session, user_id: uuid.UUID, limit: int | None = None) -> list[WorkflowUse]:
    """Return what a user's runs use, the biggest first; deleted ones count for what is still on disk.

    :param limit: return so many at most.
    """
    if limit is not None:
        require_limit(limit)
    rows = session.connection().execute(_WORKFLOWS, {"user": user_id, "limit": limit})
    return [WorkflowUse(**row._mapping) for row in rows]
