"""Task records: what a cluster's scheduler logs of each task, in batches, and what others read of it."""

from platform_db.tasks.listing import Task, get_task, list_tasks, stored_bytes
from platform_db.tasks.pruning import prune_tasks
from platform_db.tasks.store import TaskStore

__all__ = ["Task", "TaskStore", "get_task", "list_tasks", "prune_tasks", "stored_bytes"]
