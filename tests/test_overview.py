"""A user's runs at a glance, and deleting many of them."""

from __future__ import annotations

import json
import uuid
from datetime import datetime, timedelta, timezone

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.lifecycle import history, transition
from platform_db.models import RunStatus, Workflow
from platform_db.workflows import delete_workflows, overview
from tests.command_line import run as run_command
from tests.factories import make_run, make_user
from tests.test_plans import plans_of

START = datetime(2026, 1, 1, tzinfo=timezone.utc)


def test_an_overview_has_counts_durations_and_the_latest_run(session: Session, database_uri: str) -> None:
    user = make_user(session, email="ada@example.org")
    make_run(session, make_user(session), status="running")
    assert overview(session, user).as_dict() == {
        "total": 0,
        "by_status": {},
        "running": 0,
        "duration": 0,
        "latest": None,
    }
    ended = {"run_started_at": START, "run_finished_at": START + timedelta(milliseconds=1500.9)}
    first = make_run(session, user, status="finished", **ended)
    make_run(
        session, user, status="stopped", run_started_at=START, run_stopped_at=START + timedelta(seconds=1)
    )
    make_run(session, user, status="failed", run_finished_at=START)
    make_run(session, user, status="running", run_started_at=START)
    make_run(session, user, status="deleted", **ended)
    found = overview(session, user.id_)
    assert found.by_status == {
        RunStatus.running: 1,
        RunStatus.finished: 1,
        RunStatus.failed: 1,
        RunStatus.stopped: 1,
        RunStatus.deleted: 1,
    }
    assert (found.total, found.running, found.duration) == (4, 1, 2500)
    assert found.latest is not None
    assert (found.latest.name, found.latest.status) == ("analysis.4", "running")
    transition(session, first, "running")
    assert overview(session, user).latest.name == "analysis.1"  # type: ignore[union-attr]
    session.commit()

    shown = run_command(database_uri, "workflow", "overview", "--user", "ada@example.org")
    assert shown.exit_code == 0, shown.output
    lines = dict(line.split(maxsplit=1) for line in shown.stdout.splitlines())
    assert (lines["runs"], lines["running"], lines["run_time"]) == ("4", "2", "1s")
    assert lines["latest"] == "analysis.1 (running)"
    as_json = run_command(database_uri, "workflow", "overview", "--user", "ada@example.org", "--json")
    assert json.loads(as_json.stdout) == overview(session, user).as_dict()


def test_an_overview_is_one_statement_over_the_owners_own_rows(session: Session) -> None:
    users = [make_user(session) for _ in range(20)]
    session.execute(
        sa.text("""
            INSERT INTO platform.workflow (id_, owner_id, name, type_, workspace_path)
            SELECT gen_random_uuid(), id_, 'many', 'serial', '/a'
            FROM platform.user_ CROSS JOIN generate_series(1, 200)
            """)
    )
    session.commit()
    session.execute(sa.text("ANALYZE platform.workflow"))
    owner, statements = users[0].id_, []
    sa.event.listen(session.connection(), "before_cursor_execute", lambda *args: statements.append(args[2]))
    assert overview(session, owner).total == 200
    assert len(statements) == 1
    plan = plans_of(session, lambda: overview(session, owner))
    assert "Index Cond: (owner_id" in plan
    assert "Seq Scan on workflow" not in plan


def test_many_runs_are_deleted_with_a_result_each(session: Session) -> None:
    user, other = make_user(session), make_user(session)
    done = make_run(session, user, status="finished")
    running = make_run(session, user, status="running")
    gone = make_run(session, user, status="deleted")
    foreign = make_run(session, other, status="finished")
    unknown = uuid.uuid4()
    results = delete_workflows(
        session,
        [done.id_, str(running.id_), gone, foreign, unknown, done.id_],
        owner=user,
        reason="tidying up",
    )
    assert [(result.changed, result.status, type(result.refusal)) for result in results] == [
        (True, "deleted", type(None)),
        (False, "running", errors.InvalidTransition),
        (False, "deleted", type(None)),
        (False, None, errors.WorkflowNotFound),
        (False, None, errors.WorkflowNotFound),
        (True, "deleted", type(None)),
    ]
    session.commit()
    statuses = {run.id_: run.status.value for run in session.scalars(sa.select(Workflow))}
    assert [statuses[run.id_] for run in (done, running, foreign)] == ["deleted", "running", "finished"]
    assert [entry.reason for entry in history(session, done).rows] == ["tidying up"]
    assert delete_workflows(session, []) == []
    with pytest.raises(errors.InvalidIdentifier):
        delete_workflows(session, [foreign.id_, "x"])
    assert delete_workflows(session, [foreign.id_])[0].changed
