"""Retention rules of workspaces: exactly what the patterns name goes, inside the workspace only."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from platform_db import errors, settings, workspaces
from platform_db.lifecycle.history import history
from platform_db.lifecycle.transitions import transition
from platform_db.models import AuditLog, Resource, User, Workflow, WorkspaceRetentionRule
from platform_db.quota import store_workflow_disk_quota, update_users_disk_quota
from platform_db.retention.workspaces import apply_retention_rules
from platform_db.states import WorkspaceRetentionRuleStatus
from platform_db.workspaces.removal import Removal, StopRemoval, remove_matching
from tests.factories import make_run, make_user

PAST = datetime.now(timezone.utc) - timedelta(days=1)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Let the workspaces of this test lie below a directory of its own."""
    monkeypatch.setenv("PLATFORM_DB_WORKSPACE_ROOT", str(tmp_path))
    settings.reset_settings()
    yield tmp_path
    settings.reset_settings()


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
        ("a.tmp/b", set()),
        ("x\0y", set()),
    ],
)
def test_exactly_what_a_pattern_names_is_removed(tmp_path: Path, pattern: str, gone: set[str]) -> None:
    workspace = tmp_path / "workspace"
    fill(workspace, *ALL)
    fill(tmp_path, "outside/a.tmp")
    before = workspaces.measure(workspace).bytes

    removal = remove_matching(workspace, pattern)

    assert names(workspace) == ALL - gone
    assert names(tmp_path / "outside") == {"a.tmp"}
    assert before - workspaces.measure(workspace).bytes == removal.bytes
    assert (removal.failed, removal.first_error) == (0, None)


def test_links_are_removed_themselves_and_never_followed(tmp_path: Path) -> None:
    workspace, outside = tmp_path / "workspace", tmp_path / "outside"
    fill(workspace, "a.tmp", "inside/b.tmp")
    fill(outside, "a.tmp", "deep/b.tmp")
    (workspace / "link.tmp").symlink_to(outside / "a.tmp")
    (workspace / "directory").symlink_to(outside)
    (workspace / "up").symlink_to("..")
    (workspace / "inside" / "loop").symlink_to(".")
    (workspace / "whole.tmp").symlink_to(outside)
    os.link(outside / "a.tmp", workspace / "hard.tmp")

    removal = remove_matching(workspace, "**/*.tmp")

    assert names(workspace) == {"directory", "up", "inside/loop"}
    assert names(outside) == {"a.tmp", "deep/b.tmp"}
    assert removal.failed == 0
    remove_matching(workspace, "*")
    assert list(workspace.iterdir()) == []
    assert names(outside) == {"a.tmp", "deep/b.tmp"}


def test_a_workspace_that_is_a_link_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "outside", "a.tmp")
    (tmp_path / "workspace").symlink_to(tmp_path / "outside")
    for path in (tmp_path / "workspace", f"{tmp_path}/workspace/"):
        with pytest.raises(workspaces.WorkspaceError):
            remove_matching(path, "*")
    for path in ("/", "//", "/etc"):
        with pytest.raises(workspaces.WorkspaceError):
            remove_matching(path, "nothing-is-called-so")
    assert names(tmp_path / "outside") == {"a.tmp"}


@pytest.mark.parametrize(
    "path", ["mine/link/w", "mine/../other/w", "mine/./../other/w", ".", "../elsewhere/w"]
)
def test_no_path_leads_into_another_workspace(tmp_path: Path, path: str) -> None:
    fill(tmp_path, "other/w/a.tmp")
    fill(tmp_path.parent, "elsewhere/w/a.tmp")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "link").symlink_to(tmp_path / "other")
    for absolute in (f"{tmp_path}/{path}", os.path.normpath(tmp_path.parent / "elsewhere/w")):
        with pytest.raises(workspaces.WorkspaceError):
            remove_matching(absolute, "**")
    assert names(tmp_path / "other") == {"w/a.tmp"}
    assert names(tmp_path.parent / "elsewhere") == {"w/a.tmp"}


def test_a_relative_path_lies_on_the_shared_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "volume/w/a.tmp")
    monkeypatch.chdir(tmp_path / "volume")
    with pytest.raises(workspaces.WorkspaceError, match="does not lie below"):
        remove_matching("w", "*")
    monkeypatch.setenv("PLATFORM_DB_SHARED_VOLUME_PATH", str(tmp_path / "volume"))
    settings.reset_settings()
    assert remove_matching("w", "*").files == 1


def test_the_root_may_be_a_link_of_the_operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "storage/w/a.tmp")
    (tmp_path / "root").symlink_to("storage")
    monkeypatch.setenv("PLATFORM_DB_WORKSPACE_ROOT", str(tmp_path / "root"))
    settings.reset_settings()
    assert remove_matching(tmp_path / "root" / "w", "*").files == 1


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


def test_directories_may_lie_deep_in_each_other(tmp_path: Path) -> None:
    nest(tmp_path / "workspace", 3000)
    opened = list(Path("/proc/self/fd").iterdir())
    removal = remove_matching(tmp_path / "workspace", "**")
    assert (removal.files, removal.failed) == (3000, 0)
    assert list((tmp_path / "workspace").iterdir()) == []
    assert len(list(Path("/proc/self/fd").iterdir())) == len(opened)


def test_a_directory_that_is_exchanged_for_a_link_meanwhile_is_not_followed(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    fill(workspace, "a/x.tmp", "b/x.tmp")
    fill(tmp_path, "outside/x.tmp")
    calls = []

    def exchange() -> None:
        calls.append(1)
        if len(calls) == 2:  # both are known, and one of them has just been opened
            for name in ("a", "b"):
                (workspace / name).rename(tmp_path / f"moved-{name}")
                (workspace / name).symlink_to(tmp_path / "outside")

    remove_matching(workspace, "*", pace=exchange)
    assert names(tmp_path / "outside") == {"x.tmp"}
    assert len(names(tmp_path / "moved-a") | names(tmp_path / "moved-b")) == 1


def test_the_way_back_from_a_directory_that_is_moved_meanwhile_is_not_gone(tmp_path: Path) -> None:
    workspace, outside = tmp_path / "workspace", tmp_path / "outside"
    nest(workspace, 50)
    outside.mkdir()
    calls = []

    def move() -> None:
        calls.append(1)
        if len(calls) == 51:
            (workspace / "d/d").rename(outside / "d")

    removal = remove_matching(workspace, "**", pace=move)
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
    session: Session, session_factory: sessionmaker[Session], tmp_path: Path
) -> None:
    Resource.initialise_default_resources(session)
    workspace = tmp_path / "workspace"
    fill(workspace, "a.tmp", "b.txt")
    owner = make_user(session)
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
    session: Session, session_factory: sessionmaker[Session], tmp_path: Path
) -> None:
    owner = make_user(session)
    fill(tmp_path / "workspace", "a.tmp")
    future = datetime.now(timezone.utc) + timedelta(hours=1)
    make_rule(session, owner, tmp_path / "workspace", "*.tmp", apply_on=future)
    make_rule(session, owner, tmp_path / "workspace", "*", status="inactive")
    make_rule(session, owner, tmp_path / "workspace", "**")
    make_run(session, owner, name="other", status="running", workspace_path=str(tmp_path / "workspace"))
    assert apply_retention_rules(session_factory).rules == []
    assert names(tmp_path / "workspace") == {"a.tmp"}


def test_a_rule_that_a_killed_run_left_pending_is_taken_up(
    session: Session, session_factory: sessionmaker[Session], tmp_path: Path
) -> None:
    fill(tmp_path / "workspace", "a.tmp")
    run = make_rule(session, make_user(session), tmp_path / "workspace", "*.tmp")
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
    session: Session, session_factory: sessionmaker[Session], tmp_path: Path
) -> None:
    run = make_rule(session, make_user(session), tmp_path / "workspace", "*.tmp")
    transition(session, run.retention_rules[0], "pending")
    session.commit()
    run_to_its_end(session, restart(session, run))
    fill(tmp_path / "workspace", "fresh.tmp")
    assert apply_retention_rules(session_factory).rules == []
    assert names(tmp_path / "workspace") == {"fresh.tmp"}
    session.expire_all()
    assert run.retention_rules[0].status is WorkspaceRetentionRuleStatus.inactive


def test_a_pending_rule_that_is_given_more_days_waits_for_them(
    session: Session, session_factory: sessionmaker[Session], tmp_path: Path
) -> None:
    fill(tmp_path / "workspace", "a.tmp")
    run = make_rule(session, make_user(session), tmp_path / "workspace", "*.tmp")
    transition(session, run.retention_rules[0], "pending")
    run.retention_rules[0].retention_days += 7
    session.commit()
    assert apply_retention_rules(session_factory).rules == []


def restart_and_end(session: Session, run: Workflow) -> None:
    run_to_its_end(session, restart(session, run))


def use_the_workspace(session: Session, run: Workflow) -> None:
    owner = session.get_one(User, run.owner_id)
    make_run(session, owner, name="other", status="running", workspace_path=run.workspace_path)


@pytest.mark.parametrize(
    ("meddle", "after"), [(restart, "inactive"), (restart_and_end, "inactive"), (use_the_workspace, "active")]
)
def test_a_run_that_comes_while_files_are_removed_keeps_the_rest(
    session: Session,
    session_factory: sessionmaker[Session],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    meddle: Callable[[Session, Workflow], object],
    after: str,
) -> None:
    def remove_and_meddle(path: str, pattern: str, pace: Callable[[], None]) -> Removal:
        calls = []

        def meddling_pace() -> None:
            calls.append(1)
            if len(calls) == 3:
                meddle(session, run)
            pace()

        return remove_matching(path, pattern, pace=meddling_pace)

    monkeypatch.setattr("platform_db.retention.workspaces.remove_matching", remove_and_meddle)
    fill(tmp_path / "workspace", "a/1.tmp", "b/2.tmp", "c/3.tmp")
    run = make_rule(session, make_user(session), tmp_path / "workspace", "*/*.tmp")

    report = apply_retention_rules(session_factory)

    report.raise_for_problems()
    assert (report.files, report.rules[0].removal.stopped) == (1, True)
    assert len(names(tmp_path / "workspace")) == 2
    session.expire_all()
    assert run.retention_rules[0].status == after
    assert "stopped, because a run uses the workspace" in (history(session, run).rows[-1].message or "")


def test_a_large_directory_is_not_emptied_to_its_end_either(tmp_path: Path) -> None:
    fill(tmp_path / "workspace", *map(str, range(250)))
    calls = []

    def stop() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise StopRemoval

    removal = remove_matching(tmp_path / "workspace", "*", pace=stop)
    assert (removal.files, removal.stopped) == (200, True)


def test_a_restart_that_is_about_to_commit_is_waited_for(
    session: Session, session_factory: sessionmaker[Session], tmp_path: Path
) -> None:
    fill(tmp_path / "workspace", "a.tmp")
    run = make_rule(session, make_user(session), tmp_path / "workspace", "*.tmp")
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
    assert names(tmp_path / "workspace") == {"a.tmp"}


@pytest.mark.parametrize("root_exists", [True, False])
def test_storage_that_is_not_mounted_is_no_workspace_that_is_gone(
    session: Session, session_factory: sessionmaker[Session], root: Path, root_exists: bool
) -> None:
    run = make_rule(session, make_user(session), root / "workspace", "*")
    if not root_exists:
        root.rmdir()
    with pytest.raises(errors.PartialFailure, match="root"):
        apply_retention_rules(session_factory).raise_for_problems()
    session.expire_all()
    assert run.retention_rules[0].status is WorkspaceRetentionRuleStatus.active


def test_a_rule_that_cannot_be_applied_is_told_and_tried_again(
    session: Session, session_factory: sessionmaker[Session], tmp_path: Path
) -> None:
    owner = make_user(session)
    (tmp_path / "file").write_text("no directory")
    bad = make_rule(session, owner, tmp_path / "file", "*")
    gone = make_rule(session, owner, tmp_path / "nothing", "*")
    report = apply_retention_rules(session_factory)
    with pytest.raises(errors.PartialFailure, match="1 of 2 rules"):
        report.raise_for_problems()
    session.expire_all()
    assert bad.retention_rules[0].status is WorkspaceRetentionRuleStatus.active
    assert gone.retention_rules[0].status is WorkspaceRetentionRuleStatus.applied


@pytest.mark.parametrize("files", [500, pytest.param(10_000, marks=pytest.mark.soak)])
def test_a_hostile_workspace_loses_what_its_rules_name_and_nothing_else_does(
    session: Session, session_factory: sessionmaker[Session], tmp_path: Path, files: int
) -> None:
    workspace, outside = tmp_path / "workspace", tmp_path / "outside"
    fill(outside, "a.tmp", "b.log", "deep/c.tmp")
    for number in range(files):
        fill(workspace, f"d{number % 50}/e{number % 7}/{number}.{'tmp' if number % 2 else 'log'}")
    for folder in ("", "d1/", "d1/e1/"):
        (workspace / f"{folder}out").symlink_to(outside)
        (workspace / f"{folder}up").symlink_to("../..")
        (workspace / f"{folder}x.tmp").symlink_to(outside / "a.tmp")
    logs = {name for name in names(workspace) if name.endswith(".log") and name.startswith("d2/")}
    kept = {name for name in names(workspace) if not name.endswith(".tmp")} - logs
    owner = make_user(session)
    for pattern in ("**/*.tmp", "d2/**/*.log", "../outside/*", "out/*", "d1/out/**", "/etc/*", "**/../*"):
        make_rule(session, owner, workspace, pattern)

    report = apply_retention_rules(session_factory)

    report.raise_for_problems()
    assert names(workspace) == kept
    assert names(outside) == {"a.tmp", "b.log", "deep/c.tmp"}
