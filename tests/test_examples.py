"""The examples run as they are printed in the documentation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

SAYS = {
    "first_run.py": [
        "analysis.1 is created",
        "refused: workflow",
        "4: running -> finished (the tutorial)",
        "the restart is analysis.1.1",
    ],
    "worker.py": ["first.1 is finished", "third.1 is finished", "did step 3", "cancelled.1 is stopped"],
    "bulk_transitions.py": ["8 of 10 were stopped", "one is finished and stays so", "is queued again"],
}

SERVED = {"fastapi_service.py", "events_stream.py"}  # by tests of their own


def test_every_example_is_run() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SAYS) | SERVED


@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs(name: str, database_uri: str) -> None:
    ran = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        env={"PLATFORM_DB_URI": database_uri, "PYTHONPATH": str(EXAMPLES.parent)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr
    for line in SAYS[name]:
        assert line in ran.stdout
