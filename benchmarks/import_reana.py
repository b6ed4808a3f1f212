"""How fast the data of a REANA platform move, and in how much memory.

Run it with an empty, migrated database: ``PYTHONPATH=. python benchmarks/import_reana.py URI [RUNS]``, by
default with a hundred thousand runs, two jobs each. It makes a REANA database in the schema ``__reana``.
It compares the whole command, with its checks, digests and report, with a bare INSERT … SELECT of the same
rows into the same tables; each of them twice, in turns.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg2
from sqlalchemy.engine import make_url

from platform_db.crypto import generate_key
from platform_db.integrations.reana import runs, users
from platform_db.integrations.reana.expressions import Mapping
from tests.reana_source import OLD_KEY, ReanaDatabase

EMPTY = "TRUNCATE platform.user_, platform.workflow, platform.job CASCADE"


def main(uri: str, count: int) -> None:
    """Print the rates, their ratio and the memory."""
    ReanaDatabase(uri, "0.95.0a8", runs=count)
    execute(uri, "VACUUM (ANALYZE)")
    for _ in range(2):
        bare = insert_select(uri)
        moving, peak = import_all(uri)
        print(
            f"bare: {count / bare:,.0f} runs/s  import: {count / moving:,.0f} runs/s"
            f"  ratio: {bare / moving:.2f}  peak memory: {peak / 1024:,.0f} MiB"
        )


def insert_select(uri: str) -> float:
    """Return how many seconds the bare statements take, one for each table."""
    execute(uri, EMPTY)
    ((ids,),) = execute(
        uri,
        "SELECT json_object_agg(r.id_, p.id_)"
        " FROM __reana.resource AS r JOIN platform.resource AS p USING (name)",
    )
    mapping = Mapping(workspace_root="/var/reana", resources=ids)
    tables = [*users.user_tables(mapping), *runs.run_tables(mapping, has_sharing=True)]
    types = dict(
        execute(
            uri,
            "SELECT attrelid::regclass || '.' || attname, format_type(atttypid, NULL) FROM pg_attribute"
            " JOIN pg_class ON pg_class.oid = attrelid WHERE relnamespace = 'platform'::regnamespace",
        )
    )
    started = time.perf_counter()
    for table in tables:
        name = f"platform.{table.name}"
        values = ", ".join(
            f"({value})::{types[f'{name}.{column}']}" for column, value in table.columns.items()
        )
        order = f" ORDER BY {table.order}" if table.order else ""
        insert = f"INSERT INTO {name} ({', '.join(table.columns)}) {table.mapped(values)}{order}"
        execute(uri, f"SET platform.import = 'on'; SET enable_seqscan = off; {insert}")
    return time.perf_counter() - started


def import_all(uri: str) -> tuple[float, int]:
    """Return how many seconds the command takes, and its peak memory in KiB."""
    execute(uri, EMPTY)
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "platform_db", "import", "reana", "--from", uri]
        command += ["--report", str(Path(directory) / "report"), "--json"]
        environment = {
            **os.environ,
            "PLATFORM_DB_URI": uri,
            "PLATFORM_DB_SECRET_KEY": generate_key(),
            "REANA_SECRET_KEY": OLD_KEY,
        }
        started = time.perf_counter()
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss


def execute(uri: str, statement: str) -> list[tuple]:
    """Run a statement by itself, and return its rows."""
    url = make_url(uri)
    connection = psycopg2.connect(
        **url.translate_connect_args(username="user", database="dbname"), **url.query
    )
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(statement)
        rows = cursor.fetchall() if cursor.description else []
    connection.close()
    return rows


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 100_000)
