"""What grows costs the same to ask: one tenant's page, count and log, among few rows and among many.

* *one tenant*: the same runs and logs of the same tenants, while other tenants' rows grow to ``--rows`` runs
  and as many pieces of logs.
* *a run*: the rows and bytes, with its indexes, of a run with its history, jobs, logs and figures.

    python benchmarks/scale.py [--uri URI] [--rows 10000 10000000] [--directory DIRECTORY]

Without a URI it starts an embedded database of its own, below DIRECTORY where that is given, and removes it
afterwards. Ten million rows take 12 GB and a quarter of an hour.
"""

from __future__ import annotations

import argparse
import statistics
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import floor
import sqlalchemy as sa
from floor import SPECIFICATION
from sqlalchemy import orm

from platform_db import database, schema
from platform_db.lifecycle.transitions import transition, transition_many
from platform_db.logs import append_log, tail_log
from platform_db.models import Job, User, Workflow
from platform_db.workflows import count_by_status, create_workflows, list_workflows

TENANTS = 100  # that are asked
RUNS = 50  # of each of them
REPEATS = 5  # of each question to each tenant
PART = 500_000  # rows of others that one statement adds

MEASURED = 1000  # runs whose rows are weighed
JOBS, LINES = 5, 20  # of each of them: jobs, and appends to its log

# Others' rows. Without triggers: what they would add is not asked for.
FILL = (
    """
    INSERT INTO platform.user_ (id_, email, created, updated)
    SELECT md5('user' || n)::uuid, n || '@example.org', now(), now()
    FROM generate_series(CAST(:first AS integer), CAST(:last AS integer), 1000) AS n
    """,
    """
    INSERT INTO platform.workflow
        (id_, owner_id, name, type_, status, workspace_path, run_number_major, run_number_minor, revision,
         run_started_at, run_finished_at, created, updated)
    SELECT md5('run' || n)::uuid, md5('user' || n - (n - :first) % 1000)::uuid, 'run', 'serial', 'finished',
           '/x/' || n, n, 0, 3, now(), now(), now() + n * interval '1 ms', now()
    FROM generate_series(CAST(:first AS integer), CAST(:last AS integer)) AS n
    """,
    """
    INSERT INTO platform.log_chunk (number, at, data, transaction_id, owner_id, workflow_id)
    SELECT n, now(), 'a line of a log', 0, md5('user' || n - (n - :first) % 1000)::uuid, md5('run' || n)::uuid
    FROM generate_series(CAST(:first AS integer), CAST(:last AS integer)) AS n
    """,
)


def main() -> None:
    """Run the benchmark and print its ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--uri", help="an empty database to use; it is migrated")
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 10_000_000])
    parser.add_argument("--directory", help="where to make the embedded database")
    arguments = parser.parse_args()
    with floor.server(arguments.uri, arguments.directory) as uri:
        engine = database.create_engine(uri)
        schema.init_db(engine)
        with orm.Session(engine) as session:
            weigh(session, engine)
            ask_one_tenant(session, engine, arguments.rows)
        engine.dispose()


def weigh(session: orm.Session, engine: sa.Engine) -> None:
    """Print what a run takes."""
    tables = sorted(sa.inspect(engine).get_table_names("platform"))
    before = {name: size_of(session, engine, name) for name in tables}
    make_runs(session, add_tenant(session), MEASURED, jobs=JOBS, lines=LINES)
    print(f"a run with {JOBS} jobs and {LINES} appends of 100 bytes to its log")
    print(f"{'table':<20} {'rows':>7} {'bytes':>8} {'of them indexes':>16}")
    grown = {}
    for name in tables:
        pairs = zip(size_of(session, engine, name), before[name], strict=True)
        grown[name] = [(after - old) / MEASURED for after, old in pairs]
    grown["all"] = [sum(column) for column in zip(*grown.values(), strict=True)]
    for name, (total, indexes, rows) in grown.items():
        if rows >= 0.1:
            print(f"{name:<20} {rows:7.1f} {total:8.0f} {indexes:16.0f}", flush=True)


def size_of(session: orm.Session, engine: sa.Engine, table: str) -> tuple[int, int, int]:
    """Return a table's bytes, those of its indexes, and its rows."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(f"VACUUM ANALYZE platform.{table}")
    name = f"platform.{table}"
    statement = sa.text(
        f"SELECT pg_total_relation_size(:name), pg_indexes_size(:name), (SELECT count(*) FROM {name})"
    )
    total, indexes, rows = session.execute(statement, {"name": name}).one()
    session.rollback()
    return total, indexes, rows


def add_tenant(session: orm.Session) -> uuid.UUID:
    """Return the id of a new tenant."""
    owner = User(email=f"{uuid.uuid4()}@example.org")
    session.add(owner)
    session.commit()
    return owner.id_


def make_runs(session: orm.Session, owner_id: uuid.UUID, count: int, *, jobs: int, lines: int) -> None:
    """Make runs that have run, as the services do."""
    asked = {"owner": owner_id, "type_": "serial", "specification": SPECIFICATION}
    runs = create_workflows(session, [{**asked, "name": f"run-{number}"} for number in range(count)])
    keys = [(owner_id, run.id_) for run in runs]
    for status in ("queued", "pending", "running"):
        transition_many(session, keys, status, model=Workflow)
    for run in runs:
        made = [Job(owner_id=owner_id, workflow_id=run.id_, job_name=str(number)) for number in range(jobs)]
        session.add_all(made)
        session.flush()
        for status in ("queued", "running", "finished"):
            for job in made:
                transition(session, job, status)
        for number in range(lines):
            append_log(session, (owner_id, run.id_), f"{number:<99}\n", model=Workflow)
        session.commit()
    transition_many(session, keys, "finished", model=Workflow)
    session.commit()


def ask_one_tenant(session: orm.Session, engine: sa.Engine, sizes: Sequence[int]) -> None:
    """Print how long each question takes among so many rows, and against the fewest."""
    tenants = [add_tenant(session) for _ in range(TENANTS)]
    for owner_id in tenants:
        make_runs(session, owner_id, RUNS, jobs=0, lines=1)
    session.expunge_all()
    stored, first = 0, {}
    for size in sizes:
        fill(session, engine, stored, size)
        stored = size
        for name, seconds in measure(session, tenants).items():
            ratio = seconds / first.setdefault(name, seconds)
            print(f"{size:>9} rows  {name:<18} {seconds * 1000:6.2f} ms  {ratio:4.2f} x", flush=True)


def fill(session: orm.Session, engine: sa.Engine, first: int, last: int) -> None:
    """Give others the runs and pieces of logs with these numbers."""
    for part in range(first, last, PART):
        session.execute(sa.text("SET LOCAL session_replication_role = replica"))
        for statement in FILL:
            session.execute(sa.text(statement), {"first": part + 1, "last": min(part + PART, last)})
        session.commit()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE platform.user_, platform.workflow, platform.log_chunk")
        connection.exec_driver_sql("CHECKPOINT")


def measure(session: orm.Session, tenants: Sequence[uuid.UUID]) -> dict[str, float]:
    """Return the median seconds of each question, over the tenants."""
    questions: dict[str, Callable[[uuid.UUID, Any], object]] = {
        "a page of runs": lambda owner_id, _: list_workflows(session, owner_id, limit=20).rows,
        "counts by status": lambda owner_id, _: count_by_status(session, owner_id),
        "the tail of a log": lambda _, key: tail_log(session, key, 10, model=Workflow),
    }
    keys = {
        owner_id: (owner_id, list_workflows(session, owner_id, limit=1).rows[0].id_) for owner_id in tenants
    }
    took: dict[str, list[float]] = {name: [] for name in questions}
    for _ in range(REPEATS):
        for owner_id, key in keys.items():
            for name, ask in questions.items():
                began = time.perf_counter()
                ask(owner_id, key)
                took[name].append(time.perf_counter() - began)
                session.rollback()
    return {name: statistics.median(seconds) for name, seconds in took.items()}


if __name__ == "__main__":
    main()
