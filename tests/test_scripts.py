"""The scripts of the checkout, wherever it is: below odd paths, read-only, and where installing fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NEEDED = (".ci", "platform_db", "pyproject.toml", "run-demo.sh", "setup.py")

PIP_FAILED_TO_BUILD = """\
  error: subprocess-exited-with-error
      error: could not create 'x.egg-info': no space left
  note: This error originates from a subprocess
ERROR: Failed to build 'file:///x'
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Give a checkout whose path a shell would change, with an environment that is this test's own."""
    path = tmp_path / 'a $HOME `b` "c"'
    (path / ".venv" / "bin").mkdir(parents=True)
    (path / ".venv" / "bin" / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (path / ".venv" / "bin" / "python").chmod(0o755)
    for name in NEEDED:
        (path / name).symlink_to(ROOT / name)
    return path


def bash(
    script: str, directory: Path, before: tuple[str, ...] = (), **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, "bash", "-c", f"set -euo pipefail; . .ci/environment.sh; {script}"],
        cwd=directory,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_demonstration_runs_below_any_path(checkout: Path) -> None:
    marked = bash("install_into() { :; }; use_environment embedded", checkout)
    assert marked.returncode == 0, marked.stderr

    shown = subprocess.run(
        ["bash", "run-demo.sh", "--help"], cwd=checkout, capture_output=True, text=True, check=False
    )

    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("Usage: platform-db demo")


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        (
            PIP_FAILED_TO_BUILD,
            "error: could not create 'x.egg-info': no space left",
        ),
        ("ERROR: No matching distribution found for click\n", "No matching distribution found for click"),
        ("something\nhappened\n", "happened"),
        ("", "no reason was given"),
    ],
)
@pytest.mark.parametrize("exists", [True, False])
def test_the_cause_is_the_last_line(checkout: Path, log: str, cause: str, exists: bool) -> None:
    if not exists:
        shutil.rmtree(checkout / ".venv")
    (checkout / "log").write_text(log)
    fail = "install_into() { cat log; return 1; }; uv() { :; }; virtualenv() { :; }"
    # The environments themselves are made by stubs: nothing is installed.
    python = checkout / "python"
    python.write_text(f'#!/bin/sh\n[ "$1" != -m ] || exit 0\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)

    failed = bash(f"find_python() {{ echo ./python; }}; {fail}; use_environment embedded", checkout)

    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].endswith(cause)


def test_a_checkout_that_cannot_be_written_to_is_copied(checkout: Path, tmp_path: Path) -> None:
    (checkout / "gone").touch()
    script = 'enter_writable; touch made; printf "%s\\n" "$PWD" *'
    if os.geteuid() == 0:
        mount = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0"'
        before = ("unshare", "-m", "sh", "-c", f'{mount} && cd "$0" && exec "$@"', str(checkout))
        if subprocess.run([*before, "true"], capture_output=True, check=False).returncode:
            pytest.skip("name spaces of mounts are not allowed here")
    else:
        before: tuple[str, ...] = ()
        checkout.chmod(0o555)
    runs = [bash(script, checkout, before, XDG_CACHE_HOME=str(tmp_path / "cache")) for _ in range(2)]
    checkout.chmod(0o755)

    for run in runs:
        assert run.returncode == 0, run.stderr
        place, *names = run.stdout.splitlines()
        assert Path(place).parent == tmp_path / "cache" / "platform-db"
        assert {"gone", "made", "setup.py", "platform_db"} <= set(names)
    assert not (checkout / "made").exists()
