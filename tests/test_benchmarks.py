"""That the benchmark of throughput runs; what it measures, a machine that does nothing else has to say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "throughput.py"


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
