"""What a cronjob does: count processing time and disk space, unless the policy switches that off."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from platform_db.database.session import SessionFactory
from platform_db.models import ResourceType
from platform_db.quota.cpu import CpuReport, update_cpu_usage
from platform_db.quota.disk_update import DiskReport, Measuring, Progress, update_disk_usage
from platform_db.quota.reservations import release_expired_reservations
from platform_db.quota.scope import Scope
from platform_db.settings import get_settings

ShowProgress = Callable[[str], AbstractContextManager[Progress | None]]
"""Takes the name of what is counted, and returns a context whose value is called with the progress."""


@dataclass(frozen=True)
class UsageReport:
    """What was updated; None where it was not asked for, or the policy switches it off."""

    cpu: CpuReport | None = None
    disk: DiskReport | None = None

    def raise_for_problems(self) -> None:
        """Raise :class:`errors.PartialFailure` where a workspace or a user could not be updated."""
        for report in (self.cpu, self.disk):
            if report is not None:
                report.raise_for_problems()


def update_usage(
    factory: SessionFactory,
    types: Collection[ResourceType] = tuple(ResourceType),
    scope: Scope | None = None,
    measuring: Measuring | None = None,
    *,
    dry_run: bool = False,
    override_policy: bool = False,
    show_progress: ShowProgress = lambda what: nullcontext(),
) -> UsageReport:
    """Release expired reservations, and bring processing time, then disk usage, up to date.

    :param factory: makes the sessions.
    :param types: what to update.
    :param dry_run: compute and measure, but store nothing.
    :param override_policy: update even where the policy
        (``PLATFORM_DB_PERIODIC_RESOURCE_QUOTA_UPDATE_POLICY``) switches it off.
    :param show_progress: is called once for each type.
    :raises errors.AlreadyRunning: another run of the same scope is going on.
    :raises errors.ResourceNotFound: the default resources were never created.
    """
    if not (override_policy or get_settings().periodic_resource_quota_update_policy):
        return UsageReport()
    if not dry_run:
        release_expired_reservations(factory)
    cpu = disk = None
    if ResourceType.cpu in types:
        with show_progress("users") as progress:
            cpu = update_cpu_usage(factory, scope, dry_run=dry_run, progress=progress)
    if ResourceType.disk in types:
        with show_progress("workspaces") as progress:
            disk = update_disk_usage(factory, scope, measuring, dry_run=dry_run, progress=progress)
    return UsageReport(cpu, disk)
