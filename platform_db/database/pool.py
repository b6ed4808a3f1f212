"""A pool that knows how long its users waited."""

from __future__ import annotations

import math
import threading
import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import PoolProxiedConnection


class MeasuredPool(sa.QueuePool):
    """SQLAlchemy's pool; it also adds up how long each connection was waited for.

    :ivar most: how many connections it opens at most.
    """

    def __init__(self, creator: Any, *, max_overflow: int = 10, **options: Any) -> None:
        super().__init__(creator, max_overflow=max_overflow, **options)
        self.most = math.inf if max_overflow < 0 else self.size() + max_overflow
        self._measuring = threading.Lock()
        self._waits, self._seconds = 0, 0.0

    def waited(self) -> tuple[int, float]:
        """Return how often a connection was asked for, and how many seconds that took in all."""
        with self._measuring:
            return self._waits, self._seconds

    def connect(self) -> PoolProxiedConnection:
        """Return a connection; what failed counts, too."""
        began = time.perf_counter()
        try:
            return super().connect()
        finally:
            seconds = time.perf_counter() - began
            with self._measuring:
                self._waits += 1
                self._seconds += seconds
