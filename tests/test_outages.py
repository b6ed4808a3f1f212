"""A server is killed or goes silent: each process is back within its timeouts, and nothing told is lost."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import database, embedded, errors, schema, settings
from platform_db.health.in_time import create_impatient_engine
from platform_db.health.probes import KEEP_SECONDS, Probes
from tests.factories import make_user

DatabaseMetrics = pytest.importorskip("platform_db.metrics.database").DatabaseMetrics

# What each service does: it creates runs, takes them on, and writes down what was acknowledged.
SERVICE = """
import sys, time, uuid
from platform_db import database, errors, transition
from platform_db.database import driver_errors
from platform_db.models import Workflow
from sqlalchemy.orm import Session
uri, owner, acknowledged = sys.argv[1:]
engine = database.create_engine(uri)
with open(acknowledged, "a", buffering=1) as told:
    while True:
        try:
            with driver_errors.own_connection_errors(), Session(engine) as session:
                run = Workflow(name="run", owner_id=uuid.UUID(owner), type_="serial", specification={})
                run.status = "queued"
                session.add(run)
                session.commit()
                told.write(f"{run.id_} queued\\n")
                transition(session, run, "running")
                session.commit()
                told.write(f"{run.id_} running\\n")
        except errors.Unreachable:
            told.write("away\\n")
            time.sleep(0.1)
"""


class Proxy:
    """A proxy to a server that can stop passing anything on, while its system acknowledges all."""

    def __init__(self, uri: str) -> None:
        self._passes = threading.Event()
        self._passes.set()
        self._asks = threading.Event()
        self._asks.set()
        url = database.normalise_url(uri)
        with contextlib.closing(database.create_engine(url).raw_connection()) as connection:
            peer = socket.socket(fileno=os.dup(connection.dbapi_connection.fileno()))
        self._target, self._family = peer.getpeername(), peer.family
        peer.close()
        self._listening = socket.create_server(("127.0.0.1", 0))
        host, port = self._listening.getsockname()[:2]
        self.uri = (
            url.set(host=host, port=port)
            .difference_update_query(["host", "port"])
            .render_as_string(hide_password=False)
        )
        threading.Thread(target=self._serve, daemon=True).start()

    def go_silent(self) -> None:
        self._passes.clear()

    def answer_logins_alone(self) -> None:
        """Pass on no statement, as a pooler before a server that went silent."""
        self._asks.clear()

    def leave_behind(self) -> None:
        """Go silent on the connections that are there; new ones pass."""
        self._passes.clear()
        self._passes = threading.Event()
        self._passes.set()

    def speak(self) -> None:
        """Pass on all that was held back, and statements of new connections."""
        self._passes.set()
        self._asks = threading.Event()
        self._asks.set()

    def close(self) -> None:
        self.speak()
        self._listening.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.socket(self._family)
                server.connect(self._target)
                for ends in ((client, server), (server, client)):
                    pumped = (*ends, self._passes, self._asks)
                    threading.Thread(target=self._pump, args=pumped, daemon=True).start()

    def _pump(
        self, source: socket.socket, sink: socket.socket, passes: threading.Event, asks: threading.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                passes.wait()
                if data.startswith(b"Q"):  # a statement
                    asks.wait()
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def proxy(database_uri: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Give a proxy to the test's database; connections that go silent are given up after two seconds."""
    monkeypatch.setenv("PLATFORM_DB_NETWORK_TIMEOUT", "2")
    monkeypatch.setenv("PLATFORM_DB_CONNECT_TIMEOUT", "2")
    settings.reset_settings()
    proxy = Proxy(database_uri)
    yield proxy
    proxy.close()
    settings.reset_settings()


@pytest.fixture
def through(proxy: Proxy) -> Iterator[sa.Engine]:
    engine = database.create_engine(proxy.uri)
    yield engine
    engine.dispose()


def lost(engine: sa.Engine, statement: str) -> float:
    """Return after how many seconds a statement is given up."""
    began = time.monotonic()
    with pytest.raises(sa.exc.OperationalError), engine.connect() as connection:
        connection.execute(sa.text(statement))
    return time.monotonic() - began


def test_a_statement_that_is_never_answered_is_given_up(proxy: Proxy, through: sa.Engine) -> None:
    with through.connect():
        pass
    threading.Timer(0.5, proxy.go_silent).start()

    assert 2 <= lost(through, "SELECT pg_sleep(1)") < 12

    proxy.speak()
    with through.connect() as connection:
        assert connection.scalar(sa.text("SELECT 1")) == 1


def test_a_pooled_connection_that_is_never_answered_is_given_up(proxy: Proxy, through: sa.Engine) -> None:
    with through.connect():
        pass
    time.sleep(1.1)  # so that the pool asks before it hands the connection out
    proxy.go_silent()

    assert lost(through, "SELECT 1") < 15


def test_a_statement_that_takes_long_goes_on(through: sa.Engine) -> None:
    with through.connect() as connection:
        began = time.monotonic()
        assert connection.scalar(sa.text("SELECT count(*) FROM pg_sleep(4)")) == 1
    assert time.monotonic() - began >= 4


def test_what_waits_for_a_lock_goes_on(through: sa.Engine, engine: sa.Engine) -> None:
    with engine.connect() as holder:
        holder.execute(sa.text("LOCK TABLE platform.resource"))
        threading.Timer(4, holder.connection.dbapi_connection.rollback).start()
        with through.connect() as waiting:
            waiting.execute(sa.text("LOCK TABLE platform.resource"))


def test_a_process_that_the_server_no_longer_has_is_given_up(
    proxy: Proxy, through: sa.Engine, engine: sa.Engine
) -> None:
    """As after a failover: the proxy leads new connections to another server, and keeps the old ones."""

    with through.connect() as connection:
        pid = connection.scalar(sa.text("SELECT pg_backend_pid()"))

    def fail_over() -> None:
        proxy.leave_behind()
        with engine.connect() as connection:
            connection.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})

    threading.Timer(0.5, fail_over).start()
    assert lost(through, "SELECT pg_sleep(30)") < 12


@pytest.mark.soak
def test_services_lose_nothing_that_was_acknowledged_when_the_server_is_killed(
    place: Path, tmp_path: Path
) -> None:
    home = place / "platform"
    uri = embedded.ensure_running(home)
    engine = database.create_engine(uri)
    schema.init_db(engine)
    with Session(engine) as session:
        owner = make_user(session).id_
    told = [tmp_path / f"service{number}" for number in range(4)]
    services = [
        subprocess.Popen([sys.executable, "-c", SERVICE, uri, str(owner), str(path)]) for path in told
    ]

    def lines(path: Path) -> list[str]:
        return path.read_text().splitlines() if path.exists() else []

    def wait_for_more(than: list[int]) -> None:
        give_up_at = time.monotonic() + 60
        while not all(
            len([line for line in lines(path) if line != "away"]) > count + 10
            for path, count in zip(told, than, strict=True)
        ):
            assert time.monotonic() < give_up_at, [len(lines(path)) for path in told]
            time.sleep(0.1)

    def acknowledged() -> list[int]:
        return [len([line for line in lines(path) if line != "away"]) for path in told]

    try:
        wait_for_more([0] * len(told))
        os.kill(int((home / "data" / "postmaster.pid").read_text().splitlines()[0]), signal.SIGKILL)
        time.sleep(1)
        uri = embedded.ensure_running(home)
        began = time.monotonic()
        wait_for_more(acknowledged())
        assert time.monotonic() - began < 60
        assert all(service.poll() is None for service in services)
    finally:
        for service in services:
            service.kill()
            service.wait()

    with database.create_engine(uri).connect() as connection:
        stored = dict(
            connection.execute(sa.text("SELECT id_::text, status::text FROM platform.workflow")).all()
        )
    promised = [line.split() for path in told for line in lines(path) if line != "away"]
    assert len(promised) > 80
    for id_, status in promised:
        assert stored[id_] in (status, "running"), (id_, status)


def test_a_probe_ends_in_time_on_a_server_that_went_silent(proxy: Proxy) -> None:
    probes = Probes(proxy.uri)
    assert probes.answer("/readyz")[0] == HTTPStatus.OK
    proxy.go_silent()
    time.sleep(KEEP_SECONDS)
    began = time.monotonic()

    assert probes.answer("/readyz") == (HTTPStatus.SERVICE_UNAVAILABLE, {"status": "unreachable"})
    assert time.monotonic() - began < 3

    proxy.speak()
    time.sleep(KEEP_SECONDS)
    assert probes.answer("/readyz")[0] == HTTPStatus.OK


@pytest.mark.parametrize("is_new", [True, False])
def test_what_looks_at_a_server_that_answers_logins_alone_ends_in_time(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, *, is_new: bool
) -> None:
    monkeypatch.setattr("platform_db.health.probes.KEEP_SECONDS", 0)
    probes = Probes(proxy.uri, timeout=1)
    metrics = DatabaseMetrics(create_impatient_engine(proxy.uri, 1), reading_timeout=0.5, keep=0)
    looking = [lambda: probes.answer("/readyz")[0] == HTTPStatus.OK, lambda: is_up(metrics)]
    assert is_new or all(look() for look in looking)
    proxy.answer_logins_alone()

    began = time.monotonic()
    assert not any(look() for look in looking * 3)

    assert time.monotonic() - began < 30
    assert sum(thread.name == "asking" for thread in threading.enumerate()) <= 2
    proxy.speak()
    wait_until(lambda: all(look() for look in looking))


def is_up(metrics: DatabaseMetrics) -> bool:
    return next(iter(metrics.collect())).samples[0].value == 1


def wait_until(holds: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < give_up_at
        time.sleep(0.1)


def test_a_service_is_told_that_the_server_is_away(proxy: Proxy) -> None:
    proxy.go_silent()
    began = time.monotonic()
    with pytest.raises(errors.Unreachable), schema.connect(proxy.uri):
        pass
    assert time.monotonic() - began < 10
