"""Metrics for Prometheus: of the database, and of a service's own pool. They take the extra ``metrics``.

``platform-db metrics serve`` serves those of the database; a service registers those of its pool beside its
own.
"""

from platform_db.metrics.database import DatabaseMetrics
from platform_db.metrics.pool import PoolMetrics

__all__ = ["DatabaseMetrics", "PoolMetrics"]
