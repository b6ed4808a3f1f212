"""Leases: who works on what, and what becomes of the work of those who died.

A worker calls :func:`heartbeat` for all that it works on, more often than the age at which :func:`recover`
takes it for dead. The heartbeat stands in a row of its own beside the hot one. A row without a lease is
nobody's, and is never recovered.
"""

from platform_db.leases.holding import Leased, heartbeat, release, this_worker
from platform_db.leases.recovery import (
    DEFAULT_POLICIES,
    Policy,
    Recovery,
    recover,
    recover_all,
    recover_owned_by,
)

__all__ = [
    "DEFAULT_POLICIES",
    "Leased",
    "Policy",
    "Recovery",
    "heartbeat",
    "recover",
    "recover_all",
    "recover_owned_by",
    "release",
    "this_worker",
]
