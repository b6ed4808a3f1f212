"""A scrape takes the same time among a million runs as among ten thousand."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

pytest.importorskip("prometheus_client", reason="needs prometheus-client: pip install 'platform-db[metrics]'")

from benchmarks.metrics import measure

FEW, MANY = 10_000, 1_000_000


@pytest.mark.soak
def test_a_scrape_does_not_grow_with_what_ended(engine: sa.Engine) -> None:
    seconds, series = measure(engine, (FEW, MANY))

    print({runs: f"{1000 * min(times):.1f} ms" for runs, times in seconds.items()}, series)  # noqa: T201
    assert min(seconds[MANY]) <= 1.5 * min(seconds[FEW])
    assert max(series.values()) <= 200
