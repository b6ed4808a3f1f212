"""The metrics of a service's own pool: they ask no database."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa
from prometheus_client.core import GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from platform_db import sessions
from platform_db.database.pool import MeasuredPool


class PoolMetrics(Collector):
    """How an engine's connections are used, and how long a request waits for one.

    :param engine: by default that of this process, once it has one.
    """

    def __init__(self, engine: sa.Engine | None = None) -> None:
        self._engine = engine

    def describe(self) -> Iterable[Metric]:
        """Return nothing: registering a collector shall not make an engine."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Return the figures of this moment."""
        pool = (self._engine or sessions.get_engine()).pool
        if not isinstance(pool, MeasuredPool):
            return
        connections = GaugeMetricFamily(
            "platform_db_pool_connections",
            "Connections of this process's pool, by state; max is the most that it opens, +Inf: no limit.",
            labels=["state"],
        )
        connections.add_metric(["in_use"], pool.checkedout())
        connections.add_metric(["idle"], pool.checkedin())
        connections.add_metric(["max"], pool.most)
        yield connections
        waits, seconds = pool.waited()
        yield SummaryMetricFamily(
            "platform_db_pool_wait_seconds",
            "How long each use waited for a connection of the pool, with connecting and testing it.",
            count_value=waits,
            sum_value=seconds,
        )
