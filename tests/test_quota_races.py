"""Many processes at once: deltas are exact, limits hold, one run of a job goes on, killing it is harmless."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import Session, sessionmaker

from platform_db import database, errors, quota
from platform_db.database.session import PlatformSession
from platform_db.leases.tasks import lease
from platform_db.models import (
    QuotaReservation,
    Resource,
    ResourceType,
    TaskLease,
    UserResource,
    Workflow,
    WorkflowResource,
)
from platform_db.quota import Scope, update_cpu_usage, update_disk_usage
from tests import command_line
from tests.factories import make_run, make_user
from tests.processes import in_processes


def deltas(count: int, seed: int) -> list[int]:
    numbers = random.Random(seed)
    return [numbers.randrange(10_000) for _ in range(count)]


def change_or_recalculate(
    uri: str, user_id: str, run_id: str, other_ids: list[str], count: int, writers: int, seed: int
) -> None:
    """Report deltas on one run; or measure its owner's other runs and sum all again, until told to stop."""
    engine = database.create_engine(uri, pool_size=1)
    if seed < writers:
        for number, delta in enumerate(deltas(count, seed)):
            with orm.Session(engine) as session, session.begin():
                steps = [
                    lambda s=session, d=delta: quota.store_workflow_disk_quota(s, run_id, bytes_to_sum=d),
                    lambda s=session, d=delta: quota.update_users_disk_quota(s, user_id, bytes_to_sum=d),
                ]
                for step in steps if number % 2 else reversed(steps):
                    step()
    else:
        for number in range(count // 5):
            with orm.Session(engine) as session, session.begin():
                for other in other_ids if number % 2 else reversed(other_ids):
                    quota.store_workflow_disk_quota(session, other)
                quota.update_users_disk_quota(session, user_id)
    engine.dispose()


def check_deltas(session: Session, uri: str, root: Path, processes: int, count: int) -> None:
    user = make_user(session)
    run = make_run(session, user, workspace_path="/counted-by-deltas")
    others = []
    for number in range(3):
        (root / str(number)).mkdir()
        (root / str(number) / "data").write_bytes(b"x" * 9999)
        others.append(make_run(session, user, workspace_path=str(root / str(number))))
    in_processes(
        processes + 2,
        change_or_recalculate,
        uri,
        str(user.id_),
        str(run.id_),
        [str(other.id_) for other in others],
        count,
        processes,
    )
    session.expire_all()
    wanted = sum(sum(deltas(count, seed)) for seed in range(processes))
    assert run.get_quota_usage()["disk"]["usage"]["raw"] == wanted
    measured = sum(other.get_quota_usage()["disk"]["usage"]["raw"] for other in others)
    assert measured > 0
    assert user.get_quota_usage()["disk"]["usage"]["raw"] == wanted + measured


def test_concurrent_deltas_are_exact(session: Session, database_uri: str, tmp_path: Path) -> None:
    check_deltas(session, database_uri, tmp_path, processes=4, count=50)


@pytest.mark.soak
def test_sixteen_processes_of_five_hundred_deltas_are_exact(
    session: Session, database_uri: str, tmp_path: Path
) -> None:
    check_deltas(session, database_uri, tmp_path, processes=16, count=500)


def try_to_reserve(uri: str, user_id: str, processes: int, seed: int) -> None:
    """Reserve one unit, when all processes are there."""
    engine = database.create_engine(uri, pool_size=1)
    with orm.Session(engine) as session:
        there = TaskLease(name=f"{seed}", holder="", acquired_at=sa.func.now(), expires_at=sa.func.now())
        session.add(there)
        session.commit()
        while session.scalar(sa.select(sa.func.count()).select_from(TaskLease)) < processes:
            session.commit()
            time.sleep(0.01)
        session.commit()
        try:
            quota.reserve(session, user_id, "disk", 1)
        except errors.QuotaExceeded as error:
            assert (error.used, error.reserved, error.limit) == (90, 10, 100)
        session.commit()
    engine.dispose()


@pytest.mark.parametrize("processes", [12, pytest.param(32, marks=pytest.mark.soak)])
def test_of_all_that_race_for_the_last_ten_units_ten_succeed(
    session: Session, database_uri: str, processes: int
) -> None:
    user = make_user(session)
    quota.set_limit(session, user, "disk", 100)
    quota.update_users_disk_quota(session, user, bytes_to_sum=90)
    session.commit()
    in_processes(processes, try_to_reserve, database_uri, str(user.id_), processes)
    assert session.scalar(sa.select(sa.func.count()).select_from(QuotaReservation)) == 10
    assert session.scalar(sa.select(sa.func.max(UserResource.quota_reserved))) == 10


def test_a_second_run_says_so(session_factory: sessionmaker[Session]) -> None:
    with lease(session_factory, "disk-usage-update"):
        with pytest.raises(errors.AlreadyRunning, match="renewed its lease at 20"):
            update_disk_usage(session_factory)
        update_disk_usage(session_factory, Scope(shard=(1, 2)))
        update_cpu_usage(session_factory)
    update_disk_usage(session_factory)


def hold_lease(uri: str, seconds: float, seed: int) -> None:
    engine = database.create_engine(uri)
    with lease(orm.sessionmaker(engine, class_=PlatformSession), "job", seconds=seconds):
        os.kill(os.getpid(), signal.SIGKILL)


def test_the_lease_of_a_killed_run_expires(session_factory: sessionmaker[Session], session: Session) -> None:
    session.execute(
        sa.text(
            """INSERT INTO platform.task_lease VALUES
            ('job', 'elsewhere pid:[1] 1 1 x', now(), clock_timestamp() + interval '0.5 s')"""
        )
    )
    session.commit()
    with pytest.raises(errors.AlreadyRunning), lease(session_factory, "job"):
        pass
    time.sleep(0.6)
    with lease(session_factory, "job"):
        pass


def test_a_killed_run_of_this_machine_is_followed_at_once(
    database_uri: str, session_factory: sessionmaker[Session]
) -> None:
    with pytest.raises(AssertionError):
        in_processes(1, hold_lease, database_uri, 600.0)
    with lease(session_factory, "job"):
        pass


@pytest.mark.parametrize("failed_renewals", [0, 1])
def test_a_run_that_lives_keeps_its_lease(
    session_factory: sessionmaker[Session], failed_renewals: int
) -> None:
    calls = itertools.count()

    def factory() -> Session:
        if 0 < next(calls) <= failed_renewals:
            raise sa.exc.OperationalError("UPDATE", None, ConnectionError())
        return session_factory()

    with lease(factory, "job", seconds=0.4) as held:
        time.sleep(1)
        held.check()
        with pytest.raises(errors.AlreadyRunning), lease(session_factory, "job"):
            pass


def test_a_run_that_lost_its_lease_leaves_that_of_the_run_that_took_over(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    with lease(session_factory, "task"):
        session.execute(sa.text("UPDATE platform.task_lease SET holder = 'another'"))
        session.commit()
    assert session.scalar(sa.text("SELECT holder FROM platform.task_lease")) == "another"


def test_a_run_that_lives_keeps_its_lease_when_the_clock_was_set_back(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    with lease(session_factory, "job", seconds=0.4) as held:
        session.execute(
            sa.text(
                "UPDATE platform.task_lease"
                " SET acquired_at = acquired_at + interval '9 h', expires_at = expires_at + interval '9 h'"
            )
        )
        session.commit()
        time.sleep(0.5)
        with pytest.raises(errors.AlreadyRunning), lease(session_factory, "job"):
            pass
        held.check()


def test_a_run_that_stood_still_finds_out(session: Session, session_factory: sessionmaker[Session]) -> None:
    with lease(session_factory, "job", seconds=0.4) as held:
        session.execute(sa.text("UPDATE platform.task_lease SET holder = 'elsewhere pid:[1] 1 1 x'"))
        session.commit()
        assert held.lost.wait(5)
        with pytest.raises(errors.AlreadyRunning):
            held.check()


def check_kills(session: Session, uri: str, root: Path, runs: int, kills: int) -> None:
    """Kill the job at random moments, with other figures on the disk each time."""
    users = [make_user(session) for _ in range(5)]
    paths = [root / str(number) for number in range(runs)]
    for number, path in enumerate(paths):
        path.mkdir()
        session.add(
            Workflow(name="w", owner_id=users[number % 5].id_, type_="serial", workspace_path=str(path))
        )
    session.commit()
    old: dict[str, int] = {str(path): 0 for path in paths}
    finished = 0
    for turn in range(kills):
        for path in paths:
            (path / "data").write_bytes(b"x" * 4096 * (turn + 2))
        new = {str(path): du(path) for path in paths[:1]}
        size = next(iter(new.values()))
        process = command_line.start(uri, "quota", "resource-usage-update")
        try:
            process.wait(timeout=random.uniform(0.3, 1.8))
            finished += 1
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.communicate()
        figures = stored(session)
        assert all(figures.get(path, 0) in (old[path], size) for path in old)
        check_totals(session)
        old = {path: figures.get(path, 0) for path in old}
    report = update_disk_usage(sessionmaker(session.get_bind()))
    assert report.workspaces == runs
    assert set(stored(session).values()) == {size}
    check_totals(session)


def du(path: Path) -> int:
    return int(subprocess.check_output(["du", "-s", "--block-size=1", path]).split()[0])


def stored(session: Session) -> dict[str, int]:
    session.rollback()
    rows = session.execute(
        sa.select(Workflow.workspace_path, WorkflowResource.quota_used)
        .join(WorkflowResource, WorkflowResource.workflow_id == Workflow.id_)
        .join(Resource, Resource.id_ == WorkflowResource.resource_id)
        .where(Resource.type_ == ResourceType.disk)
    )
    return dict(rows.all())


def check_totals(session: Session) -> None:
    session.rollback()
    rows = session.execute(
        sa.text(
            """SELECT t.quota_used, coalesce((
                SELECT sum(f.quota_used) FROM platform.workflow_resource AS f
                WHERE f.owner_id = t.owner_id AND f.resource_id = t.resource_id), 0)
            FROM platform.user_resource AS t"""
        )
    ).all()
    assert rows
    assert all(total == figures for total, figures in rows)


@pytest.mark.parametrize(("runs", "kills"), [(300, 3), pytest.param(3000, 50, marks=pytest.mark.soak)])
def test_killing_the_job_leaves_old_or_new_figures_and_true_totals(
    session: Session, database_uri: str, tmp_path: Path, runs: int, kills: int
) -> None:
    check_kills(session, database_uri, tmp_path, runs, kills)
