"""A copy of a million rows: how long it takes, and that its memory does not grow with them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from platform_db import database, embedded

pytestmark = pytest.mark.soak

SMALL, LARGE = 10_000, 1_000_000

FILL = """
    INSERT INTO platform.user_ (id_, email, created, updated)
    VALUES ('00000000-0000-0000-0000-000000000007', 'ann@example.org', now(), now());
    INSERT INTO platform.workflow
        (owner_id, id_, name, run_number_major, run_number_minor, type_, specification, workspace_path,
         created, updated)
    SELECT '00000000-0000-0000-0000-000000000007', md5('run' || n)::uuid, 'analysis', n, 0, 'serial', '{}',
           '/' || n, now(), now()
    FROM generate_series(1, %(rows)s / 10) AS n;
    INSERT INTO platform.job (owner_id, id_, workflow_id, job_name, created, updated)
    SELECT '00000000-0000-0000-0000-000000000007', md5('job' || n)::uuid,
           md5('run' || (n %% (%(rows)s / 10) + 1))::uuid, repeat('x', 50), now(), now()
    FROM generate_series(1, %(rows)s * 5 / 10) AS n;
    INSERT INTO platform.log_chunk (owner_id, workflow_id, number, transaction_id, at, data)
    SELECT '00000000-0000-0000-0000-000000000007', md5('run' || (n %% (%(rows)s / 10) + 1))::uuid, n, 1,
           now(), convert_to(repeat('line of a log' || E'\\n', 10), 'UTF8')
    FROM generate_series(1, %(rows)s * 4 / 10) AS n;
"""


def test_memory_does_not_grow_with_the_rows(place: Path) -> None:
    took = {}
    for rows in (SMALL, LARGE):
        uri = f"embedded://{place / str(rows)}"
        assert _run(uri, "init").returncode == 0
        engine = database.create_engine(embedded.ensure_running(place / str(rows)))
        with engine.begin() as connection:
            connection.exec_driver_sql("SET LOCAL session_replication_role = 'replica'")
            connection.exec_driver_sql(FILL, {"rows": rows})
            connection.exec_driver_sql("ANALYZE")
        to = f"embedded://{place / f'copy of {rows}'}"
        assert _run(to, "init").returncode == 0
        embedded.ensure_running(place / f"copy of {rows}")
        started = time.monotonic()
        first = _run(uri, "db", "copy", "--json", to=to)
        seconds = time.monotonic() - started
        assert first.returncode == 0, first.stderr
        again = _run(uri, "db", "copy", "--json", to=to)
        verified = time.monotonic() - started - seconds
        memory = int(first.stderr.rsplit(None, 1)[-1])
        took[rows] = memory
        print(  # noqa: T201 (what a soak test is there for)
            f"{rows} rows: {seconds:.1f} s, verified in {verified:.1f} s, {memory / 1024:.0f} MiB"
        )
        for copied in ("job", "log_chunk"):
            counts = [_count(e, copied) for e in (engine, database.create_engine(database.resolve_url(to)))]
            assert counts[0] == counts[1]
        assert again.returncode == 0
    assert took[LARGE] < 1.2 * took[SMALL]


def _run(uri: str, *arguments: str, to: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command, and let it tell the most memory that it had, in KiB."""
    code = (
        "import atexit, resource, sys\n"
        "most = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "atexit.register(lambda: print(most(), file=sys.stderr))\n"
        "from platform_db.__main__ import main\n"
        "main()"
    )
    environment = {**os.environ, "PLATFORM_DB_URI": uri, **({"PLATFORM_DB_TARGET_URI": to} if to else {})}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment
    )


def _count(engine: sa.Engine, table: str) -> int:
    with engine.connect() as connection:
        return int(connection.exec_driver_sql(f"SELECT count(*) FROM platform.{table}").scalar_one())
