"""The demonstration, as a newcomer starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from platform_db import embedded


def demo(directory: Path, *arguments: object) -> str:
    """Run the demonstration in a process of its own and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "platform_db", "demo", "--directory", directory, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "160"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_demonstration_runs_and_runs_again(place: Path) -> None:
    first = demo(place)
    assert "12 new runs" in first
    assert "cannot go from finished to queued" in first
    assert "disk: 12 workspaces of 12 runs" in first
    assert "disk: 24 workspaces of 24 runs" in demo(place)
    assert not embedded.is_running(place / "database")


def test_it_takes_the_workspaces_of_a_real_directory(place: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data").write_bytes(bytes(10_000))
    printed = demo(place, "--workspaces", tmp_path)
    expected = sum(
        int(subprocess.check_output(["du", "--block-size=1", "-s", tmp_path / name]).split()[0])
        for name in ("one", "two")
    )
    assert f"take {expected // 1024} KiB" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
