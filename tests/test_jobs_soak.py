"""A night of the jobs: users are deleted, workspaces vanish, and the storage is unmounted half-way."""

from __future__ import annotations

import random
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from platform_db import errors, settings
from platform_db.models import (
    Resource,
    TaskLease,
    User,
    UserResource,
    Workflow,
    WorkflowResource,
    WorkspaceRetentionRule,
)
from platform_db.users import delete_user
from platform_db.workflows import set_result
from tests import command_line
from tests.factories import rule_of

NOW = datetime.now(timezone.utc)
DUE, NOT_DUE = NOW - timedelta(days=1), NOW + timedelta(days=9)

MEASURING = [
    ("quota", "disk-usage-update"),
    ("quota", "resource-usage-update"),
    ("quota", "reconcile", "--fix"),
]
JOBS = [*MEASURING, ("quota", "cpu-usage-update"), ("retention", "apply")]


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Let the workspaces of this test lie below a root of its own."""
    root = tmp_path / "root"
    monkeypatch.setenv("PLATFORM_DB_WORKSPACE_ROOT", str(root))
    settings.reset_settings()
    yield root
    settings.reset_settings()


def make_runs(session: Session, users: int) -> list[Workflow]:
    """Give each user a run that took an hour, with a result; every third one's rule is due, no other's is."""
    Resource.initialise_default_resources(session)
    owners = [User(email=f"user-{number}@example.org") for number in range(users)]
    session.add_all(owners)
    session.flush()
    took = {"run_started_at": NOW - timedelta(hours=2), "run_finished_at": NOW - timedelta(hours=1)}
    runs = [
        Workflow(name="w", owner_id=owner.id_, type_="serial", specification={}, status="finished", **took)
        for owner in owners
    ]
    session.add_all(runs)
    session.flush()
    for number, run in enumerate(runs):
        workspace = Path(run.workspace_path)
        workspace.mkdir(parents=True)
        for name in ("kept.txt", "a.tmp"):
            (workspace / name).write_bytes(b"x" * 5000)
        session.add(rule_of(run, NOT_DUE if number % 3 else DUE))
        set_result(session, run, number)
    session.commit()
    return runs


def figures(session: Session) -> dict[object, int]:
    """Return every figure and total that is stored."""
    session.rollback()
    of_runs = sa.select(
        WorkflowResource.workflow_id, WorkflowResource.resource_id, WorkflowResource.quota_used
    )
    totals = sa.select(UserResource.owner_id, UserResource.resource_id, UserResource.quota_used)
    return {(row[0], row[1]): row[2] for query in (of_runs, totals) for row in session.execute(query)}


def applied(session: Session) -> set[object]:
    session.rollback()
    rule = WorkspaceRetentionRule
    return set(session.scalars(sa.select(rule.workflow_id).where(rule.status == "applied")))


def run_while_users_go(
    uri: str, root: Path, factory: sessionmaker[Session], users: list[object]
) -> dict[tuple[str, ...], int]:
    """Run every job while these users are deleted; return the exit codes."""

    def delete() -> None:
        for user_id in users:
            with factory() as session, session.begin():
                delete_user(session, session.get_one(User, user_id), delete_work=True)
            time.sleep(0.01)

    deleting = threading.Thread(target=delete)
    deleting.start()
    codes = {}
    for job in JOBS:
        codes[job] = command_line.run(uri, *job, PLATFORM_DB_WORKSPACE_ROOT=str(root)).exit_code
    deleting.join()
    return codes


def unmount_half_way(
    uri: str, root: Path, factory: sessionmaker[Session], job: tuple[str, ...]
) -> subprocess.CompletedProcess[str]:
    """Run a job whose root becomes an empty directory as soon as the job has begun."""
    process = command_line.start(uri, *job, PLATFORM_DB_WORKSPACE_ROOT=str(root))
    with factory() as session:
        while (
            process.poll() is None and session.scalar(sa.select(sa.func.count()).select_from(TaskLease)) == 0
        ):
            session.rollback()
            time.sleep(0.005)
    root.rename(root.with_name("unmounted"))
    root.mkdir()
    output, said = process.communicate()
    root.rmdir()
    root.with_name("unmounted").rename(root)
    return subprocess.CompletedProcess(job, process.returncode, output, said)


@pytest.mark.parametrize("users", [30, pytest.param(1000, marks=pytest.mark.soak)])
def test_jobs_set_nothing_to_zero_and_remove_nothing_that_is_not_due(
    session: Session, session_factory: sessionmaker[Session], database_uri: str, root: Path, users: int
) -> None:
    runs = make_runs(session, users)
    due = {run.id_ for number, run in enumerate(runs) if number % 3 == 0}
    workspaces = {run.id_: Path(run.workspace_path) for run in runs}
    owners = {run.id_: run.owner_id for run in runs}
    assert command_line.run(database_uri, "quota", "resource-usage-update").exit_code == 0
    before = figures(session)
    assert all(before.values())

    # Unmounted half-way: what was measured or removed before is right, and the rest is left.
    for job in [*MEASURING, ("retention", "apply")]:
        done = unmount_half_way(database_uri, root, session_factory, job)
        assert done.returncode in {0, errors.PartialFailure.exit_code, errors.StorageMissing.exit_code}, done
        if job in MEASURING:
            assert figures(session) == before, done
    rest = due - applied(session)

    # An empty root: nothing is done, and the exit code tells.
    root.rename(root.with_name("unmounted"))
    root.mkdir()
    now = figures(session)
    for job in [*MEASURING, ("retention", "apply")]:
        done = command_line.run(database_uri, *job, PLATFORM_DB_WORKSPACE_ROOT=str(root))
        nothing_due = job == ("retention", "apply") and not rest
        assert done.exit_code == (0 if nothing_due else errors.StorageMissing.exit_code), done.output
        assert figures(session) == now
    assert due - applied(session) == rest
    root.rmdir()
    root.with_name("unmounted").rename(root)

    # Users are deleted and workspaces vanish meanwhile.
    chosen = random.Random(7).sample(list(owners), users // 10 + users // 50)
    gone, vanished = chosen[: users // 10], chosen[users // 10 :]
    for id_ in vanished:
        shutil.rmtree(workspaces[id_])
    codes = run_while_users_go(database_uri, root, session_factory, [owners[id_] for id_ in gone])

    # A workspace that is missing though its run is not deleted: its rule waits, and the exit code tells.
    waiting = rest & set(vanished)
    assert codes == {**dict.fromkeys(JOBS, 0), ("retention", "apply"): 9 if waiting else 0}
    assert applied(session) == due - set(gone) - waiting
    assert session.scalar(sa.select(sa.func.count()).select_from(User)) == users - len(gone)
    now = figures(session)
    disk = session.scalars(sa.select(Resource.id_).where(Resource.name == "shared storage")).one()
    lost = {id_ for run_id in vanished for id_ in (run_id, owners[run_id])}
    assert {id_ for (id_, resource), used in now.items() if resource == disk and not used} == lost
    assert all(used > 0 for (_, resource), used in now.items() if resource != disk)
    for id_, workspace in workspaces.items():
        if workspace.exists():
            left = {path.name for path in workspace.iterdir()}
            assert left - {"a.tmp"} == {"kept.txt"}
            assert "a.tmp" in left or id_ in due
    assert {id_ for id_ in workspaces if not workspaces[id_].exists()} == set(vanished)
