"""Retention rules of workspaces: exactly what the patterns name goes, inside the workspace only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from platform_db import errors, settings, workspaces
from platform_db.lifecycle.history import history
from platform_db.lifecycle.transitions import transition
from platform_db.models import (
    AuditLog,
    InteractiveSession,
    Resource,
    Service,
    User,
    Workflow,
    WorkflowService,
    WorkflowSession,
    WorkspaceRetentionRule,
)
from platform_db.quota import store_workflow_disk_quota, update_users_disk_quota
from platform_db.retention.workspaces import apply_retention_rules
from platform_db.states import WorkspaceRetentionRuleStatus
from platform_db.users import delete_user
from platform_db.workspaces.removal import Removal, StopRemoval, remove_matching
from tests.factories import make_run, make_user

PAST = datetime.now(timezone.utc) - timedelta(days=1)
OWNER = UUID("018f0000-0000-7000-8000-000000000001")


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Let the workspaces of this test lie below a directory of its own."""
    monkeypatch.setenv("PLATFORM_DB_WORKSPACE_ROOT", str(tmp_path))
    settings.reset_settings()
    yield tmp_path
    settings.reset_settings()


def mine(root: Path, name: str = "workspace") -> Path:
    """Return the path of a workspace that is managed."""
    path = root / "users" / str(OWNER) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture
def workspace(root: Path) -> Path:
    """Give the path of a managed workspace, which is not there yet."""
    return mine(root)


def remove(path: Path | str, pattern: str, **options: Callable[[], None]) -> Removal:
    return remove_matching(str(path), OWNER, pattern, **options)


def fill(workspace: Path, *names: str) -> None:
    for name in names:
        path = workspace / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 5000)


def names(directory: Path) -> set[str]:
    return {
        str(Path(folder, name).relative_to(directory))
        for folder, directories, files in os.walk(directory)
        for name in (*files, *(d for d in directories if Path(folder, d).is_symlink()))
    }


ALL = {"a.tmp", "b.txt", "data/a.tmp", "data/b.txt", "data/deep/c.tmp", ".hidden/d.tmp"}


@pytest.mark.parametrize(
    ("pattern", "gone"),
    [
        ("*.tmp", {"a.tmp"}),
        ("**/*.tmp", {"a.tmp", "data/a.tmp", "data/deep/c.tmp", ".hidden/d.tmp"}),
        ("data/*.tmp", {"data/a.tmp"}),
        ("data/**/*.tmp", {"data/a.tmp", "data/deep/c.tmp"}),
        ("data", {"data/a.tmp", "data/b.txt", "data/deep/c.tmp"}),
        ("data/", {"data/a.tmp", "data/b.txt", "data/deep/c.tmp"}),
        ("data/**", {"data/a.tmp", "data/b.txt", "data/deep/c.tmp"}),
        ("*/deep", {"data/deep/c.tmp"}),
        ("./b.txt", {"b.txt"}),
        ("**", ALL),
        ("*", ALL),
        ("?.t[mn]p", {"a.tmp"}),
        ("", set()),
        (".", set()),
        ("..", set()),
        ("../*", set()),
        ("data/../b.txt", set()),
        ("/etc/*", set()),
        ("/**", set()),
        ("nothing", set()),
        (".platform-db", set()),
        (".platform-db/results/*", set()),
        ("a.tmp/b", set()),
        ("x\0y", set()),
    ],
)
def test_exactly_what_a_pattern_names_is_removed(
    tmp_path: Path, pattern: str, gone: set[str], workspace: Path
) -> None:
    results = ".platform-db/results/a.tmp"
    fill(workspace, *ALL, results)
    fill(tmp_path, "outside/a.tmp")
    before = workspaces.measure(workspace).bytes

    removal = remove(workspace, pattern)

    assert names(workspace) == (ALL - gone) | {results}
    assert names(tmp_path / "outside") == {"a.tmp"}
    assert before - workspaces.measure(workspace).bytes == removal.bytes
    assert (removal.failed, removal.first_error) == (0, None)


def test_links_are_removed_themselves_and_never_followed(tmp_path: Path, workspace: Path) -> None:
    outside = tmp_path / "outside"
    fill(workspace, "a.tmp", "inside/b.tmp")
    fill(outside, "a.tmp", "deep/b.tmp")
    (workspace / "link.tmp").symlink_to(outside / "a.tmp")
    (workspace / "directory").symlink_to(outside)
    (workspace / "up").symlink_to("..")
    (workspace / "inside" / "loop").symlink_to(".")
    (workspace / "whole.tmp").symlink_to(outside)
    os.link(outside / "a.tmp", workspace / "hard.tmp")

    removal = remove(workspace, "**/*.tmp")

    assert names(workspace) == {"directory", "up", "inside/loop"}
    assert names(outside) == {"a.tmp", "deep/b.tmp"}
    assert removal.failed == 0
    remove(workspace, "*")
    assert list(workspace.iterdir()) == []
    assert names(outside) == {"a.tmp", "deep/b.tmp"}


def test_a_workspace_that_is_a_link_is_refused(tmp_path: Path, workspace: Path) -> None:
    fill(tmp_path / "outside", "a.tmp")
    workspace.symlink_to(tmp_path / "outside")
    for path in (workspace, f"{workspace}/"):
        with pytest.raises(workspaces.WorkspaceError):
            remove(path, "*")
    for path in ("/", "//", "/etc"):
        with pytest.raises(workspaces.WorkspaceError):
            remove(path, "nothing-is-called-so")
    assert names(tmp_path / "outside") == {"a.tmp"}


@pytest.mark.parametrize(
    "path",
    [
        "{root}/users/{owner}/link/w",
        "{root}/users/{owner}/../other/w",
        "{root}/users/other/w",
        "{root}/users/{owner}",
        "{root}/users/{owner}/.",
        "{root}/users",
        "{root}",
        "{root}/../elsewhere/w",
        "/{root}/users//",
        "/",
    ],
)
def test_no_path_leads_out_of_its_owners_part_of_a_root(root: Path, path: str) -> None:
    fill(root, "users/other/w/a.tmp", f"users/{OWNER}/w/a.tmp")
    fill(root.parent, "elsewhere/w/a.tmp")
    mine(root, "link").symlink_to(root / "users" / "other")
    with pytest.raises(workspaces.WorkspaceError):
        remove(path.format(root=root, owner=OWNER), "**")
    assert names(root / "users") == {"other/w/a.tmp", f"{OWNER}/w/a.tmp", f"{OWNER}/link"}
    assert names(root.parent / "elsewhere") == {"w/a.tmp"}


def test_a_relative_path_lies_on_the_shared_volume(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(root, f"volume/users/{OWNER}/w/a.tmp")
    monkeypatch.chdir(root / "volume")
    with pytest.raises(workspaces.WorkspaceError, match="is relative"):
        remove(f"users/{OWNER}/w", "*")
    monkeypatch.setenv("PLATFORM_DB_SHARED_VOLUME_PATH", str(root / "volume"))
    settings.reset_settings()
    assert remove(f"users/{OWNER}/w", "*").files == 1


def test_the_root_may_be_a_link_of_the_operator(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(root, f"storage/users/{OWNER}/w/a.tmp")
    (root / "root").symlink_to("storage")
    monkeypatch.setenv("PLATFORM_DB_WORKSPACE_ROOT", f"/not/here,{root}/root")
    settings.reset_settings()
    assert remove(f"{root}/root/users/{OWNER}/w", "*").files == 1


def nest(workspace: Path, depth: int) -> None:
    """Make a directory in a directory and so on, deeper than a path could name."""
    workspace.mkdir()
    here = os.open(workspace, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def test_directories_may_lie_deep_in_each_other(workspace: Path) -> None:
    nest(workspace, 3000)
    opened = list(Path("/proc/self/fd").iterdir())
    removal = remove(workspace, "**")
    assert (removal.files, removal.failed) == (3000, 0)
    assert list(workspace.iterdir()) == []
    assert len(list(Path("/proc/self/fd").iterdir())) == len(opened)


def test_a_directory_that_is_exchanged_for_a_link_meanwhile_is_not_followed(
    tmp_path: Path, workspace: Path
) -> None:
    fill(workspace, "a/x.tmp", "b/x.tmp")
    fill(tmp_path, "outside/x.tmp")
    calls = []

    def exchange() -> None:
        calls.append(1)
        if len(calls) == 2:  # both are known, and one of them has just been opened
            for name in ("a", "b"):
                (workspace / name).rename(tmp_path / f"moved-{name}")
                (workspace / name).symlink_to(tmp_path / "outside")

    remove(workspace, "*", pace=exchange)
    assert names(tmp_path / "outside") == {"x.tmp"}
    assert len(names(tmp_path / "moved-a") | names(tmp_path / "moved-b")) == 1


def test_the_way_back_from_a_directory_that_is_moved_meanwhile_is_not_gone(
    tmp_path: Path, workspace: Path
) -> None:
    outside = tmp_path / "outside"
    nest(workspace, 50)
    outside.mkdir()
    calls = []

    def move() -> None:
        calls.append(1)
        if len(calls) == 51:
            (workspace / "d/d").rename(outside / "d")

    removal = remove(workspace, "**", pace=move)
    assert removal.failed == 2  # the one that was moved, and the one that it lay in
    assert removal.first_error == "a directory was moved meanwhile"
    assert [path.name for path in outside.iterdir()] == ["d"]


def make_rule(session: Session, owner: User, workspace: Path, pattern: str, **values) -> Workflow:
    run = make_run(
        session, owner, name=f"run-{time.time_ns()}", status="finished", workspace_path=str(workspace)
    )
    session.add(
        WorkspaceRetentionRule(
            workflow_id=run.id_,
            workspace_files=pattern,
            retention_days=1,
            **{"status": "active", "apply_on": PAST, **values},
        )
    )
    session.commit()
    return run


def test_a_rule_that_is_due_is_applied_recorded_and_accounted(
    session: Session, session_factory: sessionmaker[Session], workspace: Path
) -> None:
    Resource.initialise_default_resources(session)
    fill(workspace, "a.tmp", "b.txt")
    owner = make_user(session, id_=OWNER)
    run = make_rule(session, owner, workspace, "*.tmp")
    store_workflow_disk_quota(session, run)
    update_users_disk_quota(session, owner)
    session.commit()
    before = owner.get_quota_usage()["disk"]["usage"]["raw"]

    report = apply_retention_rules(session_factory)

    report.raise_for_problems()
    session.expire_all()
    assert names(workspace) == {"b.txt"}
    assert report.files == 1
    assert report.bytes > 0
    (rule,) = run.retention_rules
    assert rule.status is WorkspaceRetentionRuleStatus.applied
    assert [log.status.value for log in rule.audit_logs] == ["active", "pending", "applied"]
    assert owner.get_quota_usage()["disk"]["usage"]["raw"] == before - report.bytes
    assert run.get_quota_usage()["disk"]["usage"]["raw"] == workspaces.measure(workspace).bytes
    (note,) = history(session, run).rows
    assert note.details["bytes"] == report.bytes
    (audit,) = session.scalars(sa.select(AuditLog).where(AuditLog.action == "apply_retention"))
    assert audit.user_id == owner.id_
    assert apply_retention_rules(session_factory).rules == []


def test_what_is_not_due_or_in_use_waits(
    session: Session, session_factory: sessionmaker[Session], workspace: Path
) -> None:
    owner = make_user(session, id_=OWNER)
    fill(workspace, "a.tmp")
    future = datetime.now(timezone.utc) + timedelta(hours=1)
    make_rule(session, owner, workspace, "*.tmp", apply_on=future)
    make_rule(session, owner, workspace, "*", status="inactive")
    make_rule(session, owner, workspace, "**")
    make_run(session, owner, name="other", status="running", workspace_path=str(workspace))
    assert apply_retention_rules(session_factory).rules == []
    assert names(workspace) == {"a.tmp"}


def test_a_rule_that_a_killed_run_left_pending_is_taken_up(
    session: Session, session_factory: sessionmaker[Session], workspace: Path
) -> None:
    fill(workspace, "a.tmp")
    run = make_rule(session, make_user(session, id_=OWNER), workspace, "*.tmp")
    transition(session, run.retention_rules[0], "pending")
    session.commit()
    assert apply_retention_rules(session_factory).files == 1


def restart(session: Session, run: Workflow, status: str = "queued") -> Workflow:
    return make_run(
        session,
        session.get_one(User, run.owner_id),
        name=run.name,
        workspace_path=run.workspace_path,
        restart=True,
        status=status,
    )


def run_to_its_end(session: Session, run: Workflow) -> None:
    for status in ("pending", "running", "finished"):
        transition(session, run, status)
    session.commit()


def test_a_restart_keeps_its_files_from_a_rule_that_a_killed_run_left_pending(
    session: Session, session_factory: sessionmaker[Session], workspace: Path
) -> None:
    run = make_rule(session, make_user(session, id_=OWNER), workspace, "*.tmp")
    transition(session, run.retention_rules[0], "pending")
    session.commit()
    run_to_its_end(session, restart(session, run))
    fill(workspace, "fresh.tmp")
    assert apply_retention_rules(session_factory).rules == []
    assert names(workspace) == {"fresh.tmp"}
    session.expire_all()
    assert run.retention_rules[0].status is WorkspaceRetentionRuleStatus.inactive


def test_a_pending_rule_that_is_given_more_days_waits_for_them(
    session: Session, session_factory: sessionmaker[Session], workspace: Path
) -> None:
    fill(workspace, "a.tmp")
    run = make_rule(session, make_user(session, id_=OWNER), workspace, "*.tmp")
    transition(session, run.retention_rules[0], "pending")
    run.retention_rules[0].retention_days += 7
    session.commit()
    assert apply_retention_rules(session_factory).rules == []


def restart_and_end(session: Session, run: Workflow) -> None:
    run_to_its_end(session, restart(session, run))


def use_the_workspace(session: Session, run: Workflow) -> None:
    owner = session.get_one(User, run.owner_id)
    make_run(session, owner, name="other", status="running", workspace_path=run.workspace_path)


def use_it_by_another_name(session: Session, run: Workflow) -> None:
    users = Path(run.workspace_path).parents[1]
    alias = users.parent / "alias"
    alias.symlink_to(users)
    path = f"{alias}/{run.owner_id}/workspace"
    make_run(session, session.get_one(User, run.owner_id), status="running", workspace_path=path)


def open_a_session(session: Session, run: Workflow, status: str = "created") -> InteractiveSession:
    opened = InteractiveSession(
        name="notebook", path=f"/{time.time_ns()}", owner_id=run.owner_id, status=status
    )
    session.add(opened)
    session.flush()
    session.add(WorkflowSession(workflow_id=run.id_, session_id=opened.id_))
    session.commit()
    return opened


def start_a_service(session: Session, run: Workflow, status: str = "created") -> Service:
    started = Service(name=f"dask-{time.time_ns()}", owner_id=run.owner_id, status=status)
    session.add(started)
    session.flush()
    session.add(WorkflowService(workflow_id=run.id_, service_id=started.id_))
    session.commit()
    return started


@pytest.mark.parametrize(
    ("meddle", "after"),
    [
        (restart, "inactive"),
        (restart_and_end, "inactive"),
        (use_the_workspace, "active"),
        (use_it_by_another_name, "active"),
        (open_a_session, "active"),
        (start_a_service, "active"),
    ],
)
def test_a_run_that_comes_while_files_are_removed_keeps_the_rest(
    session: Session,
    session_factory: sessionmaker[Session],
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    meddle: Callable[[Session, Workflow], object],
    after: str,
) -> None:
    def remove_and_meddle(path: str, owner_id: UUID, pattern: str, pace: Callable[[], None]) -> Removal:
        calls = []

        def meddling_pace() -> None:
            calls.append(1)
            if len(calls) == 3:
                meddle(session, run)
            pace()

        return remove_matching(path, owner_id, pattern, pace=meddling_pace)

    monkeypatch.setattr("platform_db.retention.workspaces.remove_matching", remove_and_meddle)
    monkeypatch.setattr("platform_db.retention.workspaces.SECONDS_BETWEEN_QUESTIONS", 0.0)
    fill(workspace, "a/1.tmp", "b/2.tmp", "c/3.tmp")
    run = make_rule(session, make_user(session, id_=OWNER), workspace, "*/*.tmp")

    report = apply_retention_rules(session_factory)

    report.raise_for_problems()
    assert (report.files, report.rules[0].removal.stopped) == (1, True)
    assert len(names(workspace)) == 2
    session.expire_all()
    assert run.retention_rules[0].status == after
    assert "stopped, because a run uses the workspace" in (history(session, run).rows[-1].message or "")


def test_a_large_directory_is_not_emptied_to_its_end_either(workspace: Path) -> None:
    fill(workspace, *map(str, range(250)))
    calls = []

    def stop() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise StopRemoval

    removal = remove(workspace, "*", pace=stop)
    assert (removal.files, removal.stopped) == (200, True)


def test_a_restart_that_is_about_to_commit_is_waited_for(
    session: Session, session_factory: sessionmaker[Session], workspace: Path
) -> None:
    fill(workspace, "a.tmp")
    run = make_rule(session, make_user(session, id_=OWNER), workspace, "*.tmp")
    transition(session, run.retention_rules[0], "pending")
    session.commit()
    session.add(
        Workflow(
            name=run.name,
            owner_id=run.owner_id,
            type_="serial",
            specification={},
            workspace_path=run.workspace_path,
            restart=True,
        )
    )
    session.flush()
    thread = threading.Thread(target=apply_retention_rules, args=(session_factory,))
    thread.start()
    time.sleep(0.3)
    session.commit()
    thread.join()
    assert names(workspace) == {"a.tmp"}


@pytest.mark.parametrize("root_exists", [True, False])
def test_storage_that_is_not_mounted_is_no_workspace_that_is_gone(
    session: Session, session_factory: sessionmaker[Session], root: Path, workspace: Path, root_exists: bool
) -> None:
    run = make_rule(session, make_user(session, id_=OWNER), workspace, "*")
    shutil.rmtree(root / "users")
    if not root_exists:
        root.rmdir()
    with pytest.raises(errors.StorageMissing, match="none of 1 rules is applied: workspace root"):
        apply_retention_rules(session_factory).raise_for_problems()
    session.expire_all()
    assert run.retention_rules[0].status is WorkspaceRetentionRuleStatus.active


def test_rules_below_a_root_that_is_mounted_are_applied_though_another_is_not(
    session: Session, session_factory: sessionmaker[Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots = tmp_path / "mounted", tmp_path / "unmounted"
    monkeypatch.setenv("PLATFORM_DB_WORKSPACE_ROOT", ",".join(map(str, roots)))
    settings.reset_settings()
    owner = make_user(session, id_=OWNER)
    for root in roots:
        fill(mine(root), "a.tmp")
        make_rule(session, owner, mine(root), "*")
    shutil.rmtree(roots[1])
    with pytest.raises(errors.PartialFailure, match=r"1 of 2 rules failed; the first, .*: workspace root"):
        apply_retention_rules(session_factory).raise_for_problems()
    assert names(mine(roots[0])) == set()


def test_a_file_with_another_name_frees_nothing(tmp_path: Path, workspace: Path) -> None:
    fill(workspace, "a.tmp")
    (workspace / "kept").hardlink_to(workspace / "a.tmp")
    assert remove(workspace, "a.tmp").bytes == 0
    assert remove(workspace, "kept").bytes > 0


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_workspace_of_a_run_that_is_not_deleted_waits_for_its_storage(
    session: Session,
    session_factory: sessionmaker[Session],
    root: Path,
    workspace: Path,
    caplog: pytest.LogCaptureFixture,
    dry_run: bool,
) -> None:
    owner = make_user(session, id_=OWNER)
    fill(workspace, "a.tmp")
    run = make_rule(session, owner, workspace, "*")
    revision = run.retention_rules[0].revision
    (root / "lost+found").mkdir()
    (root / "users").rename(root / "unmounted")
    report = apply_retention_rules(session_factory, dry_run=dry_run)
    with pytest.raises(errors.PartialFailure, match="is missing, but its run is not deleted"):
        report.raise_for_problems()
    assert (
        f"retention rule {run.retention_rules[0].id_}: workspace {str(workspace)!r} is missing" in caplog.text
    )
    session.expire_all()
    assert (run.retention_rules[0].status, run.retention_rules[0].revision) == ("active", revision)
    (root / "unmounted").rename(root / "users")
    assert apply_retention_rules(session_factory).files == 1


def test_a_rule_that_cannot_be_applied_is_told_and_tried_again(
    session: Session, session_factory: sessionmaker[Session], tmp_path: Path
) -> None:
    owner = make_user(session, id_=OWNER)
    (mine(tmp_path, "file")).write_text("no directory")
    bad = make_rule(session, owner, mine(tmp_path, "file"), "*")
    gone = make_rule(session, owner, mine(tmp_path, "nothing"), "*")
    transition(session, gone, "deleted")
    session.commit()
    report = apply_retention_rules(session_factory)
    with pytest.raises(errors.PartialFailure, match="1 of 2 rules"):
        report.raise_for_problems()
    session.expire_all()
    assert bad.retention_rules[0].status is WorkspaceRetentionRuleStatus.active
    assert gone.retention_rules[0].status is WorkspaceRetentionRuleStatus.applied


@pytest.mark.parametrize(
    "path",
    [
        "{workspace}",
        "{workspace}/",
        "//{workspace}/./",
        "{workspace}/inside/it",
        "{root}/users/{owner}",
        "{root}/users",
        "{root}",
        "{alias}/users/{owner}/workspace",
        "{alias}/users/{owner}/workspace/inside",
        "{alias}/users",
    ],
)
@pytest.mark.parametrize("mine", [True, False])
def test_a_rule_waits_for_each_run_that_can_see_its_files(
    session: Session,
    session_factory: sessionmaker[Session],
    root: Path,
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    mine: bool,
) -> None:
    alias = root.parent / f"{root.name}-alias"
    alias.symlink_to(root)
    monkeypatch.setenv("PLATFORM_DB_WORKSPACE_ROOT", f"{alias},{root}")
    settings.reset_settings()
    fill(workspace, "a.tmp")
    owner = make_user(session, id_=OWNER)
    make_rule(session, owner, workspace, "*")
    other = make_run(
        session,
        owner if mine else make_user(session),
        name="other",
        status="created",
        workspace_path=path.format(workspace=workspace, root=root, owner=OWNER, alias=alias),
    )
    assert apply_retention_rules(session_factory).rules == []
    assert names(workspace) == {"a.tmp"}
    transition(session, other, "queued")
    run_to_its_end(session, other)
    assert apply_retention_rules(session_factory).files == 1


@pytest.mark.parametrize(
    "path", ["users/{owner}/workspace", "users/{owner}/workspace/inside", "users/{owner}", "users", ""]
)
def test_a_rule_waits_for_a_run_that_sees_its_files_by_a_name_of_no_root(
    session: Session, session_factory: sessionmaker[Session], root: Path, workspace: Path, path: str
) -> None:
    alias = root.parent / f"{root.name}-alias"
    alias.symlink_to(root)
    fill(workspace, "a.tmp")
    owner = make_user(session, id_=OWNER)
    make_rule(session, owner, workspace, "*")
    other = make_run(
        session, make_user(session), status="queued", workspace_path=f"{alias}/{path.format(owner=OWNER)}"
    )
    assert apply_retention_rules(session_factory).rules == []
    assert names(workspace) == {"a.tmp"}
    run_to_its_end(session, other)
    assert apply_retention_rules(session_factory).files == 1


@pytest.mark.parametrize("status", ["created", "queued", "pending", "running"])
@pytest.mark.parametrize("open_", [open_a_session, start_a_service])
def test_a_rule_waits_for_a_session_or_service_of_a_run_that_sees_its_files(
    session: Session,
    session_factory: sessionmaker[Session],
    workspace: Path,
    open_: Callable[..., InteractiveSession | Service],
    status: str,
) -> None:
    fill(workspace, "a.tmp")
    run = make_rule(session, make_user(session, id_=OWNER), workspace, "*")
    opened = open_(session, run, status)
    assert apply_retention_rules(session_factory).rules == []
    assert names(workspace) == {"a.tmp"}
    transition(session, opened, "stopped")
    session.commit()
    assert apply_retention_rules(session_factory).files == 1


def test_a_rule_does_not_wait_for_runs_beside_its_workspace(
    session: Session, session_factory: sessionmaker[Session], workspace: Path
) -> None:
    fill(workspace, "a.tmp")
    owner = make_user(session, id_=OWNER)
    make_rule(session, owner, workspace, "*")
    for beside in (f"{workspace}2", f"{workspace.parent}/w", "/elsewhere"):
        make_run(session, owner, name="other", status="running", workspace_path=beside)
    assert apply_retention_rules(session_factory).files == 1


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize(
    "path", ["{root}/users", "{root}/users/{owner}", "{root}/users/other/w", "{elsewhere}", "{root}"]
)
def test_a_rule_on_an_unmanaged_workspace_removes_nothing_and_says_so(
    session: Session, session_factory: sessionmaker[Session], root: Path, path: str, dry_run: bool
) -> None:
    fill(root, "users/other/w/a.tmp", f"users/{OWNER}/w/a.tmp")
    elsewhere = root.parent / f"{root.name}-elsewhere"
    fill(elsewhere, "a.tmp")
    owner = make_user(session, id_=OWNER)
    run = make_rule(session, owner, Path(path.format(root=root, owner=OWNER, elsewhere=elsewhere)), "**")
    revision = run.retention_rules[0].revision
    report = apply_retention_rules(session_factory, dry_run=dry_run)
    with pytest.raises(errors.PartialFailure, match="is unmanaged"):
        report.raise_for_problems()
    assert names(root / "users") == {"other/w/a.tmp", f"{OWNER}/w/a.tmp"}
    assert names(elsewhere) == {"a.tmp"}
    session.expire_all()
    assert (run.retention_rules[0].status, run.retention_rules[0].revision) == ("active", revision)


def test_the_database_is_not_asked_for_each_directory(
    session: Session, session_factory: sessionmaker[Session], engine: sa.Engine, workspace: Path
) -> None:
    fill(workspace, *(f"{number}/a.tmp" for number in range(300)))
    make_rule(session, make_user(session, id_=OWNER), workspace, "*/*.tmp")
    statements: list[str] = []
    sa.event.listen(engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    started = time.monotonic()
    assert apply_retention_rules(session_factory).files == 300
    assert len(statements) < 50 + 2 * (time.monotonic() - started)


def delete_owner(session: Session, run: Workflow) -> None:
    delete_user(session, session.get_one(User, run.owner_id), delete_work=True)
    session.commit()


def delete_run(session: Session, run: Workflow) -> None:
    session.execute(sa.delete(Workflow).where(Workflow.id_ == run.id_))
    session.commit()


def delete_rule(session: Session, run: Workflow) -> None:
    session.execute(sa.delete(WorkspaceRetentionRule).where(WorkspaceRetentionRule.workflow_id == run.id_))
    session.commit()


@pytest.mark.parametrize("seconds", [0.0, 1.0])
@pytest.mark.parametrize("delete", [delete_owner, delete_run, delete_rule])
def test_what_is_deleted_while_its_files_are_removed_does_not_end_the_job(
    session: Session,
    session_factory: sessionmaker[Session],
    root: Path,
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    delete: Callable[[Session, Workflow], None],
    seconds: float,
) -> None:
    def remove_and_delete(path: str, owner_id: UUID, pattern: str, pace: Callable[[], None]) -> Removal:
        def deleting_pace() -> None:
            if owner_id == OWNER and not deleted:
                deleted.append(1)
                delete(session, run)
            pace()

        return remove_matching(path, owner_id, pattern, pace=deleting_pace)

    deleted: list[int] = []
    monkeypatch.setattr("platform_db.retention.workspaces.remove_matching", remove_and_delete)
    monkeypatch.setattr("platform_db.retention.workspaces.SECONDS_BETWEEN_QUESTIONS", seconds)
    fill(workspace, "a.tmp")
    run = make_rule(session, make_user(session, id_=OWNER), workspace, "*", apply_on=PAST - timedelta(days=1))
    other = make_user(session)
    others = root / "users" / str(other.id_) / "w"
    fill(others, "a.tmp")
    make_rule(session, other, others, "*")
    report = apply_retention_rules(session_factory)
    report.raise_for_problems()
    assert deleted == [1]
    assert names(others) == set()
    audited = session.scalars(sa.select(AuditLog.owner_id).where(AuditLog.action == "apply_retention"))
    assert set(audited) == {OWNER, other.id_}


def test_rules_that_are_deleted_after_they_were_read_are_passed_over(
    session: Session, session_factory: sessionmaker[Session], root: Path, workspace: Path
) -> None:
    fill(workspace, "a.tmp", "b.tmp")
    owner = make_user(session, id_=OWNER)
    make_rule(session, owner, workspace, "a.*", apply_on=PAST - timedelta(days=1))
    gone = make_rule(session, owner, workspace, "b.*")
    report = apply_retention_rules(
        session_factory, progress=lambda done, of: delete_run(session, gone) if done == 1 else None
    )
    assert report.files == 1
    assert names(workspace) == {"b.tmp"}


BIND = """
import os, subprocess, sys, uuid
from platform_db.workspaces.removal import remove_matching
root, owner, outside = sys.argv[1:]
workspace = f"{root}/users/{owner}/workspace"
for name in ("mounted", "deep/mounted"):
    if subprocess.run(["mount", "--bind", outside, f"{workspace}/{name}"]).returncode:
        sys.exit("mounting is not allowed here")
assert os.stat(outside).st_dev == os.stat(workspace).st_dev
removal = remove_matching(workspace, uuid.UUID(owner), "**")
print(removal.files, removal.failed, sorted(os.listdir(workspace)))
"""


def test_a_bind_mount_of_the_same_file_system_is_not_emptied(root: Path, workspace: Path) -> None:
    fill(workspace, "a.tmp", "deep/b.tmp")
    for name in ("mounted", "deep/mounted"):
        (workspace / name).mkdir()
    fill(root, "outside/precious", "outside/deep/precious")
    as_root = () if os.geteuid() == 0 else ("--map-root-user",)
    command = ["unshare", "--mount", *as_root, sys.executable, "-c", BIND, root, str(OWNER), root / "outside"]
    if not shutil.which("unshare"):
        pytest.skip("unshare is not installed")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if "not allowed" in done.stderr or "unshare failed" in done.stderr:
        pytest.skip(f"this process may not mount: {done.stderr.strip()}")
    # What is mounted is left alone. So the directory that holds one of the mounts cannot be removed.
    assert (done.stdout, done.stderr) == ("2 1 ['deep', 'mounted']\n", "")
    assert names(root / "outside") == {"precious", "deep/precious"}


@pytest.mark.parametrize("files", [500, pytest.param(10_000, marks=pytest.mark.soak)])
def test_a_hostile_workspace_loses_what_its_rules_name_and_nothing_else_does(
    session: Session, session_factory: sessionmaker[Session], tmp_path: Path, files: int, workspace: Path
) -> None:
    outside = tmp_path / "outside"
    fill(outside, "a.tmp", "b.log", "deep/c.tmp")
    for number in range(files):
        fill(workspace, f"d{number % 50}/e{number % 7}/{number}.{'tmp' if number % 2 else 'log'}")
    for folder in ("", "d1/", "d1/e1/"):
        (workspace / f"{folder}out").symlink_to(outside)
        (workspace / f"{folder}up").symlink_to("../..")
        (workspace / f"{folder}x.tmp").symlink_to(outside / "a.tmp")
    logs = {name for name in names(workspace) if name.endswith(".log") and name.startswith("d2/")}
    kept = {name for name in names(workspace) if not name.endswith(".tmp")} - logs
    owner = make_user(session, id_=OWNER)
    for pattern in ("**/*.tmp", "d2/**/*.log", "../outside/*", "out/*", "d1/out/**", "/etc/*", "**/../*"):
        make_rule(session, owner, workspace, pattern)

    report = apply_retention_rules(session_factory)

    report.raise_for_problems()
    assert names(workspace) == kept
    assert names(outside) == {"a.tmp", "b.log", "deep/c.tmp"}
