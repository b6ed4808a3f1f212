"""Comparing what is stored with what is: on the disk, in the history of runs, and among the figures."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.database.session import SessionFactory
from platform_db.models import ResourceType
from platform_db.models.resource import stored_bytes
from platform_db.quota.batches import run_each
from platform_db.quota.cpu import find_drift as find_cpu_drift
from platform_db.quota.cpu import update_users
from platform_db.quota.disk import find_drift as find_disk_drift
from platform_db.quota.disk import sum_totals
from platform_db.quota.disk_update import (
    FIGURES_PER_BATCH,
    DiskReport,
    Measuring,
    in_batches,
    measure_workspaces,
    store_figures,
)
from platform_db.quota.figures import Drift, Figure, drifts, set_totals
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
        cpu, disk, database = (get_default_key(session, type_) for type_ in ResourceType)
    # No name is given to what it returns: a failure would keep it, and its processes, with the frame.
    measure = partial(measure_workspaces, factory, disk, scope, measuring, report, storing=fix)
    for batch in in_batches(measure(), FIGURES_PER_BATCH):
        if fix:
            store_figures(factory, disk, batch, report)
        for figure in batch:
            of = figure.workspace
            if of.used != figure.bytes:
                yield Difference(
                    "workspace", of.owner_id, disk.name, of.used, figure.bytes, _reason(figure), of.path
                )
    work = partial(_totals, cpu=cpu, disk=disk, database=database, fix=fix)
    for user_ids in portions(factory, scope, disk):
        yield from chain(*run_each(factory, user_ids, work, report.fail_total))


def _reason(figure: Figure) -> str:
    if figure.workspace.used is None:
        return "it was never measured"
    if figure.method == "missing":
        return "the workspace is gone"
    return "its files changed since it was measured"


def _totals(
    session: Session,
    user_ids: Sequence[uuid.UUID],
    cpu: AnyResource,
    disk: AnyResource,
    database: AnyResource,
    fix: bool,
) -> list[Difference]:
    def stored(resource: AnyResource) -> list[Drift]:
        if fix:
            lock_remaining_users(session, user_ids, resource)
        return drifts(session, _CORRECT_STORED if fix else sa.text(_FIND_STORED), user_ids, resource)

    def reserved(resource: AnyResource) -> list[Drift]:
        if fix:
            lock_remaining_users(session, user_ids, resource)
        return drifts(session, _CORRECT if fix else sa.text(_FIND), user_ids, resource)

    of_disk = (sum_totals if fix else find_disk_drift)(session, user_ids, disk)
    of_cpu = (update_users if fix else find_cpu_drift)(session, user_ids, cpu).totals
    found = (
        ("total", disk, of_disk, "it is not the sum of the stored figures of the workspaces"),
        ("total", cpu, of_cpu, "it is not the sum of what ended in the current period"),
        ("total", database, stored(database), "it is not the sum of what the database stores"),
        *(
            ("reserved", resource, reserved(resource), "it is not the sum of the reservations")
            for resource in (cpu, disk, database)
        ),
    )
    return [
        Difference(what, drift.user_id, resource.name, drift.before, drift.used, reason)
        for what, resource, drifted, reason in found
        for drift in drifted
    ]


_FIND_STORED = f"""
    SELECT * FROM (
        SELECT t.owner_id, t.quota_used AS before, {stored_bytes("t.owner_id")} AS used
        FROM platform.user_resource AS t
        WHERE t.owner_id = ANY(CAST(:users AS uuid[])) AND t.resource_id = CAST(:resource AS uuid)
    ) AS sums WHERE before <> used ORDER BY owner_id
"""
_CORRECT_STORED = set_totals("quota_used = sums.used, measured_at = clock_timestamp()", _FIND_STORED)

_FIND = """
    SELECT * FROM (
        SELECT t.owner_id, t.quota_reserved AS before,
               coalesce(sum(greatest(r.amount, 0)), 0)::bigint AS used
        FROM platform.user_resource AS t
        LEFT JOIN platform.quota_reservation AS r
            ON r.owner_id = t.owner_id AND r.resource_id = t.resource_id
        WHERE t.owner_id = ANY(CAST(:users AS uuid[])) AND t.resource_id = CAST(:resource AS uuid)
        GROUP BY t.owner_id, t.quota_reserved
    ) AS sums WHERE before <> used ORDER BY owner_id
"""
_CORRECT = set_totals("quota_reserved = sums.used", _FIND)
