"""The plugin's fixtures, as another project's tests use them."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from platform_db import database, errors, quota, session_scope
from platform_db.lifecycle import whole_history
from platform_db.models import Job, JobStatus, Resource, RunStatus, Workflow
from platform_db.states import MACHINES, Machine
from platform_db.testing.factories import way_to

AsTenant = Callable[[Any], AbstractContextManager[orm.Session]]
AssertNumStatements = Callable[[int], AbstractContextManager[list[str]]]


@pytest.mark.parametrize("status", RunStatus)
def test_a_run_gets_its_status_by_legal_transitions(
    session: orm.Session, make_run: Callable[..., Workflow], status: RunStatus
) -> None:
    run = make_run(status=status)

    steps = [(change.from_status, change.to_status) for change in whole_history(session, run)]
    assert run.status is status
    assert [to for _, to in steps][-1:] == ([] if status is RunStatus.created else [status])
    assert not any(change.overridden for change in whole_history(session, run))
    assert (run.run_started_at is None) == (
        status in (RunStatus.created, RunStatus.queued, RunStatus.pending)
    )


@pytest.mark.parametrize("machine", MACHINES.values(), ids=lambda machine: machine.entity)
def test_a_way_has_no_step_that_is_refused(machine: Machine[Any]) -> None:
    first = next(iter(machine.statuses))
    for status in machine.statuses:
        way = [first, *way_to(machine, status)]
        assert way[-1] is status
        assert all(machine.allows(one, next_) for one, next_ in itertools.pairwise(way))


def test_a_run_comes_with_jobs_logs_and_usage(
    make_user: Callable[..., Any], make_run: Callable[..., Workflow]
) -> None:
    user = make_user(limits={"disk": 1000, "cpu": None}, usage={"cpu": 60_000})
    run = make_run(user, status="failed", jobs=["finished", "failed"], logs="accepted\n", disk=999)

    assert [job.status for job in run.jobs] == [JobStatus.finished, JobStatus.failed]
    assert all(job.finished_at <= run.run_finished_at for job in run.jobs)
    assert run.logs == "accepted\n"
    assert run.get_quota_usage()["disk"]["usage"]["raw"] == 999
    usage = user.get_quota_usage()
    assert (usage["disk"]["usage"]["raw"], usage["disk"]["health"]) == (999, "warning")
    assert usage["cpu"]["usage"]["raw"] >= 60_000
    assert "limit" not in usage["cpu"]


def test_a_user_can_be_beyond_a_limit(make_user: Callable[..., Any], session: orm.Session) -> None:
    user = make_user(limits={"disk": 10}, usage={"disk": 11})

    assert user.has_exceeded_quota()
    with pytest.raises(errors.QuotaExceeded):
        quota.reserve(session, user, "disk", 1)


def test_a_job_comes_with_its_log(make_run: Callable[..., Workflow], make_job: Callable[..., Job]) -> None:
    job = make_job(make_run(status="running"), status="running", logs="step 1\n", job_name="fit")

    assert (job.status, job.logs, job.job_name) == (JobStatus.running, "step 1\n", "fit")


def test_a_tenant_sees_what_is_the_tenants(
    make_user: Callable[..., Any], make_run: Callable[..., Workflow], as_tenant: AsTenant
) -> None:
    user = make_user()
    mine = make_run(user).id_
    make_run()

    with as_tenant(user) as session:
        assert session.scalars(sa.select(Workflow.id_)).all() == [mine]


def test_statements_are_counted_whoever_sends_them(
    engine: sa.Engine,
    configured_database: str,
    make_user: Callable[..., Any],
    as_tenant: AsTenant,
    assert_num_statements: AssertNumStatements,
) -> None:
    user = make_user()
    with assert_num_statements(3) as sent:
        with engine.connect() as connection:
            connection.execute(sa.text("SELECT 1"))
        with session_scope() as session:
            session.execute(sa.text("SELECT 2"))
        with as_tenant(user) as session:
            session.execute(sa.text("SELECT 3"))
    assert sent == ["SELECT 1", "SELECT 2", "SELECT 3"]
    with engine.connect() as connection:
        connection.execute(sa.text("SELECT 4"))
    assert len(sent) == 3

    with (
        pytest.raises(AssertionError, match=r"1 statements, not 0:\n1\. SELECT 5"),
        assert_num_statements(0),
        engine.connect() as connection,
    ):
        connection.execute(sa.text("SELECT\n5"))


def test_the_process_works_on_the_tests_database(
    configured_database: str, session: orm.Session, make_user: Callable[..., Any]
) -> None:
    make_user(email="ada@example.org", access_token="Ada's own")

    with session_scope() as own:
        assert own.scalar(sa.text("SELECT count(*) FROM platform.user_")) == 1
        assert own.scalar(sa.text("SELECT current_database()")) == database.database_url().database
    assert os.environ["PLATFORM_DB_URI"] == configured_database


def test_the_template_is_seeded(session: orm.Session) -> None:
    assert Resource.initialise_default_resources(session) == []


SEEDED = """
import pytest
from platform_db.models import User

pytest_plugins = ["platform_db.testing.plugin"]

@pytest.fixture(scope="session")
def seed_template():
    return lambda session: session.add(User(email="seed@example.org"))
"""
SEES_THE_SEED = """
import pytest
from platform_db.users import find_user

@pytest.mark.parametrize("time", [1, 2])
def test_each_database_has_it_once(session, time):
    find_user(session, "seed@example.org")
"""


def test_a_project_adds_rows_to_the_template(tmp_path: Path, postgres_server_uri: str) -> None:
    (tmp_path / "conftest.py").write_text(SEEDED, encoding="utf-8")
    (tmp_path / "test_seed.py").write_text(SEES_THE_SEED, encoding="utf-8")

    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PLATFORM_DB_TEST_URI": postgres_server_uri,
            "PYTHONPATH": str(Path(__file__).parents[1]),
        },
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 0, ran.stdout
