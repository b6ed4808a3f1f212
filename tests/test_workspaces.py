"""Where workspaces are, what is in them, and how many of them are measured at once."""

import logging
import os
import threading
from pathlib import Path
from uuid import UUID

import pytest

from platform_db import errors, settings
from platform_db.workspaces import (
    Measurement,
    MissingWorkspaceError,
    WorkspaceError,
    build_workspace_path,
    canonical_workspace_path,
    get_disk_usage_or_zero,
    is_managed_workspace,
    list_workspace,
    measure,
    measure_many,
    scan,
    workers,
)
from platform_db.workspaces.workers import Worker

USER = UUID("018f0000-0000-7000-8000-000000000001")
WORKFLOW = UUID("018f0000-0000-7000-8000-000000000002")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Read settings from an environment that the test controls."""
    for name in ("WORKSPACE_ROOT", "SHARED_VOLUME_PATH"):
        monkeypatch.delenv(f"PLATFORM_DB_{name}", raising=False)
        monkeypatch.delenv(f"PLATFORM_DB_{name}_FILE", raising=False)
    settings.reset_settings()
    yield monkeypatch
    settings.reset_settings()


def fill(directory: Path, sizes: dict[str, int]) -> Path:
    for name, size in sizes.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    return directory


def test_a_path_names_the_root_the_user_and_the_workflow(environment):
    environment.setenv("PLATFORM_DB_WORKSPACE_ROOT", "/srv/workspaces/")
    assert build_workspace_path(USER) == f"/srv/workspaces/users/{USER}/workflows"
    assert build_workspace_path(USER, WORKFLOW) == f"/srv/workspaces/users/{USER}/workflows/{WORKFLOW}"
    assert build_workspace_path("u", "w", workspace_root_path="/other") == "/other/users/u/workflows/w"


@pytest.mark.parametrize("identifier", ["", ".", "..", "a/b", "../x", "a\0b"])
def test_an_identifier_cannot_lead_elsewhere(identifier):
    with pytest.raises(errors.InvalidIdentifier):
        build_workspace_path(identifier)
    with pytest.raises(errors.InvalidIdentifier):
        build_workspace_path(USER, identifier)


@pytest.mark.parametrize(
    "spelling",
    [
        "/srv/w",
        "/srv/w/",
        "//srv/w",
        "///srv//w//",
        "/srv/./w/.",
        "/srv/other/../w",
        "/../srv/w",
        "/srv/w/x/..",
    ],
)
def test_a_workspace_has_one_path(spelling):
    assert canonical_workspace_path(spelling) == "/srv/w"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/srv/a\0b", "has a NUL character"),
        ("users/u", "is relative, and PLATFORM_DB_SHARED_VOLUME_PATH is not set"),
        ("", "is relative"),
        ("/", "is the root of the file system"),
        ("/srv/../..//.", "is the root of the file system"),
        ("/" + "x" * 2048, "of 2049 bytes is longer than 2048"),
        ("/" + "\xe9" * 1024, "of 2049 bytes is longer than 2048"),
        ("/\udcff", "is not text in UTF-8"),
        ("/\ud800", "is not text in UTF-8"),
        (b"/\xff", "is not text in UTF-8"),
    ],
)
def test_what_cannot_be_the_path_of_a_workspace_is_refused_in_one_line(path, reason):
    with pytest.raises(errors.InvalidIdentifier, match=reason) as refused:
        canonical_workspace_path(path)
    assert len(str(refused.value).splitlines()) == 1


def test_the_longest_path_is_no_longer_than_the_database_takes():
    assert len(canonical_workspace_path("/" + "x" * 2047 + "/")) == 2048


def test_a_relative_path_starts_at_the_shared_volume(environment, tmp_path):
    environment.setenv("PLATFORM_DB_SHARED_VOLUME_PATH", f"{tmp_path}//")
    settings.reset_settings()
    assert canonical_workspace_path("users/u/") == f"{tmp_path}/users/u"
    assert canonical_workspace_path("..users/./u") == f"{tmp_path}/..users/u"
    assert canonical_workspace_path("/elsewhere") == "/elsewhere"
    for outside in ("users/../../u", "..", ".", ""):
        with pytest.raises(errors.InvalidIdentifier, match="leads out of the shared volume"):
            canonical_workspace_path(outside)
    fill(tmp_path / "users/u", {"file": 5000})
    assert measure("users/u").bytes == measure(tmp_path / "users/u").bytes


@pytest.mark.parametrize(
    ("path", "managed"),
    [
        (f"/first/users/{USER}/workflows/w", True),
        (f"/second/users/{USER}/anything", True),
        (f"/volume/users/{USER}/w", True),
        (f"users/{USER}/w", True),
        (f"/first/./users//{USER}/w/", True),
        (f"/first/users/{USER}", False),
        (f"/first/users/{USER}/w/..", False),
        ("/first/users", False),
        ("/first", False),
        (f"/first/users/{WORKFLOW}/workflows/w", False),
        (f"/first/users/{USER}/../{WORKFLOW}/w", False),
        (f"/first/users/{USER}0/w", False),
        (f"/elsewhere/users/{USER}/w", False),
        (f"/first/inner/users/{USER}/w", False),
    ],
)
def test_what_lies_in_its_owners_part_of_a_root_is_managed(environment, path, managed):
    environment.setenv("PLATFORM_DB_WORKSPACE_ROOT", "/first/, /second")
    environment.setenv("PLATFORM_DB_SHARED_VOLUME_PATH", "/volume")
    settings.reset_settings()
    assert is_managed_workspace(path, USER) is managed


def test_new_workspaces_go_to_the_first_root(environment):
    environment.setenv("PLATFORM_DB_WORKSPACE_ROOT", "/first,/second")
    settings.reset_settings()
    assert build_workspace_path(USER).startswith("/first/users/")


@pytest.mark.parametrize("root", ["relative", "/fine,relative", ","])
def test_a_root_is_an_absolute_path(environment, root):
    environment.setenv("PLATFORM_DB_WORKSPACE_ROOT", root)
    settings.reset_settings()
    with pytest.raises(errors.InvalidSetting, match="PLATFORM_DB_WORKSPACE_ROOT"):
        settings.get_settings()


def test_a_listing_has_a_row_for_each_name_and_adds_up(tmp_path):
    fill(tmp_path, {"data/one.root": 5000, "data/deep/two.root": 100, "log.txt": 9000})
    (tmp_path / "again.txt").hardlink_to(tmp_path / "log.txt")
    rows = {row["name"]: row["size"] for row in list_workspace(tmp_path)}
    assert set(rows) - {"/log.txt", "/again.txt"} == {
        "",
        "/data",
        "/data/one.root",
        "/data/deep",
        "/data/deep/two.root",
    }
    assert len(rows) == 6, "a file with two names has one row"
    assert rows[""]["raw"] == measure(tmp_path).bytes
    assert rows["/data"]["raw"] == rows["/data/one.root"]["raw"] + rows["/data/deep"]["raw"] + (
        os.lstat(tmp_path / "data").st_blocks * 512
    )
    assert rows["/data/one.root"] == {"raw": 8192, "human_readable": "8 KiB"}
    assert list_workspace(tmp_path, summarize=True) == [{"name": "", "size": rows[""]}]


@pytest.mark.parametrize(
    ("search", "names"),
    [
        ({"name": ["*.root"]}, ["/data/one.root", "/data/two.root"]),
        ({"name": "one.root"}, ["/data/one.root"]),
        ({"name": ["/data/t*", "log.???"]}, ["/data/two.root", "/log.txt"]),
        ({"size": ["8 KiB"], "name": ["*.*"]}, ["/data/one.root"]),
        ({"size": [12288], "name": ["*.*"]}, ["/log.txt"]),
        ({"size": ["12288", "8 KiB"], "name": ["*.txt", "*.root"]}, ["/data/one.root", "/log.txt"]),
        ({"name": ["nothing"]}, []),
        ({"name": [], "size": []}, ["", "/data", "/data/one.root", "/data/two.root", "/log.txt"]),
    ],
)
def test_a_listing_is_searched_by_names_and_sizes(tmp_path, search, names):
    fill(tmp_path, {"data/one.root": 5000, "data/two.root": 100, "log.txt": 9000})
    assert [row["name"] for row in list_workspace(tmp_path, search=search)] == names


def test_a_listing_shows_names_that_are_not_text(tmp_path):
    (tmp_path / os.fsdecode(b"\xff\n")).write_bytes(b"x")
    assert [row["name"] for row in list_workspace(tmp_path)] == ["", "/\\xff\n"]


def test_a_listing_refuses_what_it_cannot_do(tmp_path):
    with pytest.raises(errors.InvalidArgument, match="cannot search for owner; choose from name, size"):
        list_workspace(tmp_path, search={"owner": ["me"]})
    for summarize in (False, True):
        with pytest.raises(MissingWorkspaceError):
            list_workspace(tmp_path / "missing", summarize=summarize)


def test_a_missing_workspace_takes_no_space_and_is_logged(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        assert get_disk_usage_or_zero(tmp_path / "missing") == 0
    assert "there is no workspace" in caplog.text
    fill(tmp_path, {"file": 1})
    assert get_disk_usage_or_zero(str(tmp_path)) == measure(tmp_path).bytes


def test_each_path_comes_back_as_it_was_given(tmp_path):
    for number in range(300):
        fill(tmp_path / f"w{number}", {"file": number * 100})
    given = [tmp_path / f"w{number}" for number in range(300)]
    paths = [*given, str(given[1]), os.fsencode(given[2]), tmp_path / "missing", "a\0b", tmp_path]
    found = dict(measure_many(paths, workers=3))
    assert set(found) == set(paths)
    assert {path: found[path] for path in given} == {path: measure(path) for path in given}
    assert found[str(given[1])] == found[given[1]]
    assert found[os.fsencode(given[2])] == found[given[2]]
    assert isinstance(found[tmp_path / "missing"], MissingWorkspaceError)
    assert isinstance(found["a\0b"], WorkspaceError)
    assert found[tmp_path] == measure(tmp_path)


def test_one_path_that_leads_out_does_not_end_the_others(environment, tmp_path):
    environment.setenv("PLATFORM_DB_SHARED_VOLUME_PATH", str(tmp_path))
    fill(tmp_path, {"fine/file": 1})
    found = dict(measure_many(["fine", "../out"]))
    assert isinstance(found["fine"], Measurement)
    assert isinstance(found["../out"], WorkspaceError)


def test_paths_are_read_a_few_ahead_in_the_thread_of_the_caller(tmp_path):
    read = []

    def endless():
        while True:
            read.append(threading.get_ident())
            yield tmp_path

    outcomes = measure_many(endless(), workers=2)
    for _ in range(5000):
        next(outcomes)
    outcomes.close()
    assert set(read) == {threading.get_ident()}
    assert len(read) <= 5000 + 5 * 128


def test_closing_ends_the_workers(tmp_path, monkeypatch):
    started = []
    start = Worker._start

    def remember(self):
        started.append(start(self))
        return started[-1]

    monkeypatch.setattr(Worker, "_start", remember)
    outcomes = measure_many((tmp_path for _ in range(10_000)), workers=2)
    next(outcomes)
    outcomes.close()
    assert started
    assert all(process.returncode is not None for process in started)
    threads = [thread.name for thread in threading.enumerate()]
    assert not [name for name in threads if name.startswith("workspace")]


def test_a_worker_that_dies_is_replaced(tmp_path, monkeypatch):
    fill(tmp_path, {"file": 5000})
    killed = []
    ask = Worker._ask

    def die_first(self, paths):
        if self.process is not None and len(killed) < 3:
            killed.append(self.process.pid)
            self.process.kill()
            self.process.wait()
        return ask(self, paths)

    monkeypatch.setattr(Worker, "_ask", die_first)
    figures = [outcome.bytes for _, outcome in measure_many([tmp_path] * 1000, workers=1)]
    assert len(killed) == 3
    assert figures == [measure(tmp_path).bytes] * 1000


def test_without_an_interpreter_to_start_it_scans_in_this_process(tmp_path, monkeypatch):
    monkeypatch.setattr(workers.sys, "executable", "")
    assert dict(measure_many([tmp_path])) == {tmp_path: measure(tmp_path)}


def test_gentle_measures_the_same_and_pauses(tmp_path, monkeypatch):
    fill(tmp_path, {"a/file": 5000, "b/file": 5000})
    assert dict(measure_many([tmp_path], gentle=True)) == {tmp_path: measure(tmp_path)}
    slept = []
    monkeypatch.setattr(scan.time, "sleep", slept.append)
    monkeypatch.setattr(scan.Pace, "WORK_SECONDS", 0.0)
    scan.Scan(pace=scan.Pace()).run(os.fsencode(tmp_path))
    assert len(slept) == 3


def test_an_unknown_method_is_refused_at_once(tmp_path):
    with pytest.raises(errors.InvalidArgument, match="unknown method 'guess'; choose from auto, scan, ceph"):
        measure(tmp_path, method="guess")
    with pytest.raises(errors.InvalidArgument, match="unknown method"):
        measure_many([tmp_path], method="guess")


def test_where_the_file_system_knows_it_is_asked(tmp_path, monkeypatch):
    with pytest.raises(WorkspaceError, match=r"offers no ceph\.dir\.rbytes"):
        measure(tmp_path, method="ceph")
    with pytest.raises(MissingWorkspaceError):
        measure(tmp_path / "missing", method="ceph")
    ask = os.getxattr

    def offer(path, attribute, *, follow_symlinks=True):
        if path == os.fsencode(tmp_path):
            assert (attribute, follow_symlinks) == ("ceph.dir.rbytes", False)
            return b"123456"
        return ask(path, attribute, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(os, "getxattr", offer)
    (tmp_path / "inside").mkdir()
    assert measure(tmp_path) == Measurement(123456, "ceph", apparent=True)
    assert measure(tmp_path, method="scan").method == "scan"
    found = dict(measure_many([tmp_path, tmp_path / "inside"]))
    assert found[tmp_path].bytes == 123456
    assert found[tmp_path / "inside"].method == "scan"
