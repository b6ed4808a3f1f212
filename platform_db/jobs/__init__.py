"""Jobs: the cache of their results."""

from platform_db.jobs.cache import CachedResult, evict_cached_results, find_cached_result, store_result

__all__ = ["CachedResult", "evict_cached_results", "find_cached_result", "store_result"]
