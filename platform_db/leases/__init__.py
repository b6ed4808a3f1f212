"""Leases: which worker holds which rows, and recovery of the rows of dead workers.

A worker calls :func:`heartbeat` for all the rows that it works on, more often than the age at which
:func:`recover` takes it for dead. The heartbeat stands in a row of its own beside the hot one. A row without
a lease has no holder, and is never recovered.
"""

from platform_db.leases.calls import end_lost_calls
from platform_db.leases.counting import count_alive
from platform_db.leases.holding import Claim, Held, Leased, heartbeat, release, this_worker
from platform_db.leases.policies import DEFAULT_POLICIES, NODE_POLICIES, Policy
from platform_db.leases.recovery import (
    Recovery,
    recover,
    recover_all,
    recover_owned_by,
)

__all__ = [
    "DEFAULT_POLICIES",
    "NODE_POLICIES",
    "Claim",
    "Held",
    "Leased",
    "Policy",
    "Recovery",
    "count_alive",
    "end_lost_calls",
    "heartbeat",
    "recover",
    "recover_all",
    "recover_owned_by",
    "release",
    "this_worker",
]
