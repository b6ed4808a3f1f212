"""The example that streams events to a browser, as it stands."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.orm import Session

from platform_db.lifecycle import add_note, transition

pytest.importorskip("fastapi", reason="the example needs fastapi: pip install 'platform-db[tests]'")
pytest.importorskip("httpx", reason="the example needs httpx: pip install 'platform-db[tests]'")

from fastapi.testclient import TestClient

from examples import events_stream

Make = Callable[..., Any]


@pytest.fixture
def client(configured_database: str, tenant_roles: None, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    monkeypatch.setattr(events_stream, "LONGEST", 0)
    monkeypatch.setattr(events_stream, "PAUSE", 0.05)
    return TestClient(events_stream.app, headers={"Authorization": "Bearer Ada's token"})


@pytest.fixture
def ada(client: TestClient, make_user: Make) -> Any:
    return make_user(email="ada@example.org", access_token="Ada's token")


def stream(client: TestClient, last_event_id: str = "latest") -> tuple[list[dict[str, Any]], str]:
    """Return the events that come until the stream ends, and the id that the browser comes back with."""
    answer = client.get("/events", headers={"Last-Event-ID": last_event_id})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    blocks = answer.text.strip().split("\n\n")
    messages = [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]
    found = [json.loads(message["data"]) for message in messages if "data" in message]
    return found, [message["id"] for message in messages if "id" in message][-1]


def test_a_browser_that_comes_back_misses_nothing(
    client: TestClient, ada: Any, make_run: Make, session: Session
) -> None:
    make_run(ada, name="before")
    nothing, id_ = stream(client)
    assert nothing == []

    run = make_run(ada)
    transition(session, run, "queued")
    add_note(session, run, "placement", "two\nlines")
    session.commit()
    found, id_ = stream(client, last_event_id=id_)

    assert [(event["kind"], event.get("after"), event.get("message")) for event in found] == [
        ("created", "created", None),
        ("status", "queued", None),
        ("note", None, "two\nlines"),
    ]
    assert stream(client, last_event_id=id_)[0] == []


def test_what_happens_meanwhile_is_sent(
    client: TestClient, ada: Any, make_run: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_stream, "LONGEST", 2.0)
    later = threading.Timer(0.5, make_run, (ada,))
    later.start()
    found, _ = stream(client)
    later.join()
    assert [event["kind"] for event in found] == ["created"]


def test_another_users_runs_are_not_sent(client: TestClient, ada: Any, make_run: Make) -> None:
    make_run()
    assert stream(client, last_event_id="beginning")[0] == []


def test_without_a_token_or_with_a_forged_cursor_no_stream_begins(client: TestClient, ada: Any) -> None:
    assert client.get("/events", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert client.get("/events", headers={"Last-Event-ID": "12"}).status_code == 400
    assert "<script" in client.get("/").text
