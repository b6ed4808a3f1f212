"""The queue: runs that wait for a worker, taken fairly between owners and given back.

A worker that cannot go on with a run gives it back by :func:`requeue`, for a later attempt.
"""

from platform_db.queue.requeueing import requeue

__all__ = ["requeue"]
