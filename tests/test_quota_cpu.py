"""Processing time: runs, sessions and services, periods, and what happens when a run ends."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from platform_db import errors, quota
from platform_db.models import InteractiveSession, ResourceType, Service, User, UserResource, Workflow
from platform_db.quota import Scope, scope, update_cpu_usage
from tests.factories import make_run, make_user

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
HOUR = 3_600_000


def lasting(hours: float, start: datetime = START, end: str = "finished") -> dict[str, Any]:
    column = "run_stopped_at" if end == "stopped" else "run_finished_at"
    return {"status": end, "run_started_at": start, column: start + timedelta(hours=hours)}


def cpu_of(session: Session, row: User | Workflow) -> int:
    session.expire_all()
    usage: int = row.get_quota_usage()["cpu"]["usage"]["raw"]
    return usage


def total_of(session: Session, user: User) -> UserResource:
    session.expire_all()
    return next(r for r in user.resources if r.resource.type_ is ResourceType.cpu)


def test_runs_sessions_and_services_count_from_start_to_end(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    user, other = make_user(session), make_user(session)
    finished = make_run(session, user, **lasting(1))
    stopped = make_run(session, user, **lasting(2, end="stopped"))
    deleted = make_run(session, user, **{**lasting(0.0000005), "status": "deleted"})
    running = make_run(session, user, status="running")
    session.add(InteractiveSession(name="n", path="/n", owner_id=user.id_, **lasting(4, end="stopped")))
    session.add(Service(name="dask", owner_id=user.id_, **lasting(8)))
    make_run(session, other, **lasting(0.5, end="failed"))
    session.commit()
    report = update_cpu_usage(session_factory)
    assert (report.users, report.figures, report.totals) == (2, 6, 2)
    assert [cpu_of(session, run) for run in (finished, stopped, deleted)] == [HOUR, 2 * HOUR, 1]
    assert "cpu" not in running.get_quota_usage()
    assert cpu_of(session, user) == 15 * HOUR + 1
    assert cpu_of(session, other) == HOUR / 2
    again = update_cpu_usage(session_factory)
    assert (again.figures, again.totals) == (0, 0)


def test_every_page_of_users_is_counted(
    session: Session, session_factory: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scope, "USERS_PER_PAGE", 2)
    users = [make_user(session) for _ in range(5)]
    for user in users:
        make_run(session, user, **lasting(1))
    assert update_cpu_usage(session_factory).users == 5
    assert {cpu_of(session, user) for user in users} == {HOUR}


def test_a_session_that_is_deleted_while_it_runs_ends_then(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    user = make_user(session)
    notebook = InteractiveSession(
        name="n",
        path="/n",
        owner_id=user.id_,
        status="running",
        run_started_at=datetime.now(timezone.utc) - timedelta(hours=3),
    )
    session.add(notebook)
    session.commit()
    notebook.status = "deleted"
    session.commit()
    notebook.name = "renamed, later"
    session.commit()
    update_cpu_usage(session_factory)
    assert cpu_of(session, user) == pytest.approx(3 * HOUR, abs=60_000)


def test_only_what_falls_into_the_current_period_counts(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    now = datetime.now(timezone.utc)
    user = make_user(session, created=now - timedelta(days=400))
    make_run(session, user, **lasting(5, start=now - timedelta(days=200)))
    session.execute(sa.update(UserResource).values(quota_period_months=1))
    session.commit()
    assert update_cpu_usage(session_factory).periods == 1
    start = total_of(session, user).quota_period_start_at
    assert start is not None
    assert now - timedelta(days=31) <= start <= now
    across = make_run(session, user, **lasting(2, start=start - timedelta(hours=1)))
    inside = make_run(session, user, **lasting(0.5, start=start))
    assert update_cpu_usage(session_factory).periods == 0
    assert [cpu_of(session, run) for run in (across, inside)] == [HOUR, HOUR / 2]
    assert cpu_of(session, user) == 1.5 * HOUR


@pytest.mark.parametrize(
    ("created", "months", "now", "start"),
    [
        ("2026-01-31T12:00:00+00", 1, "2026-02-28T11:59:59+00", "2026-01-31T12:00:00+00"),
        ("2026-01-31T12:00:00+00", 1, "2026-02-28T12:00:00+00", "2026-02-28T12:00:00+00"),
        ("2026-01-31T12:00:00+00", 1, "2026-03-31T12:00:00+00", "2026-03-31T12:00:00+00"),
        ("2026-01-31T12:00:00+00", 1, "2026-03-31T11:59:59+00", "2026-02-28T12:00:00+00"),
        ("2024-02-29T00:00:00+00", 12, "2025-02-28T00:00:00+00", "2025-02-28T00:00:00+00"),
        ("2026-01-15T00:00:00+00", 3, "2026-07-14T23:59:59+00", "2026-04-15T00:00:00+00"),
        ("2026-01-15T00:00:00+00", 3, "2026-07-15T00:00:00+00", "2026-07-15T00:00:00+00"),
        ("2026-05-15T00:00:00+00", 2, "2026-05-15T00:00:00+00", "2026-05-15T00:00:00+00"),
    ],
)
def test_periods_are_anchored_at_the_creation(
    session: Session, created: str, months: int, now: str, start: str
) -> None:
    from platform_db.quota.periods import period_start

    expression = period_start("CAST(:months AS integer)").replace("now()", "CAST(:now AS timestamptz)")
    found = session.execute(
        sa.text(
            f"""SELECT {expression} = CAST(:start AS timestamptz)
            FROM (SELECT CAST(:created AS timestamptz) AS created) AS u"""
        ),
        {"created": created, "months": months, "now": now, "start": start},
    ).scalar_one()
    assert found is True


def test_the_default_period_is_given_once(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    from platform_db import settings

    user = make_user(session)
    cpu = quota.get_default_quota_resource(session, ResourceType.cpu)
    with pytest.raises(errors.InvalidSetting):
        quota.initialise_default_periods(session, cpu)
    monkeypatch.setenv("PLATFORM_DB_DEFAULT_QUOTA_CPU_PERIOD_RESET_MONTHS", "3")
    settings.reset_settings()
    try:
        assert quota.initialise_default_periods(session, cpu) == [user.id_]
        assert quota.initialise_default_periods(session, cpu) == []
    finally:
        monkeypatch.undo()
        settings.reset_settings()
    session.commit()
    total = total_of(session, user)
    assert (total.quota_period_months, total.quota_period_start_at) == (3, user.created)


def test_one_run_moves_its_owners_total(session: Session) -> None:
    user = make_user(session)
    run = make_run(session, user, **lasting(2))
    assert quota.update_workflow_cpu_quota(session, run) == 2 * HOUR
    assert quota.update_workflow_cpu_quota(session, str(run.id_)) == 2 * HOUR
    session.commit()
    assert cpu_of(session, user) == cpu_of(session, run) == 2 * HOUR
    quota.update_users_cpu_quota(session, user)
    quota.update_users_cpu_quota(session)
    session.commit()
    assert cpu_of(session, user) == 2 * HOUR


def test_only_users_whose_total_is_old_are_looked_at(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    make_user(session)
    assert update_cpu_usage(session_factory, Scope(stale_after=60)).users == 1
    assert update_cpu_usage(session_factory, Scope(stale_after=60)).users == 0
    make_user(session)
    assert update_cpu_usage(session_factory, Scope(stale_after=60)).users == 1


def test_a_dry_run_changes_nothing(session: Session, session_factory: sessionmaker[Session]) -> None:
    user = make_user(session)
    make_run(session, user, **lasting(1))
    report = update_cpu_usage(session_factory, dry_run=True)
    assert (report.figures, report.totals) == (1, 1)
    assert cpu_of(session, user) == 0


def test_when_a_run_ends_its_time_is_counted_and_its_workspace_marked(session: Session) -> None:
    user = make_user(session)
    run = make_run(session, user, status="running", run_started_at=START, workspace_path="/w")
    quota.store_workflow_disk_quota(session, run, bytes_to_sum=7)
    session.commit()
    Workflow.update_workflow_status(session, run.id_, "finished")
    session.commit()
    assert cpu_of(session, run) == cpu_of(session, user) > 1000 * HOUR
    assert {r.resource.type_.value: r.stale for r in run.resources} == {"cpu": False, "disk": True}


@pytest.mark.parametrize(("policy", "counted"), [("", set()), ("disk", {"disk"}), ("cpu", {"cpu"})])
def test_the_policy_says_what_is_updated_when_a_run_ends(
    session: Session, monkeypatch: pytest.MonkeyPatch, policy: str, counted: set[str]
) -> None:
    from platform_db import settings

    monkeypatch.setenv("PLATFORM_DB_WORKFLOW_TERMINATION_QUOTA_UPDATE_POLICY", policy)
    settings.reset_settings()
    user = make_user(session)
    run = make_run(session, user, status="running", run_started_at=START, workspace_path="/w")
    quota.store_workflow_disk_quota(session, run, bytes_to_sum=7)
    Workflow.update_workflow_status(session, run.id_, "failed")
    session.commit()
    session.expire_all()
    used = {r.resource.type_.value for r in run.resources if r.stale or r.resource.type_ is ResourceType.cpu}
    assert used == counted
    monkeypatch.undo()
    settings.reset_settings()


def test_a_caller_overrides_the_policy(session: Session) -> None:
    from platform_db.workflows import update_workflow_status

    user = make_user(session)
    run = make_run(session, user, status="running", run_started_at=START)
    with pytest.raises(errors.InvalidArgument, match="there is no type of resources 'gold'"):
        update_workflow_status(session, run.id_, "stopped", quota_types=["gold"])
    session.rollback()
    update_workflow_status(session, run.id_, "stopped", quota_types=[])
    session.commit()
    assert cpu_of(session, user) == 0


def test_a_platform_without_resources_can_end_runs(session: Session) -> None:
    user = make_user(session)
    run = make_run(session, user, status="running")
    session.execute(sa.text("DELETE FROM platform.user_resource"))
    session.execute(sa.text("DELETE FROM platform.resource"))
    Workflow.update_workflow_status(session, run.id_, "finished")
    session.commit()
    assert not run.resources
