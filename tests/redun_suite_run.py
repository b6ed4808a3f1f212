"""Run redun's own tests, a file at a time, with several backends, and print each difference.

``python -m tests.redun_suite_run [--results DIRECTORY] SUITE [BACKEND]... [FILE]...``: ``SUITE`` has a copy
of the package ``redun``, and the backends are those of :mod:`tests.redun_suite`.
``tests/run-redun-suite.sh`` makes the environment.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree

import sqlalchemy as sa

from platform_db import database, schema
from platform_db.testing import databases, server
from tests.redun_suite import BACKENDS, VARIABLE

ROOT = Path(__file__).parents[1]
OTHER = {"test_static_analysis.py"}
"""Is about how redun's own source is written."""

TEST_SECONDS, FILE_SECONDS = 300, 1800
# Python 3.11.7 does not compile the assertions of deeply nested expressions that pytest has rewritten.
OPTIONS = ["-q", "-p", "tests.redun_suite", "-p", "no:cacheprovider", "--assert=plain", "--tb=short"]
# As in redun's own pyproject.toml.
OPTIONS += ["-W", "error::pytest.PytestUnhandledThreadExceptionWarning"]
OPTIONS += ["-W", "error::sqlalchemy.exc.Base20DeprecationWarning"]

Outcomes = dict[str, tuple[str, str]]
"""Outcome and message of each test."""


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("suite", type=Path)
    parser.add_argument("names", nargs="*", help="backends, files")
    given = parser.parse_args()
    backends = [name for name in given.names if name in BACKENDS] or list(BACKENDS)
    files = [name for name in given.names if name not in BACKENDS]
    with server.run_server(secrets.token_hex(16)) as running:
        name = f"{running.prefix}redun"
        uri = databases.create_database(running.uri, name)
        engine = database.create_engine(uri)
        schema.init_db(engine)
        with engine.connect() as connection:
            version = connection.exec_driver_sql("SHOW server_version").scalar_one()
        engine.dispose()
        say(f"SQLAlchemy {sa.__version__}, PostgreSQL {version}")
        found = {
            backend: run(given.suite, backend, files, uri, given.results.absolute() / backend)
            for backend in backends
        }
        databases.drop_database(running.uri, name)
    show(found)


def run(suite: Path, backend: str, files: list[str], uri: str, results: Path) -> Outcomes:
    """Run tests on one backend, and return their outcomes."""
    results.mkdir(parents=True, exist_ok=True)
    outcomes: Outcomes = {}
    with tempfile.TemporaryDirectory() as temporary, tempfile.TemporaryDirectory() as copy:
        # Some tests leave databases beside themselves.
        suite = Path(shutil.copytree(suite, copy, dirs_exist_ok=True))
        Path(temporary, "sitecustomize.py").write_text("import tests.redun_suite\n")
        # redun asks for the user's accounts at clouds: there are none.
        gcloud = Path(temporary, "gcloud")
        gcloud.write_text("#!/bin/sh\nexit 1\n")
        gcloud.chmod(0o755)
        environment = {
            **os.environ,
            VARIABLE: backend,
            "AWS_EC2_METADATA_DISABLED": "true",
            "HOME": temporary,
            "PATH": f"{temporary}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PLATFORM_DB_POOL_SIZE": "3",
            "PLATFORM_DB_URI": uri,
            "PYTHONPATH": f"{temporary}:{ROOT}",
        }
        for path in sorted(suite.glob("redun/tests/test_*.py")):
            if path.name in (files or {path.name} - OTHER):
                of_file = run_file(path.relative_to(suite), suite, environment, results)
                say(f"{backend:8} {path.name:28} {count(of_file)}")
                outcomes |= of_file
    return outcomes


def run_file(path: Path, suite: Path, environment: dict[str, str], results: Path) -> Outcomes:
    """Run a file of tests, which leaves a log and a report among the results."""
    report, log = results / f"{path.stem}.xml", results / f"{path.stem}.log"
    report.unlink(missing_ok=True)
    arguments = [f"--timeout={TEST_SECONDS}", f"--junitxml={report}", str(path)]
    command = [sys.executable, "-m", "pytest", *OPTIONS, *arguments]
    with log.open("w") as output, suppress(subprocess.TimeoutExpired):
        subprocess.run(
            command,
            cwd=suite,
            env=environment,
            stdout=output,
            stderr=output,
            timeout=FILE_SECONDS,
            check=False,
        )
    return read(report) if report.exists() else {path.stem: ("error", f"there is no report, but {log}")}


def read(report: Path) -> Outcomes:
    outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):
        bad = next((part for part in case if part.tag in ("failure", "error", "skipped")), None)
        name = f"{case.get('classname', '').removeprefix('redun.tests.')}::{case.get('name')}"
        outcomes[name] = ("passed", "") if bad is None else (bad.tag, bad.get("message", ""))
    return outcomes


def count(outcomes: Outcomes) -> str:
    counted = Counter(outcome for outcome, _ in outcomes.values())
    return ", ".join(f"{number} {outcome}" for outcome, number in sorted(counted.items()))


def show(found: dict[str, Outcomes]) -> None:
    """Print the counts, and each test whose outcome is not the same with all backends."""
    for backend, outcomes in found.items():
        say(f"{backend}: {count(outcomes)}")
    for name in sorted(set().union(*found.values())):
        row = {backend: outcomes.get(name, ("missing", "")) for backend, outcomes in found.items()}
        if len({outcome for outcome, _ in row.values()}) > 1:
            say(name)
            for backend, (outcome, message) in row.items():
                say(f"    {backend:8} {outcome} {' '.join(message.split())[:200]}")


if __name__ == "__main__":
    main()
