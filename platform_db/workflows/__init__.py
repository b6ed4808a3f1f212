"""Runs: finding, listing, sharing, cancelling and deleting them, their status, results, graph, progress."""

from platform_db.query.shared import shared_with
from platform_db.workflows.cancellation import cancel, cancel_workflows
from platform_db.workflows.deletion import delete_workflows
from platform_db.workflows.find import find_workflow, get_workflow
from platform_db.workflows.graph import Dependency, Edge, Graph, Node, add_dependencies, graph
from platform_db.workflows.listing import count_by_status, list_workflows
from platform_db.workflows.overview import LatestRun, Overview, overview
from platform_db.workflows.progress import Progress, progress, progress_many
from platform_db.workflows.results import Result, delete_result, get_result, set_result
from platform_db.workflows.sharing import list_shared, share_workflow, unshare_workflow
from platform_db.workflows.status import update_workflow_status

__all__ = [
    "Dependency",
    "Edge",
    "Graph",
    "LatestRun",
    "Node",
    "Overview",
    "Progress",
    "Result",
    "add_dependencies",
    "cancel",
    "cancel_workflows",
    "count_by_status",
    "delete_result",
    "delete_workflows",
    "find_workflow",
    "get_result",
    "get_workflow",
    "graph",
    "list_shared",
    "list_workflows",
    "overview",
    "progress",
    "progress_many",
    "set_result",
    "share_workflow",
    "shared_with",
    "unshare_workflow",
    "update_workflow_status",
]
