"""Metrics tell what the database holds to a login that may only read, and cost little to scrape."""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from platform_db import database, sessions, settings
from platform_db.audit import seal_audit_log
from platform_db.database.session import PlatformSession, SessionFactory
from platform_db.leases import heartbeat
from platform_db.lifecycle import transition
from platform_db.models import RunStatus, Workflow
from platform_db.tenancy.privileges import Role
from tests.command_line import one_line, run, start
from tests.factories import make_run, make_user
from tests.tenants import login_engine, prepare_roles

pytest.importorskip(
    "prometheus_client", reason="metrics need prometheus-client: pip install 'platform-db[metrics]'"
)

from prometheus_client import CollectorRegistry, generate_latest

from platform_db.leases import outcomes
from platform_db.metrics import database as metrics_of_database
from platform_db.metrics.database import LEFT_OUT, DatabaseMetrics
from platform_db.metrics.pool import PoolMetrics
from platform_db.metrics.serving import MOST_CLIENTS
from platform_db.metrics.sources import SOURCES, Source, tenants_source

MONTH = timedelta(days=30)

Metrics = dict[tuple[str, ...], float]


@pytest.fixture
def reader(engine: sa.Engine) -> Iterator[sa.Engine]:
    """Give an engine of a login that may only read."""
    prepare_roles(engine)
    reader = login_engine(engine, "metrics_reader", Role.readonly)
    yield reader
    reader.dispose()


@pytest.fixture
def scrape(reader: sa.Engine) -> Callable[..., Metrics]:
    """Give what reads the metrics: by name, then the values of the labels that are not ``count``."""

    def read(engine: sa.Engine = reader, **options: int) -> Metrics:
        return {
            (
                sample.name.removeprefix("platform_db_"),
                *(v for k, v in sample.labels.items() if k != "count"),
            ): (sample.value)
            for family in DatabaseMetrics(engine, **options).collect()
            for sample in family.samples
        }

    return read


def test_runs_that_have_not_ended_are_counted_and_others_estimated(
    session: PlatformSession, engine: sa.Engine, scrape: Callable[..., Metrics]
) -> None:
    owner = make_user(session)
    for status, count in {"created": 1, "queued": 2, "running": 3, "finished": 40, "failed": 10}.items():
        session.add_all(
            Workflow(name="run", owner_id=owner.id_, type_="serial", specification={}, status=status)
            for _ in range(count)
        )
    session.commit()
    before = scrape()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("ANALYZE platform.workflow"))

    after = scrape()

    counted = {"created": 1, "queued": 2, "pending": 0, "running": 3}
    assert {status: before.get(("runs", status)) for status in RunStatus} == {
        **dict.fromkeys(RunStatus),
        **counted,
    }, "without statistics there is no estimate"
    assert {status.value: after["runs", status] for status in RunStatus} == {
        **counted,
        "finished": 40,
        "failed": 10,
        "stopped": 0,
        "deleted": 0,
    }


def test_the_queue_is_as_old_as_its_longest_wait(
    session: PlatformSession, scrape: Callable[..., Metrics]
) -> None:
    owner = make_user(session)
    assert scrape()["queue_age_seconds",] == 0
    make_run(session, owner, status="queued")
    session.execute(sa.text("UPDATE platform.workflow SET start_after = now() + interval '1 hour'"))
    session.commit()
    assert scrape()["queue_age_seconds",] == 0, "it does not wait yet"

    session.execute(sa.text("SET LOCAL session_replication_role = replica"))  # for the time of creation
    session.execute(
        sa.text("""
            UPDATE platform.workflow
            SET created = now() - interval '2 hours', start_after = now() - interval '1 hour'
            """)
    )
    session.commit()

    assert 3600 <= scrape()["queue_age_seconds",] < 3700


def test_the_stalest_lease_of_what_is_alive_counts(
    session: PlatformSession, scrape: Callable[..., Metrics]
) -> None:
    owner = make_user(session)
    assert scrape()["oldest_lease_seconds",] == 0
    ended, alive = (make_run(session, owner, status="running") for _ in range(2))
    heartbeat(session, [ended, alive], "node/1")
    age = sa.text(
        "UPDATE platform.lease SET heartbeat_at = now() - CAST(:age AS interval) WHERE entity_id = :id"
    )
    session.execute(age, {"age": timedelta(hours=5), "id": ended.id_})
    session.execute(age, {"age": timedelta(minutes=5), "id": alive.id_})
    transition(session, ended, "finished")
    session.commit()

    assert 300 <= scrape()["oldest_lease_seconds",] < 400


def test_what_is_not_sealed_has_an_age(
    session: PlatformSession, session_factory: SessionFactory, scrape: Callable[..., Metrics]
) -> None:
    make_user(session)
    time.sleep(0.05)
    assert 0.05 <= scrape()["audit_unsealed_seconds",] < 60

    seal_audit_log(session_factory)

    assert scrape()["audit_unsealed_seconds",] == 0


def test_the_oldest_transaction_is_told_to_who_may_see_all(
    engine: sa.Engine, scrape: Callable[..., Metrics]
) -> None:
    with engine.connect() as connection:
        connection.execute(sa.text("SELECT 1"))
        time.sleep(0.1)
        assert scrape(engine)["oldest_transaction_seconds",] >= 0.1
        assert ("oldest_transaction_seconds",) not in scrape()


def test_tables_are_measured(session: PlatformSession, scrape: Callable[..., Metrics]) -> None:
    make_run(session, make_user(session))
    found = scrape()
    assert found["table_bytes", "workflow"] > 8192
    assert found["table_dead_rows", "workflow"] >= 0
    assert found["schema_current",] == found["up",] == 1


def test_tenants_are_told_only_when_asked(session: PlatformSession, scrape: Callable[..., Metrics]) -> None:
    busy, idle = make_user(session), make_user(session)
    for owner, runs in ((busy, 2), (idle, 1)):
        for _ in range(runs):
            make_run(session, owner, status="running")

    assert not [name for name in scrape() if name[0] == "tenant_runs"]
    assert {key: value for key, value in scrape(tenants=1).items() if key[0] == "tenant_runs"} == {
        ("tenant_runs", str(busy.id_), "running"): 2
    }


def test_there_are_at_most_200_series(session: PlatformSession, scrape: Callable[..., Metrics]) -> None:
    for number in range(60):
        outcomes.record_outcome(session, f"job {number}", 0, 1.0, drift={f"resource {number}": 0})
    session.commit()
    assert 100 < len(scrape()) <= 200


def test_a_metric_that_cannot_be_read_leaves_the_others(
    session: PlatformSession,
    engine: sa.Engine,
    scrape: Callable[..., Metrics],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("REVOKE SELECT ON platform.lease FROM platform_readonly"))

    found = scrape()

    assert ("oldest_lease_seconds",) not in found
    assert found["runs", "running"] == 0
    assert "metrics left out: oldest_lease_seconds: permission denied for table lease" in caplog.text


def test_a_metric_that_takes_long_is_left_out(engine: sa.Engine, scrape: Callable[..., Metrics]) -> None:
    with engine.connect() as connection:
        connection.execute(sa.text("LOCK TABLE platform.lease"))
        began = time.monotonic()

        found = scrape(statement_timeout=200)

    assert time.monotonic() - began < 10
    assert ("oldest_lease_seconds",) not in found
    assert found["queue_age_seconds",] == 0


def test_a_reading_ends_in_time_and_counts_what_it_did_not_reach(
    engine: sa.Engine, scrape: Callable[..., Metrics]
) -> None:
    assert scrape()["metrics_left_out",] == 0
    with engine.connect() as connection:
        connection.execute(sa.text("LOCK TABLE platform.workflow, platform.lease"))
        began = time.monotonic()

        found = scrape(reading_timeout=0.9)

    assert time.monotonic() - began < 5
    assert (found["up",], found["schema_current",]) == (1, 1)
    assert found["metrics_left_out",] == len(SOURCES) - 1


def test_scrapers_share_a_reading(engine: sa.Engine) -> None:
    statements: list[str] = []
    sa.event.listen(engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    metrics = DatabaseMetrics(engine)
    scrapers = [threading.Thread(target=metrics.collect) for _ in range(10)]

    for scraper in scrapers:
        scraper.start()
    for scraper in scrapers:
        scraper.join()

    assert sum("estimate_runs" in statement for statement in statements) == 1


def test_a_database_that_is_away_is_down(scrape: Callable[..., Metrics]) -> None:
    nowhere = database.create_engine("postgresql://ada@localhost:1/platform")
    assert scrape(nowhere) == {("up",): 0}


def test_what_no_database_can_answer_is_down_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PLATFORM_DB_")]:
        monkeypatch.delenv(name)
    settings.reset_settings()
    sessions.reset_engine()
    registry = CollectorRegistry()
    registry.register(DatabaseMetrics())
    assert "platform_db_up 0.0" in generate_latest(registry).decode()


def test_a_connection_that_is_lost_in_between_is_down(
    engine: sa.Engine, scrape: Callable[..., Metrics], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(connection: sa.Connection) -> list[tuple[int]]:
        connection.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))
        return []

    monkeypatch.setattr(metrics_of_database, "SOURCES", (Source((), {"lost": "Lost."}, lose), *SOURCES))
    assert scrape(engine) == {("up",): 0}


def test_registering_asks_nothing() -> None:
    registry = CollectorRegistry()
    registry.register(DatabaseMetrics())
    registry.register(PoolMetrics())


def test_every_reading_goes_by_an_index(
    session: PlatformSession, engine: sa.Engine, reader: sa.Engine
) -> None:
    """Also for a login to which row-level security hides the statistics."""
    owner = make_user(session)
    session.execute(sa.text("SET LOCAL session_replication_role = replica"))
    session.execute(
        sa.text("""
            INSERT INTO platform.workflow
                (id_, owner_id, name, type_, status, workspace_path, run_number_major, run_number_minor,
                 revision, run_started_at, run_finished_at, created, updated)
            SELECT gen_random_uuid(), :owner, 'run', 'serial', 'finished', '/x/' || n, n, 0, 3, now(), now(),
                   now(), now() FROM generate_series(1, 20000) AS n
            """),
        {"owner": owner.id_},
    )
    session.commit()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("ANALYZE"))
    statements: list[tuple[str, object]] = []
    sa.event.listen(reader, "before_cursor_execute", lambda *given: statements.append(given[2:4]))
    list(DatabaseMetrics(reader, tenants=5).collect())

    with reader.connect() as connection:
        connection.execute(sa.text("SET LOCAL enable_seqscan = off"))
        plans = "\n".join(
            line
            for statement, values in statements
            if statement.lstrip().startswith(("SELECT", "WITH"))
            for line in connection.exec_driver_sql(f"EXPLAIN (ANALYZE) {statement}", values).scalars()
        )

    assert "Seq Scan on workflow" not in plans
    assert "ix_workflow_waiting" in plans
    assert "ix_workflow_in_progress" in plans
    assert "ix_audit_inbox_created_id_" in plans
    assert "uq_audit_sealed_number" in plans
    read = [
        line
        for line in plans.splitlines()
        if "on workflow" in line and "rows=20000" in line.split("actual")[-1]
    ]
    assert not read, plans


def count_threads(process: subprocess.Popen[str]) -> int:
    return len(list(Path(f"/proc/{process.pid}/task").iterdir()))


class TestPool:
    def test_connections_and_waits_are_told(self, engine: sa.Engine) -> None:
        pooled = database.create_engine(engine, pool_size=2, max_overflow=1)
        registry = CollectorRegistry()
        registry.register(PoolMetrics(pooled))
        with pooled.connect(), pooled.connect():
            pass
        with pooled.connect():
            text = generate_latest(registry).decode()
        pooled.dispose()

        assert 'platform_db_pool_connections{state="in_use"} 1.0' in text
        assert 'platform_db_pool_connections{state="idle"} 1.0' in text
        assert 'platform_db_pool_connections{state="max"} 3.0' in text
        assert "platform_db_pool_wait_seconds_count 3.0" in text

    def test_a_wait_that_ends_in_vain_counts(self, engine: sa.Engine) -> None:
        pooled = database.create_engine(engine, pool_size=1, max_overflow=0, pool_timeout=0.3)
        with pooled.connect(), pytest.raises(sa.exc.TimeoutError):
            pooled.connect()
        _, waits = PoolMetrics(pooled).collect()
        pooled.dispose()

        found = {sample.name.rpartition("_")[2]: sample.value for sample in waits.samples}
        assert (found["count"], found["sum"] >= 0.3) == (2, True)


class TestServing:
    def test_metrics_and_probes_are_served_until_a_signal(self, database_uri: str) -> None:
        server = start(database_uri, "metrics", "serve", "--address", "127.0.0.1", "--port", "0")
        assert server.stdout is not None
        address = server.stdout.readline().split()[-1].removesuffix("/metrics")

        def get(path: str) -> str:
            with urllib.request.urlopen(f"{address}{path}", timeout=30) as answer:
                return str(answer.read().decode())

        assert 'platform_db_runs{count="exact",status="running"} 0.0' in get("/metrics")
        assert '"status": "ready"' in get("/readyz")
        assert '"status": "alive"' in get("/healthz")
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as reset:
            reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with ExitStack() as many:
            for _ in range(MOST_CLIENTS + 6):
                many.enter_context(socket.create_connection((host, int(port))))
            give_up_at = time.monotonic() + 8
            while (threads := count_threads(server)) <= MOST_CLIENTS and time.monotonic() < give_up_at:
                time.sleep(0.05)
        assert MOST_CLIENTS < threads < MOST_CLIENTS + 6
        assert '"status": "alive"' in get("/healthz")
        server.send_signal(signal.SIGTERM)
        _, stderr = server.communicate(timeout=20)

        assert server.returncode == 143
        assert "interrupted" in one_line(stderr)

    def test_a_port_that_is_taken_is_told(self, database_uri: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            refused = run(database_uri, "metrics", "serve", "--address", "127.0.0.1", "--port", port)
        assert refused.exit_code == 1
        assert "Address already in use" in one_line(refused.stderr)


def test_the_page_lists_every_metric() -> None:
    page = (Path(__file__).parents[1] / "docs" / "metrics.rst").read_text(encoding="utf-8")
    names = {name for source in (*SOURCES, tenants_source(1)) for name in source.gauges}
    names |= {"up", LEFT_OUT, "pool_connections", "pool_wait_seconds"}
    assert {name for name in names if not re.search(rf"\* - ``{name}(\{{[\w, ]+\}})?``", page)} == set()
