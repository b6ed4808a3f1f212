"""The directories in which workflows keep their files: where they are, and how much space they take."""

from platform_db.workspaces.listing import list_workspace
from platform_db.workspaces.measure import get_disk_usage_or_zero, measure, measure_many
from platform_db.workspaces.measurement import Measurement, MissingWorkspaceError, WorkspaceError
from platform_db.workspaces.paths import build_workspace_path, canonical_workspace_path, is_managed_workspace

__all__ = [
    "Measurement",
    "MissingWorkspaceError",
    "WorkspaceError",
    "build_workspace_path",
    "canonical_workspace_path",
    "get_disk_usage_or_zero",
    "is_managed_workspace",
    "list_workspace",
    "measure",
    "measure_many",
]
