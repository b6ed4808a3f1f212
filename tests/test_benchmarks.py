"""That benchmarks load, and that one runs; what they measure, a machine that does nothing else has to say."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
BENCHMARK = BENCHMARKS / "throughput.py"

PEERS = ("ipyparallel", "redun")


@pytest.mark.parametrize("name", sorted(path.name for path in BENCHMARKS.glob("*.py")))
def test_what_a_benchmark_imports_is_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    try:
        assert runpy.run_path(str(BENCHMARKS / name), run_name="loaded")["__doc__"], "it says what it is for"
    except ModuleNotFoundError as error:
        if error.name not in PEERS:
            raise
        pytest.skip(f"{error.name} is not installed")


def test_throughput_is_measured_against_psycopg2(database_uri: str) -> None:
    ran = subprocess.run(
        [sys.executable, str(BENCHMARK), "--uri", database_uri, "--quick"],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(BENCHMARK.parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr
    head, *lines = ran.stdout.splitlines()
    assert head.split()[:2] == ["processes", "operation"]
    assert len(lines) >= 2
    for line in lines:
        assert re.search(r" \d+\.\d\dx  +\d+ \+ (\d+|\?) +\d+ \+ (\d+|\?)$", line), line
