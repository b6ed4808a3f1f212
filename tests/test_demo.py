"""The demonstration, as a newcomer starts it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from platform_db import errors
from platform_db.cli.demonstration.chart import BLOCKS, Chart
from platform_db.cli.demonstration.place import LOCK, WORKSPACES, make_place
from platform_db.models import RunStatus
from tests.command_line import one_line, run

# A machine that does much else takes longer than the 20 seconds of an idle one.
pytestmark = pytest.mark.timeout(300)


def test_the_demonstration_shows_what_it_promises_and_what_can_be_pasted(place: Path) -> None:
    done = run(
        "postgresql://another/one",
        "demo",
        "--directory",
        str(place / "what #1 a [red] shell's words are not"),
        COLUMNS="100",
        PATH="/usr/bin:/bin",
        PLATFORM_DB_DEFAULT_QUOTA_CPU_LIMIT="0",
        PLATFORM_DB_WORKSPACE_ROOT="/another",
    )

    assert done.exit_code == 0, done.output
    assert re.search(r"13 runs were taken 13 times \(worker-1 \d+, worker-2 \d+, worker-3 1\)", done.stdout)
    assert re.search(r"analysis\.\d of \w+@example.org failed: its node restarted", done.stdout)
    assert re.search(r"analysis\.\d\.1 is its restart, and has finished", done.stdout)
    assert re.search(r"analysis\.3 cannot go from \w+ to queued", done.stdout)
    assert "grace asks for ada's analysis.3 and gets None" in done.stdout
    assert re.search(r"katherine gets no 1 MiB more of shared storage: 4\.\d+ MiB of 3 MiB", done.stdout)
    assert re.search(r"a dump of the database, \d.* KiB, has it 0 times", done.stdout)
    assert "pdb_" not in done.output

    commands = done.stdout.partition("Try next")[2].splitlines()[1:]
    assert len(commands) == 5
    for command in commands:  # each by itself, in a new shell
        pasted = subprocess.run(
            ["sh", "-euc", command],
            capture_output=True,
            text=True,
            env={"PATH": "/usr/bin:/bin", "HOME": str(place)},
        )
        assert pasted.returncode == 0, pasted.stderr
        assert pasted.stdout


def test_each_demonstration_is_fresh_and_removes_the_earlier_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "platform-db-demo-old").mkdir()
    (tmp_path / "platform-db-demo-link").symlink_to(tmp_path)
    in_use = make_place(None, keep=False)
    kept = make_place(None, keep=True)
    new = make_place(None, keep=False)

    assert len({in_use, kept, new}) == 3
    assert {path for path in tmp_path.iterdir() if not path.is_symlink()} == {in_use, kept, new}
    assert {path.name for path in new.iterdir()} == {LOCK, WORKSPACES}
    assert not new.stat().st_mode & 0o066
    assert not (new / WORKSPACES).stat().st_mode & 0o077


def test_what_is_in_a_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()

    refused = run(None, "demo", "--directory", str(tmp_path))

    assert refused.exit_code == errors.InvalidArgument.exit_code
    assert f"{tmp_path} is not empty (name a new directory)" in one_line(refused.stderr)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_chart_shows_states_over_time() -> None:
    chart = Chart(width=44)
    for running in (0, 4, 8, 4, 0):
        chart.add([RunStatus.running] * running + [RunStatus.queued] * (8 - running), [])

    full, half = BLOCKS[-1], BLOCKS[4]
    assert chart.line(RunStatus.running) == " " * 4 + half * 4 + full * 4 + half * 4 + " " * 4
    assert chart.line(RunStatus.failed) == " " * 20
