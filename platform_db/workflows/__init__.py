"""Runs: finding, listing, counting and sharing them, and setting their status."""

from platform_db.query.shared import shared_with
from platform_db.workflows.find import find_workflow, get_workflow
from platform_db.workflows.listing import count_by_status, list_workflows
from platform_db.workflows.sharing import list_shared, share_workflow, unshare_workflow
from platform_db.workflows.status import update_workflow_status

__all__ = [
    "count_by_status",
    "find_workflow",
    "get_workflow",
    "list_shared",
    "list_workflows",
    "share_workflow",
    "shared_with",
    "unshare_workflow",
    "update_workflow_status",
]
