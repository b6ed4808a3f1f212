"""Jobs: listing them, cleaning up after them, and the cache of their results."""

from platform_db.jobs.cache import CachedResult, evict_cached_results, find_cached_result, store_result
from platform_db.jobs.cleanup import should_cleanup_job
from platform_db.jobs.listing import list_jobs

__all__ = [
    "CachedResult",
    "evict_cached_results",
    "find_cached_result",
    "list_jobs",
    "should_cleanup_job",
    "store_result",
]
