"""Every figure is what ``du --summarize --block-size=1`` says of that workspace alone."""

# pathlib cannot hold the names that are bytes but not text.
# ruff: noqa: PTH102, PTH103, PTH113, PTH114, PTH118, PTH120, PTH123, PTH208, PTH211
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from platform_db.workspaces import (
    MissingWorkspaceError,
    list_workspace,
    measure,
    measure_many,
    scan,
)

pytestmark = pytest.mark.skipif(
    not shutil.which("du")
    or b"GNU coreutils" not in subprocess.run(["du", "--version"], capture_output=True, check=False).stdout,
    reason="GNU du is not installed",
)

names = st.one_of(
    st.sampled_from(
        [b"a", b"b", b"-s", b" ", b"new\nline", b"\xff\xfe", b"tab\there", b"\xc3\xa9", b"x" * 255]
    ),
    st.binary(min_size=1, max_size=8).filter(
        lambda name: name not in {b".", b".."} and not {0, 47} & set(name)
    ),
)
entries = st.lists(
    st.tuples(
        st.lists(names, min_size=1, max_size=4),
        st.sampled_from(["file", "directory", "sparse", "link", "symlink", "loop", "fifo"]),
        st.integers(0, 20_000),
    ),
    max_size=15,
)


def du_alone(path, *options) -> int:
    """Return what ``du`` says; it complains, and goes on, where it cannot read."""
    command = ["du", "--summarize", "--block-size=1", *options, "--", path]
    result = subprocess.run(command, capture_output=True, check=False)
    return int(result.stdout.split(b"\t")[0])


def apparent_alone(path: bytes) -> int:
    """Return what ``du --apparent-size`` says from coreutils 9.2 on, whichever is installed."""
    seen, total = set(), 0
    for directory, subdirectories, files in os.walk(path):
        for name in subdirectories + files:
            status = os.lstat(os.path.join(directory, name))
            counts = os.path.islink(os.path.join(directory, name)) or os.path.isfile(
                os.path.join(directory, name)
            )
            if counts and status.st_ino not in seen:
                seen.add(status.st_ino)
                total += status.st_size
    return total


def build(root: bytes, tree) -> None:
    """Make the entries of ``tree``, leaving out those that an earlier one stands in the way of."""
    made: list[bytes] = []
    for parts, kind, size in tree:
        path = os.path.join(root, *parts)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if kind == "directory":
                os.mkdir(path)
            elif kind == "link" and made:
                os.link(made[size % len(made)], path)
            elif kind == "symlink":
                os.symlink(b"t" * (size % 200 + 1) + b"/missing", path)
            elif kind == "loop":
                os.symlink(b".", path)
            elif kind == "fifo":
                os.mkfifo(path)
            else:
                with open(path, "xb") as file:
                    if kind == "sparse":
                        file.truncate(size * 1000)
                    else:
                        file.write(b"x" * size)
                made.append(path)
        except (FileExistsError, FileNotFoundError, NotADirectoryError):
            continue


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(entries)
def test_any_tree_is_measured_exactly(tree):
    with tempfile.TemporaryDirectory() as directory:
        root = os.fsencode(directory)
        build(root, tree)
        expected = du_alone(root)
        assert measure(root).bytes == measure(root, method="scan").bytes == expected
        assert sum(row["size"]["raw"] for row in list_workspace(root) if row["name"] == "") == expected
        assert measure(root, apparent=True).bytes == apparent_alone(root)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(entries, st.booleans())
def test_workspaces_of_a_batch_are_measured_as_if_alone(tree, gentle):
    with tempfile.TemporaryDirectory() as directory:
        root = os.fsencode(directory)
        build(root, tree)
        # The directories of one tree lie within each other and share hard links.
        paths = [entry for entry, _, _ in os.walk(root)] * 2
        expected = {path: du_alone(path) for path in paths}
        found = list(measure_many(paths, gentle=gentle))
        assert sorted(path for path, _ in found) == sorted(paths)
        assert {path: outcome.bytes for path, outcome in found} == expected
        assert {outcome.method for _, outcome in found} == {"scan"}


def test_a_hard_link_counts_once_in_each_workspace_that_has_it(tmp_path):
    workspaces = [tmp_path / name for name in "abc"]
    for workspace in workspaces:
        workspace.mkdir()
    file = workspaces[0] / "file"
    file.write_bytes(b"x" * 100_000)
    for path in (workspaces[0] / "again", workspaces[1] / "shared", workspaces[1] / "shared too"):
        path.hardlink_to(file)
    found = {path: outcome.bytes for path, outcome in measure_many(workspaces)}
    assert found == {path: du_alone(path) for path in workspaces}
    assert found[workspaces[0]] == found[workspaces[1]] > 100_000 > found[workspaces[2]]


def test_symbolic_links_are_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "large").write_bytes(b"x" * 1_000_000)
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    for name, target in {"out": outside, "self": ".", "loop": "loop", "broken": "nowhere"}.items():
        (workspace / name).symlink_to(target)
    link = tmp_path / "link"
    link.symlink_to(outside)
    assert measure(workspace).bytes == du_alone(workspace) < 100_000
    assert measure(link).bytes == du_alone(link) < 100_000
    assert measure(f"{link}/").bytes == du_alone(link), "a slash at the end changes nothing"


def test_a_workspace_that_is_a_file_counts_as_itself(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"x" * 5000)
    assert measure(file).bytes == du_alone(file) == 8192


def test_apparent_sizes_leave_out_what_directories_show(tmp_path):
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(10_000_000)
    (tmp_path / "link").symlink_to("0123456789")
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "fifo")
    measurement = measure(tmp_path, apparent=True)
    assert (measurement.bytes, measurement.apparent) == (10_000_010, True)
    assert measure(tmp_path).bytes == du_alone(tmp_path) < 100_000
    assert dict(measure_many([tmp_path], apparent=True)) == {tmp_path: measurement}


@pytest.mark.parametrize("depth", [40, 3000])
def test_depth_has_no_limit(tmp_path, depth):
    name = "d" * 200 if depth == 40 else "d"
    descriptor = os.open(tmp_path, os.O_RDONLY)
    for level in range(depth):
        os.mkdir(name, dir_fd=descriptor)
        for file in ("before", "zafter"):
            os.mkdir(f"{file}{level % 3}", dir_fd=descriptor)
        deeper = os.open(name, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = deeper
    os.close(descriptor)
    try:
        measurement = measure(tmp_path)
        assert (measurement.bytes, measurement.unreadable) == (du_alone(tmp_path), 0)
        if depth == 40:
            assert len(list_workspace(tmp_path)) == 1 + 3 * depth
    finally:
        # shutil.rmtree recurses, and the paths are too long for it.
        subprocess.run(["rm", "-rf", tmp_path / name], check=True)


def test_few_directories_are_open_at_a_time(tmp_path):
    path = tmp_path
    for _ in range(200):
        path = path / "d"
        path.mkdir()
    before = len(os.listdir("/proc/self/fd"))
    most = 0

    def watch():
        nonlocal most
        most = max(most, len(os.listdir("/proc/self/fd")))

    scan.Scan(pace=watch).run(os.fsencode(tmp_path))
    assert most - before <= scan.OPEN_DIRECTORIES + 2
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_branch_that_is_moved_away_is_reported(tmp_path):
    """The way back up then leads elsewhere, so what waits in the directories above is not seen."""
    workspace = tmp_path / "workspace"
    deepest = workspace
    for _ in range(100):
        for number in range(5):
            (deepest / f"waits{number}").mkdir(parents=True)
        deepest = deepest / "d"
    deepest.mkdir()

    class MovedMeanwhile(scan.Scan):
        def read(self, directory):
            if directory.path == b"/d" * 100:
                workspace.joinpath(*["d"] * 60).rename(tmp_path / "elsewhere")
            super().read(directory)

    before = os.listdir("/proc/self/fd")
    walk = MovedMeanwhile(report=lambda name, size: None)
    assert walk.run(os.fsencode(workspace)) > 100 * 4096
    assert walk.failed > 0
    assert walk.first_error == "a directory was moved meanwhile"
    assert os.listdir("/proc/self/fd") == before


def test_what_vanishes_meanwhile_is_no_error(tmp_path):
    stop = threading.Event()

    def churn():
        while not stop.is_set():
            directory = tmp_path / "comes" / "and" / "goes"
            directory.mkdir(parents=True)
            for number in range(20):
                (directory / str(number)).write_bytes(b"x")
            shutil.rmtree(tmp_path / "comes")

    (tmp_path / "stays").write_bytes(b"x" * 5000)
    thread = threading.Thread(target=churn)
    thread.start()
    try:
        found = [outcome for _, outcome in measure_many([tmp_path] * 300)]
    finally:
        stop.set()
        thread.join()
    assert {outcome.unreadable for outcome in found} == {0}
    assert min(outcome.bytes for outcome in found) >= 8192


def test_a_workspace_that_vanishes_while_it_is_read_is_missing(tmp_path):
    workspace = tmp_path / "workspace"
    (workspace / "data").mkdir(parents=True)
    walk = scan.Scan(pace=lambda: shutil.rmtree(workspace, ignore_errors=True))
    with pytest.raises(FileNotFoundError):
        walk.run(os.fsencode(workspace))
    with pytest.raises(MissingWorkspaceError, match="there is no workspace"):
        measure(workspace)


@pytest.mark.parametrize("kind", ["symlink", "file"])
def test_a_directory_that_is_replaced_meanwhile_is_not_followed(tmp_path, kind):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "large").write_bytes(b"x" * 1_000_000)
    workspace = tmp_path / "workspace"
    (workspace / "data").mkdir(parents=True)
    open_directory = os.open

    def replace(path, *arguments, **options):
        if path == "data":
            (workspace / "data").rmdir()
            if kind == "symlink":
                (workspace / "data").symlink_to(outside)
            else:
                (workspace / "data").write_bytes(b"")
        return open_directory(path, *arguments, **options)

    walk = scan.Scan()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan.os, "open", replace)
        assert walk.run(os.fsencode(workspace)) == 4096
    assert walk.failed == 0


UNREADABLE = """
import os, sys
from platform_db.workspaces import WorkspaceError, get_disk_usage_or_zero, measure, measure_many
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
workspace, closed = sys.argv[1:]
one = measure(workspace)
many = dict(measure_many([workspace, closed]))
assert many[workspace] == one, many
assert isinstance(many[closed], WorkspaceError), many
assert get_disk_usage_or_zero(closed) == 0
print(one.bytes, one.unreadable, one.first_error)
os.execvp("du", ["du", "--summarize", "--block-size=1", workspace])
"""


def test_what_cannot_be_read_is_counted_and_the_rest_goes_on():
    # Below /tmp itself, because pytest's directories are closed to the user that the test becomes.
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        root.chmod(0o755)
        workspace = root / "workspace"
        for name in ("closed", "listed only", "open"):
            (workspace / name).mkdir(parents=True)
            (workspace / name / "file").write_bytes(b"x" * 50_000)
        (workspace / "unreadable file").write_bytes(b"x" * 50_000)
        (workspace / "unreadable file").chmod(0)
        (workspace / "listed only").chmod(0o444)
        (workspace / "closed").chmod(0)
        (root / "closed").mkdir(mode=0)
        command = [sys.executable, "-c", UNREADABLE, workspace, root / "closed"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        try:
            result = subprocess.run(
                command, capture_output=True, text=True, check=False, env=environment, cwd="/"
            )
        finally:
            for name in ("closed", "listed only"):
                (workspace / name).chmod(0o755)
    *measured, alone = result.stdout.splitlines()
    if not measured:
        pytest.skip(f"this interpreter does not run for another user: {result.stderr[-300:]}")
    expected = alone.split("\t")[0]
    assert [line.split()[:2] for line in measured] == [[expected, "2"]]
    assert all("Permission denied" in line for line in measured)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_mount_inside_counts_as_du_counts_it(tmp_path):
    (tmp_path / "mounted" / "inside").mkdir(parents=True)
    (tmp_path / "file").write_bytes(b"x" * 5000)
    mounted = subprocess.run(
        ["mount", "--bind", tmp_path, tmp_path / "mounted"], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        assert measure(tmp_path).bytes == du_alone(tmp_path)
    finally:
        subprocess.run(["umount", tmp_path / "mounted"], check=True)
