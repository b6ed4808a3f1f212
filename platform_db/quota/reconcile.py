"""Comparing what is stored with what is: on the disk, in the history of runs, and among the figures."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.database.session import SessionFactory
from platform_db.models import ResourceType
from platform_db.quota.batches import run_each
from platform_db.quota.cpu import CpuReport, update_users
from platform_db.quota.cpu import find_drift as find_cpu_drift
from platform_db.quota.disk import find_drift as find_disk_drift
from platform_db.quota.disk import sum_totals
from platform_db.quota.disk_update import (
    FIGURES_PER_BATCH,
    DiskReport,
    Measuring,
    measure_workspaces,
    store_figures,
)
from platform_db.quota.figures import Figure
from platform_db.quota.resources import AnyResource, get_default_key, lock_remaining_users
from platform_db.quota.scope import Scope, portions


@dataclass(frozen=True)
class Difference:
    """Something stored that is not what it should be.

    :param what: ``workspace``, ``total`` or ``reserved``.
    :param path: the workspace, where it is one.
    :param before: what is stored, in the resource's unit; None where nothing is.
    :param now: what it should be.
    """

    what: str
    user_id: uuid.UUID
    resource: str
    before: int | None
    now: int
    reason: str
    path: str | None = None


def reconcile(
    factory: SessionFactory,
    scope: Scope | None = None,
    measuring: Measuring | None = None,
    *,
    fix: bool = False,
    report: DiskReport | None = None,
) -> Iterator[Difference]:
    """Compute everything in scope again and yield what differs from what is stored.

    :param fix: store what was found, too; versions keep it from overwriting what others find meanwhile.
        Without it nothing is written or locked.
    :param report: is told of workspaces and users that fail.
    :raises errors.StorageMissing: a root is missing or empty, or too many workspaces are missing.
    """
    scope, measuring, report = scope or Scope(), measuring or Measuring(), report or DiskReport()
    with factory() as session, session.begin():
        cpu, disk = (get_default_key(session, type_) for type_ in ResourceType)
    yield from _workspaces(factory, disk, scope, measuring, report, fix)
    for user_ids in portions(factory, scope, disk):
        work = partial(_figures, cpu=cpu, disk=disk, fix=fix)
        for differences in run_each(factory, user_ids, work, report.fail_total):
            yield from differences


def _workspaces(
    factory: SessionFactory,
    disk: AnyResource,
    scope: Scope,
    measuring: Measuring,
    report: DiskReport,
    fix: bool,
) -> Iterator[Difference]:
    batch: list[Figure] = []

    def write() -> None:
        if fix and batch:
            store_figures(factory, disk, batch, report)
        batch.clear()

    for figure in measure_workspaces(factory, disk, scope, measuring, report, storing=fix):
        batch.append(figure)
        if len(batch) >= FIGURES_PER_BATCH:
            write()
        workspace = figure.workspace
        if workspace.used != figure.bytes:
            yield Difference(
                "workspace",
                workspace.owner_id,
                disk.name,
                workspace.used,
                figure.bytes,
                _reason(figure),
                workspace.path,
            )
    write()


def _reason(figure: Figure) -> str:
    if figure.workspace.used is None:
        return "it was never measured"
    if figure.method == "missing":
        return "the workspace is gone"
    return "its files changed since it was measured"


def _figures(
    session: Session, user_ids: Sequence[uuid.UUID], cpu: AnyResource, disk: AnyResource, fix: bool
) -> list[Difference]:
    return [*_totals(session, cpu, disk, user_ids, fix), *_reserved(session, cpu, disk, user_ids, fix)]


def _totals(
    session: Session, cpu: AnyResource, disk: AnyResource, user_ids: Sequence[uuid.UUID], fix: bool
) -> Iterator[Difference]:
    for drift in (sum_totals if fix else find_disk_drift)(session, disk, user_ids):
        reason = "it is not the sum of the stored figures of the workspaces"
        yield Difference("total", drift.user_id, disk.name, drift.before, drift.used, reason)
    for drift in (update_users if fix else find_cpu_drift)(session, cpu, user_ids, CpuReport()):
        reason = "it is not the sum of what ended in the current period"
        yield Difference("total", drift.user_id, cpu.name, drift.before, drift.used, reason)


_RESERVED = """
    SELECT t.owner_id, t.resource_id, t.quota_reserved AS before,
           coalesce(sum(greatest(r.amount, 0)), 0)::bigint AS reserved
    FROM platform.user_resource AS t
    LEFT JOIN platform.quota_reservation AS r ON r.owner_id = t.owner_id AND r.resource_id = t.resource_id
    WHERE t.owner_id = ANY(CAST(:users AS uuid[])) AND t.resource_id = CAST(:resource AS uuid)
    GROUP BY t.owner_id, t.resource_id, t.quota_reserved
"""
_FIND_RESERVED = sa.text(f"SELECT * FROM ({_RESERVED}) AS sums WHERE before <> reserved ORDER BY owner_id")
_CORRECT_RESERVED = sa.text(
    f"""
    UPDATE platform.user_resource AS total SET quota_reserved = sums.reserved
    FROM ({_RESERVED}) AS sums
    WHERE total.owner_id = sums.owner_id AND total.resource_id = sums.resource_id
      AND sums.before <> sums.reserved
    RETURNING total.owner_id, sums.before, sums.reserved
    """
)


def _reserved(
    session: Session, cpu: AnyResource, disk: AnyResource, user_ids: Sequence[uuid.UUID], fix: bool
) -> Iterator[Difference]:
    for resource in (cpu, disk):
        if fix:
            lock_remaining_users(session, user_ids, resource)
        rows = session.connection().execute(
            _CORRECT_RESERVED if fix else _FIND_RESERVED,
            {"users": [str(user) for user in user_ids], "resource": str(resource.id_)},
        )
        for row in rows:
            reason = "it is not the sum of the reservations"
            yield Difference("reserved", row.owner_id, resource.name, row.before, row.reserved, reason)
