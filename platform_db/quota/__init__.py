"""Quotas: what users take, counted at the speed of the disk, and limits that hold."""

from platform_db.quota.cpu import (
    CpuReport,
    update_cpu_usage,
    update_users_cpu_quota,
    update_workflow_cpu_quota,
)
from platform_db.quota.disk import store_workflow_disk_quota, update_users_disk_quota
from platform_db.quota.disk_update import DiskReport, Measuring, update_disk_usage
from platform_db.quota.limits import set_limit
from platform_db.quota.periodic import UsageReport, update_usage
from platform_db.quota.periods import initialise_default_periods
from platform_db.quota.reconcile import Difference, reconcile
from platform_db.quota.reservations import (
    Reservation,
    commit_reservation,
    release,
    release_expired_reservations,
    reserve,
)
from platform_db.quota.resources import get_default_quota_resource
from platform_db.quota.scope import Scope

__all__ = [
    "CpuReport",
    "Difference",
    "DiskReport",
    "Measuring",
    "Reservation",
    "Scope",
    "UsageReport",
    "commit_reservation",
    "get_default_quota_resource",
    "initialise_default_periods",
    "reconcile",
    "release",
    "release_expired_reservations",
    "reserve",
    "set_limit",
    "store_workflow_disk_quota",
    "update_cpu_usage",
    "update_disk_usage",
    "update_usage",
    "update_users_cpu_quota",
    "update_users_disk_quota",
    "update_workflow_cpu_quota",
]
