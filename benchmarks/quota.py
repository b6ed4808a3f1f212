"""What the quota jobs cost: against one ``du`` of the same tree, and against the bare SQL, in one run.

    python benchmarks/quota.py [--uri URI] [--workspaces 2000] [--files 20] [--users 50] [--runs 100000]
                               [--sizes 1000,200000] [--rounds 5] [--directory DIR]

Without a URI it starts an embedded database of its own and removes it afterwards; with one, the database
should be empty, and keeps what is made. Commands are timed from the start of their process to its end.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg2
import sqlalchemy as sa
from sqlalchemy import event, orm

from platform_db import database, embedded, schema
from platform_db.quota import update_disk_usage

USERS = """
INSERT INTO platform.user_ (id_, email)
SELECT gen_random_uuid(), 'user-' || n || '-' || gen_random_uuid() FROM generate_series(1, %s) AS n
"""
LIMITS = """
INSERT INTO platform.user_resource (owner_id, resource_id)
SELECT u.id_, r.id_ FROM platform.user_ AS u CROSS JOIN platform.resource AS r ON CONFLICT DO NOTHING
"""
RUNS = """
WITH owners AS (SELECT id_, row_number() OVER () - 1 AS k, count(*) OVER () AS all_ FROM platform.user_)
INSERT INTO platform.workflow (id_, owner_id, name, status, type_, workspace_path, run_number_major,
                               run_number_minor, run_started_at, run_finished_at)
SELECT gen_random_uuid(), owners.id_, 'run', 'finished', 'serial', %s || lpad(n::text, 6, '0'), n, 0,
       '2026-01-01Z', timestamptz '2026-01-01Z' + n * interval '1 s'
FROM generate_series(1, %s) AS n JOIN owners ON owners.k = n %% owners.all_
ORDER BY n DESC -- so that the first run moves its owner's counter, and no other
"""
CLEAR = "DELETE FROM platform.workflow_resource"
FORGET = "TRUNCATE platform.workflow CASCADE"
BARE_FIGURES = """
INSERT INTO platform.workflow_resource (owner_id, workflow_id, resource_id, quota_used, measured_at)
SELECT w.owner_id, w.id_, r.id_,
       floor(extract(epoch FROM coalesce(w.run_finished_at, w.run_stopped_at) - w.run_started_at) * 1000),
       clock_timestamp()
FROM platform.workflow AS w JOIN platform.resource AS r ON r.type_ = 'cpu'
WHERE w.run_started_at IS NOT NULL AND coalesce(w.run_finished_at, w.run_stopped_at) IS NOT NULL
ON CONFLICT (owner_id, workflow_id, resource_id) DO UPDATE
SET quota_used = excluded.quota_used, measured_at = excluded.measured_at
"""
BARE_TOTALS = """
UPDATE platform.user_resource AS t SET quota_used = s.used, measured_at = clock_timestamp()
FROM (
    SELECT owner_id, resource_id, sum(quota_used) AS used FROM platform.workflow_resource GROUP BY 1, 2
) AS s
WHERE t.owner_id = s.owner_id AND t.resource_id = s.resource_id
"""


def main() -> None:
    """Run the benchmark and print its ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--uri", help="an empty database to use")
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--workspaces", type=int, default=2000)
    parser.add_argument("--files", type=int, default=20, help="per workspace")
    parser.add_argument("--runs", type=int, default=100_000, help="for the CPU job")
    parser.add_argument("--sizes", default="1000,200000", help="two numbers of workspaces for the memory")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", help="where to make the files; by default the temporary directory")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="platform-db-benchmark-", dir=arguments.directory) as name:
        directory = Path(name)
        directory.chmod(0o755)
        data = directory / "data"
        uri = arguments.uri or embedded.ensure_running(data)
        try:
            Bench(uri, directory / "tree", arguments).run()
        finally:
            if not arguments.uri:
                embedded.stop(data)


class Bench:
    """The parts of the benchmark, each on runs of its own."""

    def __init__(self, uri: str, tree: Path, arguments: argparse.Namespace) -> None:
        self.uri, self.tree, self.arguments = uri, tree, arguments
        self.engine = database.create_engine(uri)
        schema.init_db(self.engine)
        url = self.engine.url
        self.connection = psycopg2.connect(
            **url.translate_connect_args(username="user", database="dbname"), **url.query
        )
        self.connection.autocommit = True

    def run(self) -> None:
        """Print all figures."""
        self.sql(USERS, (self.arguments.users,))
        self.sql(LIMITS)
        self.disk()
        self.cpu()
        self.memory()
        self.connection.close()
        self.engine.dispose()

    def disk(self) -> None:
        """The disk job against one ``du`` of the tree."""
        count, files = self.arguments.workspaces, self.arguments.files
        for number in range(1, count + 1):
            workspace = self.tree / f"{number:06d}"
            workspace.mkdir(parents=True)
            for part in range(files):
                (workspace / f"{part}").write_bytes(b"x" * (part % 3 * 5000 + number % 7))
        self.sql(RUNS, (f"{self.tree}/", count))
        self.sql("VACUUM ANALYZE")
        rounds = []
        for _ in range(self.arguments.rounds):
            du = self.timed(["du", "-s", str(self.tree)])[0]
            rounds.append((du, self.command("quota", "disk-usage-update")[0]))
        du, ours = (statistics.median(column) for column in zip(*rounds, strict=True))
        over = statistics.median((mine - 1.5) / base for base, mine in rounds)
        print(f"disk job, {count} workspaces of {files} files: {ours:.2f} s; one du: {du:.3f} s")
        print(f"  (job - 1.5 s) / du: {over:.2f}  (medians of {len(rounds)} rounds)")
        print(f"  figures that differ from du's of each workspace alone: {self.different()}")
        statements: list[str] = []
        event.listen(self.engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
        update_disk_usage(orm.sessionmaker(self.engine))
        print(f"  statements per 1,000 workflows: {len(statements) / count * 1000:.1f}", flush=True)

    def different(self) -> int:
        """Compare every figure with what ``du`` says of the workspace alone."""
        with self.engine.connect() as connection:
            stored = connection.execute(
                sa.text(
                    """SELECT w.workspace_path, f.quota_used FROM platform.workflow AS w
                    JOIN platform.workflow_resource AS f ON f.owner_id = w.owner_id AND f.workflow_id = w.id_
                    JOIN platform.resource AS r ON r.id_ = f.resource_id AND r.type_ = 'disk'"""
                )
            ).all()
        # No hard links are made, so that one du of many arguments says of each what it would say alone.
        paths = "\0".join(path for path, _ in stored)
        said = subprocess.run(
            ["du", "-s", "-B1", "-0", "--files0-from=-"],
            input=paths.encode(),
            capture_output=True,
            check=True,
        ).stdout.decode()
        sizes = dict(reversed(line.split("\t", 1)) for line in said.split("\0") if line)
        return (
            sum(int(sizes[path]) != used for path, used in stored) + self.arguments.workspaces - len(stored)
        )

    def cpu(self) -> None:
        """The CPU job against the SQL that does its work, both writing every figure."""
        self.sql(FORGET)
        self.sql(RUNS, ("/nowhere/", self.arguments.runs))
        self.sql("VACUUM ANALYZE")
        rounds, peak = [], 0
        for _ in range(self.arguments.rounds):
            self.sql(CLEAR)
            self.sql("VACUUM platform.workflow_resource")
            started = time.perf_counter()
            self.sql(BARE_FIGURES)
            self.sql(BARE_TOTALS)
            bare = time.perf_counter() - started
            self.sql(CLEAR)
            self.sql("VACUUM platform.workflow_resource")
            ours, memory = self.command("quota", "cpu-usage-update")
            peak = max(peak, memory)
            rounds.append((bare, ours))
        bare, ours = (statistics.median(column) for column in zip(*rounds, strict=True))
        over = statistics.median((mine - 1.5) / base for base, mine in rounds)
        print(f"CPU job, {self.arguments.runs} runs: {ours:.2f} s; the bare SQL: {bare:.2f} s")
        print(f"  (job - 1.5 s) / SQL: {over:.2f}; peak memory {peak / 1024:.0f} MiB", flush=True)

    def memory(self) -> None:
        """The disk job's memory at two sizes; there are no files, only rows."""
        peaks = []
        sizes = [int(size) for size in self.arguments.sizes.split(",")]
        for size in sizes:
            self.sql(FORGET)
            self.sql(RUNS, ("/nowhere/", size))
            self.sql("VACUUM ANALYZE")
            seconds, memory = self.command("quota", "disk-usage-update")
            peaks.append(f"{size} workspaces: {memory / 1024:.0f} MiB, {seconds:.1f} s")
        print(f"disk job's peak memory: {'; '.join(peaks)}")

    def command(self, *arguments: str) -> tuple[float, int]:
        """Return how long platform-db took, and its peak memory in KiB."""
        return self.timed([sys.executable, "-m", "platform_db", *arguments])

    def timed(self, command: list[str]) -> tuple[float, int]:
        """Return how long a command took, and its peak memory in KiB."""
        environment = {**os.environ, "PLATFORM_DB_URI": self.uri}
        started = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        elapsed = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{command} ended with {process.returncode}")
        return elapsed, usage.ru_maxrss

    def sql(self, statement: str, parameters: tuple[object, ...] | None = None) -> None:
        """Run one statement."""
        with self.connection.cursor() as cursor:
            cursor.execute(statement, parameters)


if __name__ == "__main__":
    main()
