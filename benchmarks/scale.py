"""What grows costs the same to ask: one tenant's page, count and log, among few rows and among many.

* *a run*: the rows and bytes, with its indexes, of a run with its history, jobs, logs and figures.
* *one tenant*: the same runs and logs of the same tenants, while other tenants' rows grow to ``--rows`` runs
  and as many pieces of logs; and a newcomer's, whom the tables' statistics do not know.
* *throughput*: ``throughput.py`` among the most rows.

    python benchmarks/scale.py [--uri URI] [--rows 10000 10000000] [--directory DIRECTORY]
        [--processes 1 4 16] [--rounds 5]

Without a URI it starts an embedded database of its own, below DIRECTORY where that is given, and removes it
afterwards. Ten million rows take 12 GB and a quarter of an hour.
"""

from __future__ import annotations

import argparse
import statistics
import time
import uuid
from collections.abc import Callable, Sequence
from typing import NamedTuple

import floor
import sqlalchemy as sa
import throughput
from floor import SPECIFICATION
from sqlalchemy import orm

from platform_db import database, schema
from platform_db.lifecycle.transitions import transition, transition_many
from platform_db.logs import append_log, read_new_log, tail_log
from platform_db.models import Job, Resource, User, Workflow, WorkflowResource
from platform_db.workflows import count_by_status, create_workflow, create_workflows, list_workflows

TENANTS = 100  # that are asked
RUNS = 50  # of each of them
REPEATS = 5  # of each question to each tenant
NEWCOMERS_RUNS, NEWCOMERS_LINES = 5_000, 2_000  # of one who came after the tables were analyzed; of one log
PART = 500_000  # rows of others that one statement adds

MEASURED = 1000  # runs whose rows are weighed
JOBS, LINES = 5, 20  # of each of them: jobs, and appends to its log

WRITTEN = sa.text("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")

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
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with floor.server(arguments.uri, arguments.directory) as uri:
        engine = database.create_engine(uri)
        schema.init_db(engine)
        with orm.Session(engine) as session:
            weigh(session, engine)
            ask_one_tenant(session, engine, arguments.rows)
        engine.dispose()
        if arguments.processes:
            throughput.compare(uri, arguments.processes, arguments.rounds, 1)


def weigh(session: orm.Session, engine: sa.Engine) -> None:
    """Print what a run takes."""
    tables = sorted(sa.inspect(engine).get_table_names("platform"))
    before = {name: size_of(session, engine, name) for name in tables}
    begun = session.scalar(WRITTEN)
    make_runs(session, add_tenant(session), MEASURED, jobs=JOBS, lines=LINES)
    written = session.scalar(WRITTEN) - begun
    print(f"a run with {JOBS} jobs, {LINES} appends of 100 bytes to its log and a figure of each resource")
    print(f"{'table':<20} {'rows':>7} {'bytes':>8} {'of them indexes':>16}")
    grown = {}
    for name in tables:
        pairs = zip(size_of(session, engine, name), before[name], strict=True)
        grown[name] = [(after - old) / MEASURED for after, old in pairs]
    grown["all"] = [sum(column) for column in zip(*grown.values(), strict=True)]
    for name, (total, indexes, rows) in grown.items():
        if rows >= 0.1:
            print(f"{name:<20} {rows:7.1f} {total:8.0f} {indexes:16.0f}", flush=True)
    print(f"{'written ahead':<28} {written / MEASURED:8.0f}", flush=True)


def weigh_alone(session: orm.Session, engine: sa.Engine, tenants: Sequence[uuid.UUID]) -> None:
    """Print what is written ahead of a run that is the first of its tenant's after a checkpoint.

    Every page that it changes is written as a whole then. So it is with many tenants, and few runs of each
    between two checkpoints.
    """
    checkpoint(engine)
    begun = session.scalar(WRITTEN)
    for owner_id in tenants:
        make_runs(session, owner_id, 1, jobs=JOBS, lines=LINES)
    written = session.scalar(WRITTEN) - begun
    print(
        f"written ahead of the first run of a tenant after a checkpoint: {written / len(tenants):.0f}",
        flush=True,
    )


def size_of(session: orm.Session, engine: sa.Engine, table: str) -> tuple[int, int, int]:
    """Return a table's bytes, those of its indexes, and its rows."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(f"VACUUM ANALYZE platform.{table}")
    name = f"platform.{table}"
    statement = sa.text(f"""
        SELECT sum(pg_total_relation_size(part)), sum(pg_indexes_size(part)), (SELECT count(*) FROM {name})
        FROM (SELECT CAST(:name AS regclass) UNION SELECT relid FROM pg_partition_tree(:name)) AS one (part)
        """)
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
    resources = session.scalars(sa.select(Resource.id_)).all()
    figures = [dict(zip(("owner_id", "workflow_id"), key, strict=True)) for key in keys]
    session.execute(
        sa.insert(WorkflowResource),
        [figure | {"resource_id": id_, "quota_used": 1} for figure in figures for id_ in resources],
    )
    session.commit()


def ask_one_tenant(session: orm.Session, engine: sa.Engine, sizes: Sequence[int]) -> None:
    """Print how long each question takes among so many rows, and against the fewest."""
    tenants = [add_tenant(session) for _ in range(TENANTS)]
    for owner_id in tenants:
        make_runs(session, owner_id, RUNS, jobs=0, lines=1)
        run = create_workflow(session, owner_id, name="last", type_="serial", specification=SPECIFICATION)
        append_log(session, (owner_id, run.id_), f"{'a line':<99}\n", model=Workflow)
        session.commit()
    session.expunge_all()
    stored, first = 0, {}
    for size in sizes:
        fill(session, engine, stored, size)
        stored = size
        asked = measure(session, tenants, "a tenant's", REPEATS)
        asked |= measure(session, [add_newcomer(session)], "a newcomer's", REPEATS * TENANTS // 10)
        for name, (seconds, times) in asked.items():
            ratio = times / first.setdefault(name, times)
            print(
                f"{size:>9} rows  {name:<33}"
                f" {seconds * 1000:6.2f} ms, {times:4.1f} of SELECT 1: {ratio:4.2f} x",
                flush=True,
            )
    weigh_alone(session, engine, tenants)


def fill(session: orm.Session, engine: sa.Engine, first: int, last: int) -> None:
    """Give others the runs and pieces of logs with these numbers."""
    for part in range(first, last, PART):
        session.execute(sa.text("SET LOCAL session_replication_role = replica"))
        for statement in FILL:
            session.execute(sa.text(statement), {"first": part + 1, "last": min(part + PART, last)})
        session.commit()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE platform.user_, platform.workflow, platform.log_chunk")
    checkpoint(engine)


def checkpoint(engine: sa.Engine) -> None:
    """Write all that is changed to the disk."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("CHECKPOINT")


def add_newcomer(session: orm.Session) -> uuid.UUID:
    """Return a new tenant, with many runs and a long log of the last one."""
    owner_id = add_tenant(session)
    asked = {"owner": owner_id, "type_": "serial", "specification": SPECIFICATION}
    runs = create_workflows(session, [{**asked, "name": f"run-{number}"} for number in range(NEWCOMERS_RUNS)])
    for number in range(NEWCOMERS_LINES):
        append_log(session, (owner_id, runs[-1].id_), f"{number:<99}\n", model=Workflow)
    session.commit()
    return owner_id


class Asked(NamedTuple):
    """A tenant's last run, and how far its log was read."""

    owner_id: uuid.UUID
    id_: uuid.UUID
    cursor: str

    @property
    def key(self) -> tuple[uuid.UUID, uuid.UUID]:
        """The run's key."""
        return self.owner_id, self.id_


NOTHING = "nothing"
QUESTIONS: dict[str, Callable[[orm.Session, Asked], object]] = {
    NOTHING: lambda session, _: session.execute(
        sa.text("SELECT 1")
    ),  # The machine is not as fast at all times.
    "page of runs": lambda session, run: list_workflows(session, run.owner_id, limit=20).rows,
    "counts by status": lambda session, run: count_by_status(session, run.owner_id),
    "tail of a log": lambda session, run: tail_log(session, run.key, 10, model=Workflow),
    "new output of a log": lambda session, run: read_new_log(session, run.key, run.cursor, model=Workflow),
    "change of a status": lambda session, run: transition(session, run.key, "queued", model=Workflow),
}


def measure(
    session: orm.Session, tenants: Sequence[uuid.UUID], whose: str, repeats: int
) -> dict[str, tuple[float, float]]:
    """Return the median seconds of each question over the tenants, and how many SELECT 1 they are."""
    runs = []
    for owner_id in tenants:
        key = (owner_id, list_workflows(session, owner_id, limit=1).rows[0].id_)
        runs.append(Asked(*key, read_new_log(session, key, chunks=10_000, model=Workflow).cursor))
    session.rollback()
    took: dict[str, list[float]] = {}
    for run in runs * repeats:
        for name, ask in QUESTIONS.items():
            began = time.perf_counter()
            ask(session, run)
            took.setdefault(name, []).append(time.perf_counter() - began)
            session.rollback()
    medians = {name: statistics.median(seconds) for name, seconds in took.items()}
    nothing = medians.pop(NOTHING)
    return {f"{whose} {name}": (seconds, seconds / nothing) for name, seconds in medians.items()}


if __name__ == "__main__":
    main()
