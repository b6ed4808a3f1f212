"""The queue: workers take the runs and jobs that are next, fairly between owners and within their limits.

:func:`claim` takes queued runs to pending, each with a lease of the worker, in one short transaction. The
owner who was served longest ago is next; within one owner the priority decides, then the age. The lease is
kept as any other: the worker calls :func:`platform_db.leases.heartbeat`, and recovery puts back what a dead
worker has claimed. A worker that cannot do a run now gives it back by :func:`requeue`, for a later attempt.

An owner's turn and limits are in one row of that owner (``owner_limit``), so claims of two owners never meet,
and no claim waits for another.
"""

from platform_db.leases.holding import Claim
from platform_db.queue.claiming import claim
from platform_db.queue.explanation import Explanation, Obstacle, explain
from platform_db.queue.handing_back import finish, release
from platform_db.queue.limits import UNLIMITED, Limits, set_limits
from platform_db.queue.requeueing import requeue
from platform_db.queue.status import OwnerQueue, queue_status

__all__ = [
    "UNLIMITED",
    "Claim",
    "Explanation",
    "Limits",
    "Obstacle",
    "OwnerQueue",
    "claim",
    "explain",
    "finish",
    "queue_status",
    "release",
    "requeue",
    "set_limits",
]
