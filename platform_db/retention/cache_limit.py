"""Evicting cached results: each owner keeps so many, the most recently used."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa

from platform_db.database.session import SessionFactory
from platform_db.jobs.cache import evict_cached_results
from platform_db.settings import get_settings


def evict_beyond_limit(factory: SessionFactory, batch: int, tell: Callable[[int], None]) -> int:
    """Evict what is beyond ``PLATFORM_DB_JOB_CACHE_LIMIT``, and return how much others hold.

    :param batch: how many results go in one transaction.
    :param tell: is called with the number of results that went, batch by batch.
    """
    keep = get_settings().job_cache_limit
    with factory() as session:
        owners = session.connection().execute(_BEYOND, {"keep": keep}).all()
    left = 0
    for owner in owners:
        gone = 0
        while True:
            with factory() as session, session.begin():
                evicted = len(evict_cached_results(session, owner.owner_id, keep, batch=batch))
            if not evicted:
                break
            gone += evicted
            tell(evicted)
        left += max(0, owner.beyond - gone)
    return left


_BEYOND = sa.text("""
    SELECT owner_id, count(digest) - :keep AS beyond FROM platform.job_cache
    GROUP BY owner_id HAVING count(digest) > :keep ORDER BY owner_id
    """)
