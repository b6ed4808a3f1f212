"""The disk job where storage is missing, workspaces are hostile, or users and runs are deleted meanwhile."""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from platform_db import errors, quota, settings, workspaces
from platform_db.models import User, Workflow, WorkflowResource
from platform_db.quota import Measuring, Scope, disk_update, reconcile, update_disk_usage
from platform_db.users import delete_user
from platform_db.workspaces import scan, workers
from tests import command_line
from tests.factories import make_run, make_user
from tests.locks import wait_for_a_lock

# Their packages offer functions under these names.
measuring = importlib.import_module("platform_db.workspaces.measure")
reconciling = importlib.import_module("platform_db.quota.reconcile")

Job = Callable[[sessionmaker[Session]], object]


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Let the workspaces of this test lie below a root of its own, and batches be small."""
    root = tmp_path / "root"
    monkeypatch.setenv("PLATFORM_DB_WORKSPACE_ROOT", f"{root},{tmp_path}/unused")
    settings.reset_settings()
    monkeypatch.setattr(disk_update, "FIGURES_PER_BATCH", 5)
    monkeypatch.setattr(reconciling, "FIGURES_PER_BATCH", 5)
    yield root
    settings.reset_settings()


def make_runs(session: Session, count: int, *, used: int = 7, **values: object) -> list[Workflow]:
    """Store runs of one owner with workspaces, and figures that are not what these take."""
    owner = make_user(session)
    runs = [Workflow(name="w", owner_id=owner.id_, type_="serial", **values) for _ in range(count)]
    session.add_all(runs)
    session.flush()
    resource = quota.get_default_quota_resource(session, "disk")
    for run in runs:
        fill(run)
        session.add(
            WorkflowResource(
                owner_id=owner.id_, workflow_id=run.id_, resource_id=resource.id_, quota_used=used
            )
        )
    quota.update_users_disk_quota(session, owner)
    session.commit()
    return runs


def fill(run: Workflow) -> None:
    Path(run.workspace_path).mkdir(parents=True)
    (Path(run.workspace_path) / "data").write_bytes(b"x" * 5000)


def remove(run: Workflow) -> None:
    shutil.rmtree(run.workspace_path)


def stored(session: Session) -> dict[object, int]:
    session.rollback()
    rows = session.execute(sa.select(WorkflowResource.workflow_id, WorkflowResource.quota_used))
    return dict(rows.all())


def total(session: Session, user: User) -> int:
    session.expire_all()
    used: int = user.get_quota_usage()["disk"]["usage"]["raw"]
    return used


def fix(factory: sessionmaker[Session]) -> None:
    for _ in reconcile(factory, fix=True):
        pass


both_jobs = pytest.mark.parametrize("job", [update_disk_usage, fix])


@both_jobs
@pytest.mark.parametrize("left", [True, False])
def test_storage_that_is_not_mounted_ends_the_job_before_anything_is_stored(
    session: Session, session_factory: sessionmaker[Session], root: Path, job: Job, left: bool
) -> None:
    (run,) = make_runs(session, 1)
    elsewhere = make_run(session, run.owner, workspace_path=f"{root.parent}/a/unmanaged")
    fill(elsewhere)
    shutil.rmtree(root)
    if left:
        root.mkdir()
    with pytest.raises(errors.StorageMissing, match=r"workspace root '/.*/root' (is empty|cannot be read)"):
        job(session_factory)
    assert stored(session) == {run.id_: 7}
    assert total(session, run.owner) == 7


def test_the_command_says_so_in_one_line_and_its_exit_code(
    session: Session, database_uri: str, root: Path
) -> None:
    make_runs(session, 1)
    shutil.rmtree(root)
    for command in ("disk-usage-update", "resource-usage-update", "reconcile"):
        done = command_line.run(database_uri, "quota", command, PLATFORM_DB_WORKSPACE_ROOT=str(root))
        assert done.exit_code == errors.StorageMissing.exit_code == 17
        assert f"workspace root '{root}' cannot be read" in done.stderr


def test_a_root_with_a_marker_or_without_workspaces_is_no_reason_to_stop(
    session: Session, session_factory: sessionmaker[Session], root: Path
) -> None:
    update_disk_usage(session_factory)
    run = make_run(session, make_user(session))
    with pytest.raises(errors.StorageMissing):
        update_disk_usage(session_factory)
    root.mkdir()
    (root / ".platform-db-root").touch()
    assert update_disk_usage(session_factory).missing == 1
    assert stored(session) == {run.id_: 0}


@both_jobs
@pytest.mark.parametrize("left", ["nothing", "an empty directory", "another file system"])
def test_storage_that_is_unmounted_half_way_sets_nothing_to_zero(
    session: Session,
    session_factory: sessionmaker[Session],
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    job: Job,
    left: str,
) -> None:
    runs = make_runs(session, 60)
    monkeypatch.setattr(disk_update, "WORKSPACES_PER_PAGE", 10)
    after_some(monkeypatch, 20, lambda: unmount(root, left))
    with pytest.raises(errors.StorageMissing):
        job(session_factory)
    figures = stored(session)
    assert set(figures) == {run.id_ for run in runs}
    assert min(figures.values()) == 7
    assert max(figures.values()) > 5000
    assert total(session, runs[0].owner) == sum(figures.values())


@both_jobs
def test_storage_that_is_unmounted_after_the_last_workspace_sets_nothing_to_zero(
    session: Session,
    session_factory: sessionmaker[Session],
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    job: Job,
) -> None:
    lost, _ = make_runs(session, 2)
    remove(lost)
    measure_many = workspaces.measure_many

    def measure_and_unmount(*arguments: object, **options: object) -> Iterator[object]:
        yield from measure_many(*arguments, **options)
        unmount(root, "nothing")

    monkeypatch.setattr(workspaces, "measure_many", measure_and_unmount)
    with pytest.raises(errors.StorageMissing):
        job(session_factory)
    assert stored(session)[lost.id_] == 7


def unmount(root: Path, left: str) -> None:
    root.rename(root.parent / "unmounted")
    if left != "nothing":
        root.mkdir()
    if left == "another file system":
        (root / "lost+found").mkdir()


def after_some(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], object]) -> None:
    """Let ``act`` happen when the job has received so many figures, and a few more are measured."""
    monkeypatch.setattr(measuring, "LARGEST_BATCH", 1)
    measure_many = workspaces.measure_many

    def measure_and_act(*arguments: object, **options: object) -> Iterator[object]:
        for received, measured in enumerate(measure_many(*arguments, **options)):
            if received == number:
                act()
            yield measured

    monkeypatch.setattr(workspaces, "measure_many", measure_and_act)


@both_jobs
@pytest.mark.parametrize(
    ("there", "gone", "stops"),
    [(0, 1, True), (0, 20, True), (1, 20, False), (20, 21, True), (84, 21, False)],
)
def test_too_many_missing_workspaces_end_the_job_before_one_is_set_to_zero(
    session: Session,
    session_factory: sessionmaker[Session],
    job: Job,
    there: int,
    gone: int,
    stops: bool,
) -> None:
    lost = make_runs(session, gone)
    make_runs(session, there)
    for run in lost:
        remove(run)
    if stops:
        with pytest.raises(
            errors.StorageMissing, match=f"{gone} of {gone + there} workspaces below root .* missing"
        ):
            job(session_factory)
    else:
        job(session_factory)
    figures = stored(session)
    assert {figures[run.id_] for run in lost} == {7 if stops else 0}


@pytest.mark.parametrize("number", range(1, 9))
def test_a_shard_or_a_user_alone_does_not_take_lost_storage_for_empty_workspaces(
    session: Session, session_factory: sessionmaker[Session], root: Path, number: int
) -> None:
    """Each scope has few workspaces, all of them missing; what tells is the whole platform."""
    runs = [run for _ in range(8) for run in make_runs(session, 3)]
    (root / "lost+found").mkdir()
    (root / "users").rename(root.parent / "unmounted")
    for scope in (Scope(shard=(number, 8)), Scope(user_id=runs[0].owner_id)):
        with pytest.raises(errors.StorageMissing, match="24 of 24 workspaces below root"):
            update_disk_usage(session_factory, scope)
    assert set(stored(session).values()) == {7}


@both_jobs
def test_a_small_root_that_is_lost_ends_the_job_however_many_workspaces_others_hold(
    session: Session, session_factory: sessionmaker[Session], root: Path, job: Job
) -> None:
    make_runs(session, 30)
    owner = make_user(session)
    small = root.parent / "unused"
    lost = make_run(session, owner, workspace_path=f"{small}/users/{owner.id_}/w")
    fill(lost)
    update_disk_usage(session_factory)
    before = stored(session)
    shutil.rmtree(small / "users")
    (small / "lost+found").mkdir()
    with pytest.raises(errors.StorageMissing, match=f"1 of 1 workspaces below root '{small}'"):
        job(session_factory)
    assert stored(session) == before


def test_the_limit_is_a_setting_and_deleted_runs_do_not_count(
    session: Session, session_factory: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted = make_runs(session, 30, status="deleted")
    lost = make_runs(session, 25)
    for run in deleted:
        remove(run)
    assert update_disk_usage(session_factory).missing == 30
    for run in lost:
        remove(run)
    with pytest.raises(errors.StorageMissing):
        update_disk_usage(session_factory)
    monkeypatch.setenv("PLATFORM_DB_MISSING_WORKSPACES_LIMIT", "100")
    settings.reset_settings()
    assert update_disk_usage(session_factory).missing == 55
    assert set(stored(session).values()) == {0}


def test_a_run_alone_is_not_set_to_zero_either(session: Session, root: Path) -> None:
    (run,) = make_runs(session, 1)
    remove(run)
    assert quota.store_workflow_disk_quota(session, run).quota_used == 0
    (run,) = make_runs(session, 1)
    shutil.rmtree(root)
    with pytest.raises(errors.StorageMissing):
        quota.store_workflow_disk_quota(session, run)
    session.commit()
    assert stored(session)[run.id_] == 7


def test_a_closed_directory_lowers_no_figure(
    session: Session, session_factory: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = make_runs(session, 1)
    large = Path(run.workspace_path) / "closed" / "large"
    large.parent.mkdir()
    large.write_bytes(b"x" * 1_000_000)
    update_disk_usage(session_factory)
    before = stored(session)[run.id_]
    close(monkeypatch, "closed")
    report = update_disk_usage(session_factory)
    assert (report.incomplete, report.bytes) == (1, before)
    assert stored(session)[run.id_] == total(session, run.owner) == before > 1_000_000
    assert quota.store_workflow_disk_quota(session, run).quota_used == before
    session.commit()
    assert list(reconcile(session_factory)) == []
    (large.parent.parent / "more").write_bytes(b"x" * 2_000_000)
    update_disk_usage(session_factory)
    assert stored(session)[run.id_] > 2_000_000, "what can be read raises it"


def close(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Refuse to open directories of this name, as ``chmod 0`` does to all but root."""
    open_directory = os.open

    def refuse(path: object, *arguments: object, **options: object) -> int:
        if os.fsencode(path) == os.fsencode(name):
            raise PermissionError(13, "Permission denied")
        return open_directory(path, *arguments, **options)

    monkeypatch.setattr(workers.sys, "executable", "")  # so that this process scans
    monkeypatch.setattr(scan.os, "open", refuse)


@pytest.fixture
def any_size() -> Iterator[Path]:
    """Give a directory of a file system whose files may be of 8 EiB."""
    for place in (None, "/dev/shm"):
        with tempfile.TemporaryDirectory(dir=place) as directory:
            try:
                make_sparse(Path(directory, "test"))
            except OSError:
                continue
            yield Path(directory)
            return
    pytest.skip("no file system here has files of 8 EiB")


def make_sparse(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        file.truncate(2**63 - 1)


def test_sparse_files_of_any_size_end_no_job(
    session: Session, session_factory: sessionmaker[Session], any_size: Path
) -> None:
    hostile = make_user(session)
    for number in range(3):
        make_sparse(any_size / str(number) / "a")
        make_sparse(any_size / str(number) / "b")
        make_run(session, hostile, workspace_path=str(any_size / str(number)))
    (fine,) = make_runs(session, 1)
    for _ in range(2):
        report = update_disk_usage(session_factory, measuring=Measuring(apparent=True))
        with pytest.raises(errors.PartialFailure, match="shows 18446744073709551614 bytes"):
            report.raise_for_problems()
        assert stored(session)[fine.id_] == total(session, fine.owner) == 5000
        assert total(session, hostile) == max(stored(session).values()) == 2**62
    assert hostile.has_exceeded_quota() is False
    quota.set_limit(session, hostile, "disk", 10**15)
    assert hostile.has_exceeded_quota() is True
    with pytest.raises(errors.QuotaExceeded):
        quota.reserve(session, hostile, "disk", 1)


def delete(factory: sessionmaker[Session], run: Workflow) -> None:
    with factory() as session, session.begin():
        delete_user(session, session.get_one(User, run.owner_id), delete_work=True)


def test_users_who_are_deleted_between_batches_do_not_end_the_disk_job(
    session: Session, session_factory: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [run for _ in range(20) for run in make_runs(session, 1)]
    gone = [run for number, run in enumerate(runs) if number % 3 == 0]
    left = [run for run in runs if run not in gone]
    after_some(monkeypatch, 7, lambda: [delete(session_factory, run) for run in gone])
    ids = {run.id_ for run in left}
    session.commit()
    report = update_disk_usage(session_factory)
    report.raise_for_problems()
    figures = stored(session)
    assert set(figures) == ids
    assert min(figures.values()) > 5000


def test_users_who_are_deleted_meanwhile_do_not_end_the_reconcile(
    session: Session, session_factory: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [run for _ in range(20) for run in make_runs(session, 1)]
    after_some(monkeypatch, 7, lambda: delete(session_factory, runs[0]))
    totals = disk_update.portions

    def portions(*arguments: object) -> Iterator[list[object]]:
        for users in totals(*arguments):
            delete(session_factory, runs[1])
            yield users

    monkeypatch.setattr(reconciling, "portions", portions)
    ids = {run.id_ for run in runs[2:]}
    session.commit()
    fix(session_factory)
    assert set(stored(session)) == ids
    assert min(stored(session).values()) > 5000


def test_users_who_are_deleted_before_their_totals_are_summed_do_not_end_the_job(
    session: Session, session_factory: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    (gone,), (left,) = make_runs(session, 1), make_runs(session, 1)
    portions = disk_update.portions

    def delete_and_go_on(*arguments: object) -> Iterator[list[object]]:
        for users in portions(*arguments):
            delete(session_factory, gone)
            yield users

    monkeypatch.setattr(disk_update, "portions", delete_and_go_on)
    monkeypatch.setattr("platform_db.quota.cpu.portions", delete_and_go_on)
    id_ = left.id_
    session.commit()
    update_disk_usage(session_factory)
    assert set(stored(session)) == {id_}


def test_a_cpu_job_passes_over_users_who_are_deleted_meanwhile(
    session: Session, session_factory: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    (gone,) = make_runs(session, 1)
    portions = disk_update.portions

    def delete_and_go_on(*arguments: object) -> Iterator[list[object]]:
        for users in portions(*arguments):
            delete(session_factory, gone)
            yield users

    monkeypatch.setattr("platform_db.quota.cpu.portions", delete_and_go_on)
    session.commit()
    assert quota.update_cpu_usage(session_factory).users == 1


@both_jobs
def test_a_run_whose_deletion_commits_while_figures_are_written_does_not_end_the_job(
    session: Session, session_factory: sessionmaker[Session], job: Job
) -> None:
    (left,) = make_runs(session, 1)
    gone = make_run(session, left.owner)
    fill(gone)
    left_id = left.id_
    session.execute(sa.delete(Workflow).where(Workflow.id_ == gone.id_))
    failed: list[BaseException] = []

    def go() -> None:
        try:
            job(session_factory)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=go)
    thread.start()
    wait_for_a_lock(session_factory)
    session.commit()
    thread.join()
    assert failed == []
    assert list(stored(session)) == [left_id]


def test_one_directory_counts_once_however_it_is_spelled(
    session: Session, session_factory: sessionmaker[Session], root: Path
) -> None:
    owner = make_user(session)
    path = f"{root}/users/{owner.id_}/w"
    fill(make_run(session, owner, workspace_path=path))
    for spelling in (f"{path}/", f"/{path}", f"{root}/./users//{owner.id_}/w/x/.."):
        make_run(session, owner, workspace_path=spelling)
    report = update_disk_usage(session_factory, Scope(user_id=owner.id_))
    assert (report.workspaces, report.runs) == (1, 4)
    assert total(session, owner) == workspaces.measure(path).bytes
