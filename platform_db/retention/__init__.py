"""Retention: pruning old rows, and removing old files of workspaces."""

from platform_db.retention.prune import Pruned, choose_rules, prune, require_finished
from platform_db.retention.rules import RULES, RetentionRule

__all__ = ["RULES", "Pruned", "RetentionRule", "choose_rules", "prune", "require_finished"]
