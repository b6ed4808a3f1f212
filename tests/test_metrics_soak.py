"""A scrape takes the same time among a million runs as among ten thousand."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from platform_db import database, schema

pytest.importorskip("prometheus_client", reason="needs prometheus-client: pip install 'platform-db[metrics]'")

from benchmarks.metrics import measure, ratio

FEW, MANY = 10_000, 1_000_000


@pytest.mark.soak
def test_a_scrape_does_not_grow_with_what_ended(engine: sa.Engine, empty_database_uri: str) -> None:
    large = database.create_engine(empty_database_uri)
    schema.init_db(large)

    seconds, series = measure({FEW: engine, MANY: large})

    large.dispose()
    shown = {runs: f"{1000 * min(times):.1f} ms" for runs, times in seconds.items()}
    print(shown, ratio(seconds[MANY], seconds[FEW]), series)  # noqa: T201
    assert ratio(seconds[MANY], seconds[FEW]) <= 1.5
    assert max(series.values()) <= 200
