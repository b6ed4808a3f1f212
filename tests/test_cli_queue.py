"""``platform-db queue`` as operators meet it."""

from __future__ import annotations

import json

import pytest
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.models import User
from platform_db.queue import claim
from tests.command_line import one_line, run
from tests.factories import make_run, make_user


@pytest.fixture
def ada(session: Session) -> User:
    """Store a user with a pending and two queued runs."""
    ada = make_user(session, email="ada@example.org")
    for _ in range(3):
        make_run(session, ada, status="queued")
    claim(session, "n1/7", limit=1)
    session.commit()
    return ada


def test_who_waits_is_shown_by_owner(database_uri: str, session: Session, ada: User) -> None:
    make_run(session, make_user(session, email="bob@example.org"), status="queued")
    shown = run(database_uri, "queue", "status").stdout.splitlines()
    assert shown[0].split()[:4] == ["OWNER", "QUEUED", "PENDING", "RUNNING"]
    assert [line.split()[:6] for line in shown[1:]] == [
        ["bob@example.org", "1", "0", "0", "unlimited", "unlimited"],
        ["ada@example.org", "2", "1", "0", "unlimited", "unlimited"],
    ]
    (found,) = json.loads(run(database_uri, "queue", "status", "--user", ada.email, "--json").stdout)
    assert (found["email"], found["queued"], found["concurrent_runs"]) == (ada.email, 2, None)
    assert run(database_uri, "queue", "status", "--limit", "1").stdout.count("\n") == 2


def test_a_run_that_waits_says_why(database_uri: str, ada: User) -> None:
    of_ada = ("--user", ada.email)
    assert run(database_uri, "queue", "explain", "analysis.2", *of_ada).stdout == (
        "it is the next run of its owner, for a worker that takes runs of type serial\n"
    )
    limited = run(database_uri, "queue", "limit", ada.email, "--concurrent", "1")
    assert limited.stdout == (
        "queue of ada@example.org: concurrent runs: default, starts per minute: default"
        " → concurrent runs: 1, starts per minute: default\n"
    )
    assert run(database_uri, "queue", "explain", "analysis.3", *of_ada).stdout.splitlines() == [
        "its owner has 1 of 1 pending and running runs",
        "its owner has 1 queued run before it",
    ]
    explained = json.loads(run(database_uri, "queue", "explain", "analysis.1", *of_ada, "--json").stdout)
    assert [obstacle["text"] for obstacle in explained["obstacles"]] == ["it is pending, held by n1/7"]
    assert run(database_uri, "queue", "explain", "no.1", *of_ada).exit_code == errors.NotFound.exit_code


def test_a_limit_is_set_and_taken_back(database_uri: str, ada: User) -> None:
    both = ("--concurrent", "0", "--starts-per-minute", "30")
    assert run(database_uri, "queue", "limit", ada.email, *both).exit_code == 0
    (shown,) = json.loads(run(database_uri, "queue", "status", "--json").stdout)
    assert (shown["concurrent_runs"], shown["starts_per_minute"]) == (0, 30)
    back = run(database_uri, "queue", "limit", str(ada.id_), "--concurrent", "default")
    assert (
        "concurrent runs: 0, starts per minute: 30 → concurrent runs: default, starts per minute: 30"
        in back.stdout
    )
    free = run(database_uri, "queue", "limit", ada.email, "--concurrent", "unlimited")
    assert "→ concurrent runs: unlimited, starts per minute: 30" in free.stdout
    assert run(database_uri, "queue", "limit", ada.email).stdout == (
        "queue of ada@example.org: concurrent runs: unlimited, starts per minute: 30\n"
    )
    wrong = run(database_uri, "queue", "limit", ada.email, "--concurrent", "many")
    assert "'many' is neither a number nor unlimited or default" in wrong.stderr
    negative = run(database_uri, "queue", "limit", ada.email, "--concurrent", "-1")
    assert (negative.exit_code, one_line(negative.stderr)) == (
        2,
        "platform-db: the concurrent runs must be a number from 0 to 2147483647",
    )
