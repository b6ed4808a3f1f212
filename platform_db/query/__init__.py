"""Finding rows of any kind: one by its id, or a list by a filter."""

from platform_db.query.find import find, select_rows
from platform_db.query.lookup import describe, find_by_prefix

__all__ = ["describe", "find", "find_by_prefix", "select_rows"]
