"""Probes say whether a process lives and whether it can serve, from one function behind ASGI and WSGI."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from platform_db import settings
from platform_db.health import probes as module
from platform_db.health.probes import Probes
from tests.test_cli_errors import server


def ask(probes: Probes, path: str) -> tuple[int, str]:
    status, says = probes.answer(path)
    return status.value, says["status"]


def test_a_current_database_is_ready(database_uri: str) -> None:
    assert ask(Probes(database_uri), "/readyz") == (200, "ready")
    assert ask(Probes(database_uri), "/a/mount/readyz/") == (200, "ready")
    assert ask(Probes(database_uri), "/other") == (404, "unknown")


@pytest.mark.parametrize(
    ("revision", "serves", "expected"),
    [
        ("0001", "0001", (503, "not ready")),
        ("9999", "0001", (200, "ready")),  # A newer release's: this one goes on until it is replaced.
        ("9999", "9999", (503, "not ready")),
        (None, "0001", (503, "not ready")),
    ],
)
def test_the_schema_has_to_be_one_that_the_code_runs_on(
    engine: sa.Engine, database_uri: str, revision: str | None, serves: str, expected: tuple[int, str]
) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM platform.alembic_version"))
        said = f"Revision {revision} serves code from {serves} on."
        connection.exec_driver_sql(f"COMMENT ON TABLE platform.alembic_version IS '{said}'")
        if revision:
            connection.execute(sa.text("INSERT INTO platform.alembic_version VALUES (:r)"), {"r": revision})

    assert ask(Probes(database_uri), "/readyz") == expected


def test_a_server_that_is_away_or_silent_is_not_ready_and_the_process_lives(
    caplog: pytest.LogCaptureFixture,
) -> None:
    away = Probes("postgresql://ada:secret@localhost:1/platform")
    assert ask(away, "/readyz") == (503, "unreachable")
    assert "nothing listens there" in caplog.text
    assert "secret" not in caplog.text
    with server() as uri:
        silent = Probes(uri)
        began = time.monotonic()
        assert ask(silent, "/readyz") == (503, "unreachable")
        assert time.monotonic() - began < 6
        assert ask(silent, "/healthz") == (200, "alive")


def test_nothing_configured_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PLATFORM_DB_URI", "PLATFORM_DB_HOST"):
        monkeypatch.delenv(name, raising=False)
    settings.reset_settings()
    assert ask(Probes(), "/readyz") == (503, "not_configured")
    settings.reset_settings()


def test_many_probes_share_a_look(database_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    probes, looks = Probes(database_uri), []
    look = probes._look
    monkeypatch.setattr(probes, "_look", lambda: looks.append(1) or look())
    monkeypatch.setattr(module, "KEEP_SECONDS", 60.0)

    assert {ask(probes, "/readyz") for _ in range(20)} == {(200, "ready")}
    assert len(looks) == 1


def test_looks_share_a_connection(database_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    probes, connections = Probes(database_uri), []
    monkeypatch.setattr(module, "KEEP_SECONDS", 0.0)

    def note(connection: Any, record: Any) -> None:
        connections.append(connection)

    sa.event.listen(sa.Engine, "connect", note)
    assert {ask(probes, "/readyz") for _ in range(5)} == {(200, "ready")}
    sa.event.remove(sa.Engine, "connect", note)
    assert len(connections) == 1


@pytest.mark.parametrize(("method", "has_body"), [("GET", True), ("HEAD", False)])
def test_wsgi_and_asgi_answer_alike(database_uri: str, method: str, has_body: bool) -> None:
    import asyncio

    probes, sent, started = Probes(database_uri), [], []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {}

    asyncio.run(probes.asgi({"type": "http", "path": "/p/readyz", "method": method}, receive, send))
    (body,) = probes.wsgi(
        {"PATH_INFO": "/readyz", "REQUEST_METHOD": method}, lambda *given: started.append(given)
    )

    assert (sent[0]["status"], started[0][0]) == (200, "200 OK")
    assert sent[1]["body"] == body
    assert bool(body) is has_body
    if has_body:
        assert json.loads(body)["status"] == "ready"


def test_fastapi_mounts_them(database_uri: str) -> None:
    fastapi = pytest.importorskip("fastapi", reason="needs fastapi: pip install 'platform-db[tests]'")
    pytest.importorskip("httpx", reason="needs httpx: pip install 'platform-db[tests]'")
    from fastapi.testclient import TestClient

    app: Callable[..., Any] = fastapi.FastAPI()
    app.mount("/probes", Probes(database_uri).asgi)  # type: ignore[attr-defined]
    with TestClient(app) as client:
        assert client.get("/probes/readyz").json()["status"] == "ready"
        assert client.get("/probes/healthz").status_code == 200
        assert client.get("/probes/else").status_code == 404
