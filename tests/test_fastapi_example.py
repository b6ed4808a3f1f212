"""The FastAPI example as it stands, tested as a service's author would test it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from platform_db import errors, schema, sessions, settings, tokens
from platform_db.health.probes import KEEP_SECONDS
from platform_db.models import Workflow

pytest.importorskip("fastapi", reason="the FastAPI example needs fastapi: pip install 'platform-db[tests]'")
pytest.importorskip("httpx", reason="the FastAPI example needs httpx: pip install 'platform-db[tests]'")

from fastapi.testclient import TestClient

from examples.fastapi_service import app, tenant_session, tenant_transaction

MakeUser = Callable[..., Any]
MakeRun = Callable[..., Workflow]
AssertNumStatements = Callable[[int], Any]


# [fixtures]
@pytest.fixture
def client(configured_database: str, tenant_roles: None) -> TestClient:
    return TestClient(app, headers={"Authorization": "Bearer Ada's token"})


@pytest.fixture
def ada(client: TestClient, make_user: MakeUser) -> Any:
    return make_user(email="ada@example.org", access_token="Ada's token")


def test_a_user_sees_a_finished_run(client: TestClient, ada: Any, make_run: MakeRun) -> None:
    make_run(ada, status="finished")
    (run,) = client.get("/runs").json()["runs"]
    assert (run["name"], run["status"]) == ("analysis.1", "finished")


# [pages]
def test_a_list_comes_in_pages(client: TestClient, ada: Any, make_run: MakeRun) -> None:
    for _ in range(5):
        make_run(ada)
    pages, cursor = [], None
    while not pages or cursor:
        page = client.get("/runs", params={"limit": 2, "cursor": cursor} if cursor else {"limit": 2}).json()
        pages.append([run["name"] for run in page["runs"]])
        cursor = page["cursor"]

    assert pages == [["analysis.5", "analysis.4"], ["analysis.3", "analysis.2"], ["analysis.1"]]
    assert client.get("/runs", params={"cursor": "forged"}).status_code == 400


def test_a_list_is_filtered_by_status(client: TestClient, ada: Any, make_run: MakeRun) -> None:
    for status in ("failed", "running", "finished"):
        make_run(ada, status=status)

    runs = client.get("/runs", params={"status": ["failed", "finished"]}).json()["runs"]

    assert [run["status"] for run in runs] == ["finished", "failed"]
    refused = client.get("/runs", params={"status": "sleeping"})
    assert refused.status_code == 400
    assert "sleeping" in refused.json()["message"]


def test_a_list_takes_two_statements(
    client: TestClient, ada: Any, make_run: MakeRun, assert_num_statements: AssertNumStatements
) -> None:
    for _ in range(3):
        make_run(ada)
    client.get("/runs")  # which notes the use of the token

    with assert_num_statements(2):  # the token's and the list's
        client.get("/runs")


def test_a_user_starts_a_run_and_stops_it_once(client: TestClient, ada: Any) -> None:
    started = client.post("/runs", json={"name": "analysis", "specification": {"steps": ["fit"]}})
    assert (started.status_code, started.json()["status"]) == (201, "queued")
    assert client.post("/runs/analysis.1/stop").json()["status"] == "stopped"
    assert client.get(f"/runs/{started.json()['id']}").json()["status"] == "stopped"


def test_what_the_stored_state_does_not_allow_is_409(client: TestClient, ada: Any, make_run: MakeRun) -> None:
    make_run(ada, status="finished")

    refused = client.post("/runs/analysis/stop")

    assert refused.status_code == 409
    assert refused.json()["error"] == "invalid_transition"
    assert "cannot go from finished to stopped" in refused.json()["message"]


def test_another_users_run_is_as_if_there_were_none(client: TestClient, ada: Any, make_run: MakeRun) -> None:
    foreign = make_run(name="secret", status="running").id_

    for path in (f"/runs/{foreign}", "/runs/secret", f"/runs/{uuid.uuid4()}"):
        assert client.get(path).status_code == 404
        assert client.post(f"{path}/stop").status_code == 404
    assert client.get("/runs").json()["runs"] == []


def test_a_handler_that_forgets_the_owner_sees_the_users_rows_alone(
    client: TestClient, ada: Any, make_run: MakeRun, session: orm.Session
) -> None:
    mine = make_run(ada).id_
    make_run()
    token = tokens.authenticate(session, "Ada's token")

    def all_runs(session: orm.Session) -> list[uuid.UUID]:
        return list(session.scalars(sa.select(Workflow.id_)))

    assert [all_runs(session) for session in tenant_session(token)] == [[mine]]
    assert tenant_transaction(token)(all_runs) == [mine]


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic YTpi"}])
def test_without_a_good_token_nothing_is_told(
    configured_database: str, tenant_roles: None, headers: dict[str, str]
) -> None:
    refused = TestClient(app).get("/runs", headers=headers)

    assert refused.status_code == 401
    assert refused.headers["WWW-Authenticate"] == "Bearer"
    assert refused.json() == {"error": "authentication", "message": "the token is not accepted", "hint": None}


def test_a_token_that_may_only_read_starts_nothing(
    client: TestClient, ada: Any, session: orm.Session
) -> None:
    value = tokens.issue(session, ada, type_="personal", name="page", scopes=["read"])
    session.commit()
    headers = {"Authorization": f"Bearer {value}"}

    assert client.get("/runs", headers=headers).status_code == 200
    refused = client.post("/runs", headers=headers, json={"name": "analysis", "specification": {}})
    assert refused.status_code == 403


def test_what_the_client_may_mend_comes_with_a_hint(client: TestClient, ada: Any) -> None:
    refused = client.post("/runs", json={"name": "a\0b", "specification": {}})

    assert refused.status_code == errors.InvalidText.http_status
    assert refused.json()["hint"] == errors.InvalidText.hint


def test_a_deadlock_is_tried_again(client: TestClient, ada: Any) -> None:
    met = []

    def deadlock_once(connection: sa.Connection, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("INSERT INTO platform.workflow ") and not met:
            met.append(statement)
            cursor.execute("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'deadlock_detected'; END $$")

    sa.event.listen(sa.Engine, "before_cursor_execute", deadlock_once)
    try:
        started = client.post("/runs", json={"name": "analysis", "specification": {}})
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", deadlock_once)

    assert met
    assert (started.status_code, started.json()["name"]) == (201, "analysis.1")


def test_the_service_is_ready_when_the_schema_is(client: TestClient, engine: sa.Engine) -> None:
    time.sleep(KEEP_SECONDS)  # An answer is kept so long.
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE platform.alembic_version SET version_num = '0001'")
    answer = client.get("/probes/readyz")
    assert (answer.status_code, answer.json()["schema"]) == (503, "behind")
    assert client.get("/probes/healthz").status_code == 200

    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"UPDATE platform.alembic_version SET version_num = '{schema.revisions()[-1]}'"
        )
    time.sleep(KEEP_SECONDS)
    answer = client.get("/probes/readyz")
    assert (answer.status_code, answer.json()["schema"]) == (200, "current")


def test_a_database_that_is_gone_is_503_and_its_address_is_not_told(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PLATFORM_DB_URI", "postgresql://nobody@127.0.0.1:1/none")
    settings.reset_settings()
    sessions.reset_engine()

    time.sleep(KEEP_SECONDS)
    for path, name in (("/runs", "error"), ("/probes/readyz", "status")):
        answer = client.get(path)
        assert (answer.status_code, answer.json()[name]) == (503, "unreachable")
        assert "127.0.0.1" not in answer.text
    assert "127.0.0.1" in caplog.text
