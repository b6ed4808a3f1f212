"""Jobs over all users: what others lock of one user fails that user alone, and the exit code tells."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa
from click.testing import Result
from sqlalchemy.orm import Session, sessionmaker

from platform_db import errors, quota, settings
from platform_db.models import AuditLog, QuotaReservation, Resource, Workflow
from platform_db.quota.batches import run_each
from tests import command_line
from tests.factories import make_run, make_user, rule_of

NOW = datetime.now(timezone.utc)
FIGURES = "SELECT FROM platform.user_resource WHERE owner_id = :owner FOR UPDATE"
RULES = "SELECT FROM platform.workspace_retention_rule WHERE owner_id = :owner FOR UPDATE"


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Let the workspaces of this test lie below a root of its own."""
    monkeypatch.setenv("PLATFORM_DB_WORKSPACE_ROOT", str(tmp_path))
    settings.reset_settings()
    yield tmp_path
    settings.reset_settings()


@pytest.fixture
def runs(session: Session) -> list[Workflow]:
    """Give runs of three users that took an hour and left a file; their rules are due in this order."""
    Resource.initialise_default_resources(session)
    runs = []
    for number in range(3):
        run = make_run(
            session,
            make_user(session),
            status="finished",
            run_started_at=NOW - timedelta(hours=2),
            run_finished_at=NOW - timedelta(hours=1),
        )
        Path(run.workspace_path).mkdir(parents=True)
        (Path(run.workspace_path) / "a.tmp").write_bytes(b"x" * 5000)
        session.add(rule_of(run, NOW - timedelta(days=9 - number)))
        runs.append(run)
    session.commit()
    return runs


def run_while_locked(
    database_uri: str, root: Path, factory: sessionmaker[Session], lock: str, run: Workflow, *command: str
) -> Result:
    """Run a command while another transaction holds rows of this run's owner."""
    with factory() as other:
        other.execute(sa.text(lock), {"owner": run.owner_id})
        return command_line.run(
            database_uri, *command, PLATFORM_DB_LOCK_TIMEOUT="300", PLATFORM_DB_WORKSPACE_ROOT=str(root)
        )


def used(session: Session, runs: list[Workflow], resource: str) -> list[bool]:
    session.expire_all()
    totals = [run.owner.get_quota_usage().get(resource) for run in runs]
    return [total is not None and total["usage"]["raw"] > 0 for total in totals]


@pytest.mark.parametrize(
    ("command", "resource"),
    [
        (("quota", "cpu-usage-update"), "cpu"),
        (("quota", "disk-usage-update"), "disk"),
        (("quota", "resource-usage-update"), "cpu"),
        (("quota", "reconcile", "--fix"), "disk"),
        (("quota", "reconcile", "--fix"), "cpu"),
    ],
)
def test_a_user_whose_figures_are_locked_fails_alone(
    session: Session,
    session_factory: sessionmaker[Session],
    database_uri: str,
    root: Path,
    runs: list[Workflow],
    command: tuple[str, ...],
    resource: str,
) -> None:
    session.commit()
    done = run_while_locked(database_uri, root, session_factory, FIGURES, runs[0], *command)
    assert done.exit_code == errors.PartialFailure.exit_code == 9
    assert f"user {runs[0].owner_id} could not be" in done.stderr
    assert "canceling statement due to lock timeout" in done.stderr
    assert used(session, runs, resource) == [False, True, True]
    again = command_line.run(database_uri, *command, PLATFORM_DB_WORKSPACE_ROOT=str(root))
    assert again.exit_code == 0
    assert used(session, runs, resource) == [True, True, True]


def test_expired_reservations_of_a_user_whose_totals_are_locked_are_left_alone(
    session: Session,
    session_factory: sessionmaker[Session],
    database_uri: str,
    root: Path,
    runs: list[Workflow],
) -> None:
    for run in runs:
        quota.reserve(session, run.owner_id, "cpu", 7, ttl=0)
    session.commit()
    run_while_locked(database_uri, root, session_factory, FIGURES, runs[0], "quota", "cpu-usage-update")
    left = session.scalars(sa.select(QuotaReservation.owner_id)).all()
    assert left == [runs[0].owner_id]


@pytest.mark.parametrize(
    ("lock", "statuses"), [(FIGURES, ["applied"] * 3), (RULES, ["active", *["applied"] * 2])]
)
def test_a_rule_whose_rows_are_locked_keeps_no_other_rule_waiting(
    session: Session,
    session_factory: sessionmaker[Session],
    database_uri: str,
    root: Path,
    runs: list[Workflow],
    lock: str,
    statuses: list[str],
) -> None:
    for run in runs:
        quota.store_workflow_disk_quota(session, run)
    session.commit()
    done = run_while_locked(database_uri, root, session_factory, lock, runs[0], "retention", "apply")
    assert done.exit_code == errors.PartialFailure.exit_code
    assert f"1 of 3 rules failed; the first, {runs[0].retention_rules[0].id_}" in done.stderr
    assert "canceling statement due to lock timeout" in done.stderr
    session.expire_all()
    assert [run.retention_rules[0].status.value for run in runs] == statuses
    audited = set(session.scalars(sa.select(AuditLog.owner_id).where(AuditLog.action == "apply_retention")))
    for run, status in zip(runs, statuses, strict=True):
        gone = status == "applied"
        assert (Path(run.workspace_path) / "a.tmp").exists() is not gone
        assert (run.owner_id in audited) is gone, "what was removed is recorded, whatever is locked"


def test_a_total_that_alone_failed_fails_the_job() -> None:
    report = quota.DiskReport()
    report.fail_total(uuid4(), "canceling statement due to lock timeout")
    with pytest.raises(errors.PartialFailure, match="1 totals could not be corrected"):
        report.raise_for_problems()


@pytest.mark.parametrize("job", [quota.update_disk_usage, lambda f: list(quota.reconcile(f, fix=True))])
@pytest.mark.usefixtures("runs")
def test_a_job_that_ends_early_leaves_no_process_that_reads_the_disk(
    session_factory: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch, job
) -> None:
    def fail(*arguments: object) -> None:
        raise ConnectionError

    for module in (sys.modules["platform_db.quota.disk_update"], sys.modules["platform_db.quota.reconcile"]):
        monkeypatch.setattr(module, "store_figures", fail)
        monkeypatch.setattr(module, "FIGURES_PER_BATCH", 1)
    with pytest.raises(ConnectionError) as kept:  # And with it the frames that it came through.
        job(session_factory)
    assert kept.traceback
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("workspace")]


def test_a_lost_connection_ends_the_job(session_factory: sessionmaker[Session]) -> None:
    def lose(session: Session, items: Sequence[int]) -> None:
        session.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))

    failed: list[int] = []
    with pytest.raises(sa.exc.OperationalError):
        run_each(session_factory, [1, 2], lose, lambda item, reason: failed.append(item))
    assert failed == []
