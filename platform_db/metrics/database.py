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
from platform_db.metrics.sources import SOURCES, Source, tenants_source

logger = logging.getLogger(__name__)

PREFIX = "platform_db_"

CACHE_SECONDS = 5.0
STATEMENT_MILLISECONDS = 1000


class DatabaseMetrics(Collector):
    """The metrics of :mod:`platform_db.metrics.sources`, and ``platform_db_up``.

    Scrapers that come at once, or within the time that a reading is kept, share one. A metric that cannot be
    read is left out, and the log says why; the others are there.

    :param engine: by default that of this process.
    :param tenants: of how many tenants, those with the most active runs, to tell the runs, too.
    :param keep: seconds that a reading is kept.
    :param statement_timeout: milliseconds that each metric may take.
    """

    def __init__(
        self,
        engine: sa.Engine | None = None,
        *,
        tenants: int = 0,
        keep: float = CACHE_SECONDS,
        statement_timeout: int = STATEMENT_MILLISECONDS,
    ) -> None:
        self._engine = engine
        self._sources = (*SOURCES, *((tenants_source(tenants),) if tenants else ()))
        self._keep = keep
        self._begin = [
            sa.text(f"SET LOCAL {setting}")
            for setting in (
                "transaction_read_only = on",
                f"statement_timeout = {int(statement_timeout)}",
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
        is_up = False
        try:
            with (self._engine or sessions.get_engine()).connect() as connection:
                for statement in self._begin:
                    connection.execute(statement)
                for source in self._sources:
                    self._add(families, source, connection)
            is_up = True
        except (errors.PlatformDBError, sa.exc.SQLAlchemyError) as error:
            logger.warning("the database cannot be asked for metrics: %s", reason_of(error))
        up = GaugeMetricFamily(f"{PREFIX}up", "1 where the database answers, 0 otherwise.", value=is_up)
        return [up, *families.values()]

    def _add(self, families: dict[str, GaugeMetricFamily], source: Source, connection: sa.Connection) -> None:
        """Add what a source reads; one that fails adds nothing."""
        try:
            with connection.begin_nested():
                rows = list(source.read(connection))
        except sa.exc.DBAPIError as error:
            if error.connection_invalidated:
                raise
            logger.warning("metrics left out: %s: %s", ", ".join(source.gauges), reason_of(error))
            return
        for column, (name, meaning) in enumerate(source.gauges.items(), start=len(source.labels)):
            if name not in families:
                families[name] = GaugeMetricFamily(f"{PREFIX}{name}", meaning, labels=source.labels)
            for row in rows:
                if row[column] is not None:
                    families[name].add_metric(list(row[: len(source.labels)]), row[column])
