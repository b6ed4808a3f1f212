"""The disk job: exact figures, shared workspaces, failures, versions, shards, and what it costs."""

from __future__ import annotations

import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session, sessionmaker

from platform_db import errors, quota, workspaces
from platform_db.models import ResourceType, User, UserResource, Workflow, WorkflowResource
from platform_db.quota import Scope, update_disk_usage
from platform_db.quota.figures import Figure, read_workspace, write_figures
from tests.factories import make_run, make_user
from tests.locks import wait_for_a_lock


def make_workspace(path: Path, size: int = 5000) -> Path:
    path.mkdir(parents=True)
    (path / "data").write_bytes(b"x" * size)
    return path


def du(path: Path) -> int:
    return int(subprocess.check_output(["du", "-s", "--block-size=1", path]).split()[0])


def disk_of(session: Session, row: User | Workflow) -> int:
    session.expire_all()
    usage: int = row.get_quota_usage()["disk"]["usage"]["raw"]
    return usage


def test_figures_are_what_du_says_and_totals_their_sums(
    session: Session, session_factory: sessionmaker[Session], tmp_path: Path
) -> None:
    users = [make_user(session) for _ in range(2)]
    runs = [
        make_run(
            session,
            users[n % 2],
            workspace_path=str(make_workspace(tmp_path / f"workspace {n}'s\n", size=n * 3000)),
        )
        for n in range(7)
    ]
    report = update_disk_usage(session_factory)
    assert (report.workspaces, report.changed, report.failed) == (7, 7, 0)
    for run in runs:
        assert disk_of(session, run) == du(Path(run.workspace_path)) > 0
    for user in users:
        assert disk_of(session, user) == sum(du(Path(r.workspace_path)) for r in runs if r.owner == user)
    assert session.scalars(sa.select(WorkflowResource.method).distinct()).all() == ["scan"]


def test_runs_that_share_a_workspace_count_once_deleted_ones_what_is_left(
    session: Session, session_factory: sessionmaker[Session], tmp_path: Path
) -> None:
    user = make_user(session)
    shared = make_workspace(tmp_path / "shared")
    runs = [make_run(session, user, workspace_path=str(shared)) for _ in range(3)]
    kept = make_run(
        session, user, status="deleted", workspace_path=str(make_workspace(tmp_path / "kept", 9999))
    )
    gone = make_run(session, user, status="deleted", workspace_path=str(tmp_path / "gone"))
    report = update_disk_usage(session_factory)
    assert (report.workspaces, report.runs, report.missing) == (3, 5, 1)
    assert {disk_of(session, run) for run in runs} == {du(shared)}
    assert disk_of(session, kept) == du(tmp_path / "kept")
    assert disk_of(session, gone) == 0
    assert disk_of(session, user) == du(shared) + disk_of(session, kept)


def test_a_figure_that_somebody_else_measured_is_stored_like_ones_own(
    session: Session, session_factory: sessionmaker[Session], tmp_path: Path
) -> None:
    user = make_user(session)
    shared = str(tmp_path / "nothing is read here")
    first, second = (make_run(session, user, workspace_path=shared) for _ in range(2))
    figure = quota.store_workflow_disk_quota(session, first, measured=7000)
    session.commit()
    assert (figure.quota_used, figure.method, figure.measured_at is None) == (7000, "given", False)
    assert [disk_of(session, row) for row in (first, second, user)] == [7000] * 3
    quota.store_workflow_disk_quota(session, second, measured=0)
    session.commit()
    assert [disk_of(session, row) for row in (first, second, user)] == [0] * 3
    assert quota.store_workflow_disk_quota(session, first, measured=2**63 - 1).quota_used == 2**62
    for values in ({"measured": -1}, {"measured": 2**63}, {"measured": 5, "bytes_to_sum": 5}):
        with pytest.raises(errors.InvalidArgument):
            quota.store_workflow_disk_quota(session, first, **values)


def test_a_delta_of_a_shared_workspace_counts_once_too(session: Session, tmp_path: Path) -> None:
    user = make_user(session)
    shared = make_workspace(tmp_path / "shared")
    first, second = (make_run(session, user, workspace_path=str(shared)) for _ in range(2))
    quota.store_workflow_disk_quota(session, first)
    assert disk_of(session, user) == disk_of(session, second) == du(shared)
    late = make_run(session, user, workspace_path=str(shared))
    figure = quota.store_workflow_disk_quota(session, late, bytes_to_sum=-1000)
    quota.update_users_disk_quota(session, user, bytes_to_sum=-1000)
    session.commit()
    assert figure.quota_used == du(shared) - 1000
    assert {disk_of(session, run) for run in (first, second, late)} == {du(shared) - 1000}
    assert disk_of(session, user) == du(shared) - 1000
    quota.update_users_disk_quota(session)
    assert disk_of(session, user) == du(shared) - 1000


def test_deltas_stop_at_zero_and_say_so(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    user = make_user(session)
    run = make_run(session, user, workspace_path="/nowhere")
    quota.store_workflow_disk_quota(session, run, bytes_to_sum=100)
    quota.store_workflow_disk_quota(session, run, bytes_to_sum=-101)
    quota.update_users_disk_quota(session, user, bytes_to_sum=-1)
    assert disk_of(session, run) == disk_of(session, user) == 0
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "a change of -101 stops at 0, because it was 100" in caplog.messages[0]


def test_a_failure_keeps_the_figure_and_the_rest_goes_on(
    session: Session, session_factory: sessionmaker[Session], tmp_path: Path
) -> None:
    user = make_user(session)
    good = make_run(session, user, workspace_path=str(make_workspace(tmp_path / "good")))
    bad = make_run(session, user, workspace_path="/" + "x" * 300)
    quota.store_workflow_disk_quota(session, bad, bytes_to_sum=77)
    session.commit()
    report = update_disk_usage(session_factory)
    assert (report.failed, report.changed) == (1, 1)
    assert disk_of(session, good) == du(tmp_path / "good")
    assert disk_of(session, bad) == 77
    with pytest.raises(errors.PartialFailure, match="1 could not be measured"):
        report.raise_for_problems()


def test_a_change_that_arrives_while_the_disk_is_read_is_kept(session: Session, tmp_path: Path) -> None:
    user = make_user(session)
    run = make_run(session, user, workspace_path=str(tmp_path / "w"))
    disk = quota.get_default_quota_resource(session, ResourceType.disk)
    begun = read_workspace(session, disk, user.id_, run.workspace_path)
    quota.store_workflow_disk_quota(session, run, bytes_to_sum=500)
    quota.update_users_disk_quota(session, user, bytes_to_sum=500)
    session.commit()
    (written,) = write_figures(session, disk, [Figure(begun, 10_000, "scan")])
    assert (written.used, written.stale) == (10_500, True)
    assert disk_of(session, run) == disk_of(session, user) == 10_500
    # In doubt whether the figure has the change in it, the next run looks again, and finds it out.
    again = read_workspace(session, disk, user.id_, run.workspace_path)
    (written,) = write_figures(session, disk, [Figure(again, 10_000, "scan")])
    assert (written.used, written.stale) == (10_000, False)
    assert disk_of(session, user) == 10_000


def test_two_changes_of_a_workspace_at_once_wait_for_each_other(
    session: Session, session_factory: sessionmaker[Session], tmp_path: Path
) -> None:
    user = make_user(session)
    run_id = make_run(session, user, workspace_path=str(tmp_path / "w")).id_

    def change(made: Session) -> None:
        quota.store_workflow_disk_quota(made, run_id, bytes_to_sum=5)

    def change_too() -> None:
        with session_factory() as other, other.begin():
            change(other)

    change(session)
    with ThreadPoolExecutor() as pool:
        changed = pool.submit(change_too)
        wait_for_a_lock(session_factory)
        session.commit()
        changed.result()
    assert disk_of(session, session.get_one(Workflow, run_id)) == 10


def test_another_change_that_arrives_while_the_disk_is_read_is_kept_too(
    session: Session, tmp_path: Path
) -> None:
    user = make_user(session)
    run = make_run(session, user, workspace_path=str(tmp_path / "w"))
    disk = quota.get_default_quota_resource(session, ResourceType.disk)
    quota.store_workflow_disk_quota(session, run, bytes_to_sum=500)
    session.commit()
    begun = read_workspace(session, disk, user.id_, run.workspace_path)
    quota.store_workflow_disk_quota(session, run, bytes_to_sum=7)
    session.commit()
    (written,) = write_figures(session, disk, [Figure(begun, 10_000, "scan")])
    assert (written.used, written.stale) == (10_007, True)


def test_a_figure_is_never_written_over_a_newer_one(session: Session) -> None:
    user = make_user(session)
    run = make_run(session, user, workspace_path="/w")
    disk = quota.get_default_quota_resource(session, ResourceType.disk)
    early = read_workspace(session, disk, user.id_, "/w")
    late = read_workspace(session, disk, user.id_, "/w")
    assert write_figures(session, disk, [Figure(late, 2, "scan")])
    assert not write_figures(session, disk, [Figure(early, 1, "scan")])
    assert disk_of(session, run) == disk_of(session, user) == 2


def test_only_what_is_stale_is_measured(
    session: Session, session_factory: sessionmaker[Session], tmp_path: Path
) -> None:
    user = make_user(session)
    runs = [make_run(session, user, workspace_path=str(make_workspace(tmp_path / str(n)))) for n in range(4)]
    update_disk_usage(session_factory)
    assert update_disk_usage(session_factory, Scope(stale_after=3600)).workspaces == 0
    session.execute(
        sa.update(WorkflowResource)
        .where(WorkflowResource.workflow_id == runs[0].id_)
        .values(measured_at=sa.func.now() - sa.text("interval '2 hours'"))
    )
    session.execute(
        sa.update(WorkflowResource).where(WorkflowResource.workflow_id == runs[1].id_).values(stale=True)
    )
    make_run(session, user, workspace_path=str(tmp_path / "0"))
    session.commit()
    assert update_disk_usage(session_factory, Scope(stale_after=3600)).workspaces == 2
    assert update_disk_usage(session_factory, Scope(stale_after=3600)).workspaces == 0


def test_shards_share_the_users_and_keep_them_whole(
    session: Session, session_factory: sessionmaker[Session], tmp_path: Path
) -> None:
    users = [make_user(session) for _ in range(12)]
    for number, user in enumerate(users):
        for part in range(2):
            make_run(
                session, user, workspace_path=str(make_workspace(tmp_path / f"{number}-{part}", number * 999))
            )
    reports = [update_disk_usage(session_factory, Scope(shard=(i, 3))) for i in (1, 2, 3)]
    assert sum(report.workspaces for report in reports) == 24
    assert all(report.workspaces % 2 == 0 for report in reports)
    assert all(
        disk_of(session, user) == sum(r.resources[0].quota_used for r in user.workflows) for user in users
    )
    assert update_disk_usage(session_factory, Scope(shard=(0, 3))).workspaces == reports[2].workspaces


def test_the_last_shard_and_the_one_before_the_first_are_one_job() -> None:
    assert Scope(shard=(3, 3)).name == Scope(shard=(0, 3)).name != Scope(shard=(1, 3)).name


def test_a_dry_run_changes_nothing(
    session: Session, session_factory: sessionmaker[Session], tmp_path: Path
) -> None:
    user = make_user(session)
    make_run(session, user, workspace_path=str(make_workspace(tmp_path / "w")))
    report = update_disk_usage(session_factory, dry_run=True)
    assert (report.workspaces, report.changed) == (1, 1)
    assert disk_of(session, user) == 0
    assert not session.scalars(sa.select(WorkflowResource)).all()


def test_it_takes_few_statements_and_holds_no_transaction_while_the_disk_is_read(
    session: Session,
    engine: sa.Engine,
    session_factory: sessionmaker[Session],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    users = [make_user(session) for _ in range(10)]
    session.add_all(
        Workflow(name="w", owner_id=users[n % 10].id_, type_="serial", workspace_path=f"{tmp_path}/{n}")
        for n in range(2000)
    )
    session.commit()
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    measure_many = workspaces.measure_many

    def measure_and_look(*arguments: object, **options: object) -> object:
        for number, measured in enumerate(measure_many(*arguments, **options)):
            if number % 500 == 0:
                assert engine.pool.checkedout() == 0
            yield measured

    monkeypatch.setattr(workspaces, "measure_many", measure_and_look)
    session.close()
    assert update_disk_usage(session_factory).missing == 2000
    assert len(statements) <= 20


def test_a_total_that_drifted_is_corrected(session: Session, session_factory: sessionmaker[Session]) -> None:
    user = make_user(session)
    quota.update_users_disk_quota(session, user, bytes_to_sum=12345)
    session.commit()
    assert update_disk_usage(session_factory).corrected_totals == 1
    assert disk_of(session, user) == 0
    assert session.scalar(sa.select(sa.func.count()).where(UserResource.measured_at.is_not(None))) == 1


def test_a_sum_waits_for_a_change_and_has_it(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    user = make_user(session)
    run = make_run(session, user, workspace_path="/w")
    quota.store_workflow_disk_quota(session, run, bytes_to_sum=5)
    quota.update_users_disk_quota(session, user, bytes_to_sum=5)

    def sum_all() -> None:
        with session_factory() as other, other.begin():
            quota.update_users_disk_quota(other)

    thread = threading.Thread(target=sum_all)
    thread.start()
    wait_for_a_lock(session_factory)
    session.commit()
    thread.join()
    assert disk_of(session, user) == 5


def test_users_from_before_the_resources_get_their_rows(session: Session) -> None:
    user = make_user(session)
    session.execute(sa.delete(UserResource))
    quota.update_users_disk_quota(session, user, bytes_to_sum=5)
    session.commit()
    assert disk_of(session, user) == 5


def test_what_does_not_exist_is_said(session: Session) -> None:
    nobody = "00000000-0000-0000-0000-000000000001"
    with pytest.raises(errors.WorkflowNotFound):
        quota.store_workflow_disk_quota(session, nobody, bytes_to_sum=1)
    with pytest.raises(errors.UserNotFound):
        quota.update_users_disk_quota(session, nobody, bytes_to_sum=1)
    with pytest.raises(errors.InvalidArgument, match="needs a user"):
        quota.update_users_disk_quota(session, bytes_to_sum=1)
    with pytest.raises(errors.InvalidArgument, match="choose from cpu, disk"):
        quota.get_default_quota_resource(session, "gold")
