"""The metrics of the database, read in one short transaction, at most once in a few seconds."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable

import sqlalchemy as sa
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from platform_db import errors, sessions
from platform_db.database.driver_errors import reason_of
from platform_db.health.in_time import ask_in_time
from platform_db.metrics.sources import SOURCES, Source, tenants_source

logger = logging.getLogger(__name__)

PREFIX = "platform_db_"
LEFT_OUT = "metrics_left_out"

CACHE_SECONDS = 5.0
STATEMENT_MILLISECONDS = 1000

READING_SECONDS = 5.0  # half of the time that Prometheus waits for
CONNECTING_SECONDS = 2.0  # that a connection may take beside it


class DatabaseMetrics(Collector):
    """The metrics of :mod:`platform_db.metrics.sources`, and ``platform_db_up``.

    Scrapers that come at once, or within the time that a reading is kept, share one. A metric that cannot be
    read, or not in time, is left out and counted, and the log says why; the others are there.

    :param engine: by default that of this process.
    :param tenants: of how many tenants, those with the most active runs, to tell the runs, too.
    :param keep: seconds that a reading is kept.
    :param statement_timeout: milliseconds that each metric may take.
    :param reading_timeout: seconds that all of them may take, once there is a connection.
    """

    def __init__(
        self,
        engine: sa.Engine | None = None,
        *,
        tenants: int = 0,
        keep: float = CACHE_SECONDS,
        statement_timeout: int = STATEMENT_MILLISECONDS,
        reading_timeout: float = READING_SECONDS,
    ) -> None:
        self._engine = engine
        self._sources = (*SOURCES, *((tenants_source(tenants),) if tenants else ()))
        self._keep = keep
        self._statement_timeout, self._reading_timeout = int(statement_timeout), reading_timeout
        self._begin = [
            sa.text(f"SET LOCAL {setting}")
            for setting in (
                "transaction_read_only = on",
                f"statement_timeout = {self._statement_timeout}",
                # Row-level security hides statistics, so the planner may take what is active for half of all.
                "enable_seqscan = off",
                "jit = off",
            )
        ]
        self._lock = threading.Lock()
        self._read_at = -float("inf")
        self._families: list[Metric] = []

    def describe(self) -> Iterable[Metric]:
        """Return nothing: registering a collector shall ask no database."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Return the last reading, or a new one where that is too old."""
        with self._lock:
            if time.monotonic() - self._read_at >= self._keep:
                self._families = self._read()
                self._read_at = time.monotonic()
            return self._families

    def _read(self) -> list[Metric]:
        families: dict[str, GaugeMetricFamily] = {}
        up = GaugeMetricFamily(f"{PREFIX}up", "1 where the database answers, 0 otherwise.")

        def read_all(connection: sa.Connection) -> list[bool]:
            give_up_at = time.monotonic() + self._reading_timeout
            for statement in self._begin:
                connection.execute(statement)
            return [self._add(families, source, connection, give_up_at) for source in self._sources]

        try:
            engine = self._engine or sessions.get_engine()
            read = ask_in_time(engine, self._reading_timeout + CONNECTING_SECONDS, read_all)
        except (errors.PlatformDBError, sa.exc.SQLAlchemyError) as error:
            logger.warning("the database cannot be asked for metrics: %s", reason_of(error))
            up.add_metric([], 0)
            return [up]
        up.add_metric([], 1)
        left_out = GaugeMetricFamily(f"{PREFIX}{LEFT_OUT}", "Readings that failed.", value=read.count(False))
        return [up, left_out, *families.values()]

    def _add(
        self,
        families: dict[str, GaugeMetricFamily],
        source: Source,
        connection: sa.Connection,
        give_up_at: float,
    ) -> bool:
        """Add what a source reads; one that fails adds nothing. Tell whether it was read."""
        milliseconds = int((give_up_at - time.monotonic()) * 1000)
        try:
            if milliseconds <= 0:
                raise TimeoutError("the others took too long")
            with connection.begin_nested():
                if milliseconds < self._statement_timeout:
                    connection.exec_driver_sql(f"SET LOCAL statement_timeout = {milliseconds}")
                rows = list(source.read(connection))
        except (sa.exc.DBAPIError, TimeoutError) as error:
            if isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated:
                raise
            logger.warning("metrics left out: %s: %s", ", ".join(source.gauges), reason_of(error))
            return False
        for column, (name, meaning) in enumerate(source.gauges.items(), start=len(source.labels)):
            if name not in families:
                families[name] = GaugeMetricFamily(f"{PREFIX}{name}", meaning, labels=source.labels)
            for row in rows:
                if row[column] is not None:
                    families[name].add_metric(list(row[: len(source.labels)]), row[column])
        return True
