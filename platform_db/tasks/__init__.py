"""Task records: what a cluster's scheduler logs of each task, in batches, and what others read of it."""

from platform_db.tasks.store import TaskStore

__all__ = ["TaskStore"]
