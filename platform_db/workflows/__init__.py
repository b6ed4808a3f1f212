"""Runs: creating, finding, listing, sharing, cancelling and deleting them, their versions, results, graph."""

from platform_db.query.shared import shared_with
from platform_db.workflows.cancellation import cancel, cancel_workflows
from platform_db.workflows.creation import (
    CreatedWorkflow,
    NewWorkflow,
    RunOptions,
    create_workflow,
    create_workflows,
)
from platform_db.workflows.deletion import delete_workflows
from platform_db.workflows.find import find_workflow, get_workflow
from platform_db.workflows.graph import Dependency, Edge, Graph, Node, add_dependencies, graph
from platform_db.workflows.listing import count_by_status, list_workflows
from platform_db.workflows.overview import LatestRun, Overview, overview
from platform_db.workflows.progress import Progress, progress, progress_many
from platform_db.workflows.results import Result, delete_result, get_result, set_result
from platform_db.workflows.sharing import list_shared, share_workflow, unshare_workflow
from platform_db.workflows.status import update_workflow_status
from platform_db.workflows.versions import (
    KEEP,
    NewVersion,
    Version,
    VersionSummary,
    get_version,
    list_versions,
    update_specification,
)

__all__ = [
    "KEEP",
    "CreatedWorkflow",
    "Dependency",
    "Edge",
    "Graph",
    "LatestRun",
    "NewVersion",
    "NewWorkflow",
    "Node",
    "Overview",
    "Progress",
    "Result",
    "RunOptions",
    "Version",
    "VersionSummary",
    "add_dependencies",
    "cancel",
    "cancel_workflows",
    "count_by_status",
    "create_workflow",
    "create_workflows",
    "delete_result",
    "delete_workflows",
    "find_workflow",
    "get_result",
    "get_version",
    "get_workflow",
    "graph",
    "list_shared",
    "list_versions",
    "list_workflows",
    "overview",
    "progress",
    "progress_many",
    "set_result",
    "share_workflow",
    "shared_with",
    "unshare_workflow",
    "update_specification",
    "update_workflow_status",
]
