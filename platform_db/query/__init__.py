"""Finding rows of any kind."""

from platform_db.query.lookup import describe, find_by_prefix, model_of

__all__ = ["describe", "find_by_prefix", "model_of"]
