"""The demonstration, as a newcomer starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from platform_db import embedded, errors, schema
from tests.command_line import one_line

SOMETHING_UNREADABLE = """
from platform_db import cli, errors, quota
def raise_for_problems(report):
    raise errors.PartialFailure("of 12 workspaces, 1 could not be measured")
quota.DiskReport.raise_for_problems = raise_for_problems
cli.main()
"""


def start(
    directory: Path, *arguments: object, program: tuple[str, str] = ("-m", "platform_db")
) -> subprocess.CompletedProcess[str]:
    """Run the demonstration in a process of its own."""
    return subprocess.run(
        [sys.executable, *program, "demo", "--directory", directory, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "160"},
    )


def demo(directory: Path, *arguments: object) -> str:
    """Run the demonstration and return what it prints."""
    done = start(directory, *arguments)
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


def test_what_it_says_to_try_next_can_be_pasted_into_any_shell(place: Path, tmp_path: Path) -> None:
    (tmp_path / "[red] one").mkdir()
    (tmp_path / "[red] one" / "data").write_bytes(bytes(10_000))
    printed = demo(place / "d #1 [red]'", "--workspaces", tmp_path)

    pasted = subprocess.run(
        ["sh", "-eu"],
        input="".join(printed.partition("export ")[1:]),
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": "/usr/bin:/bin"},
    )

    assert pasted.returncode == 0, pasted.stderr
    assert "[red] one.1" in pasted.stdout
    assert "Create the schema." in pasted.stdout


def test_it_goes_on_where_something_cannot_be_read(place: Path) -> None:
    done = start(place, program=("-c", SOMETHING_UNREADABLE))

    assert done.returncode == 0, done.stderr
    assert "1 could not be measured." in done.stdout
    assert "ada@example.org" in done.stdout
    assert "Try next" in done.stdout


def test_a_database_of_another_version_is_left_alone_and_named(place: Path) -> None:
    uri = embedded.ensure_running(place / "database", durable=False)
    schema.upgrade(uri)
    with schema.connect(uri) as connection, connection.begin():
        connection.exec_driver_sql("DROP TRIGGER guard_update ON platform.workflow")

    done = start(place)

    assert done.returncode == errors.SchemaDiffers.exit_code
    assert f"rm -r {place}/database)" in one_line(done.stderr)
