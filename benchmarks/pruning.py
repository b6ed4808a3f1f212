"""What pruning logs costs, and what it does to those who append meanwhile.

    python -m benchmarks.pruning [--uri URI] [--rows 3000000] [--months 12] [--directory DIRECTORY]

Fills a log of ``--rows`` pieces of 300 bytes over so many months and this one. While four processes append,
it clears the oldest month, as ``db prune`` does it; then it prunes the next one chunk by chunk, as is done
where a run of the month has not ended. The floor deletes the third, a range of pages in each transaction:
what DELETE itself costs where it need not look for what is due, nor count the logs' sizes.

Without a URI it starts an embedded database of its own, below DIRECTORY where that is given, and removes it
afterwards. Ten million rows take 7 GB.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm

from benchmarks import floor
from platform_db import database, schema
from platform_db.logs import append_log
from platform_db.models import User, Workflow
from platform_db.retention import choose_rules, prune
from platform_db.retention.clear_months import runs_to_prune
from platform_db.retention.prune_log import prune_log

TENANTS, PIECES, TOGETHER = 4000, 20, 50  # pieces of a run; runs that log at the same time
WRITERS, PAUSE = 4, 0.01  # seconds between a writer's appends
ALONE = 10  # seconds of the writers without pruning
LINE = "x" * 99 + "\n"
LONGEST_VACUUM = 600  # seconds
COUNTED_AFTER = 2  # seconds that the server may take to count what a session has done

# Piece n, from 0, is of run n / (PIECES * TOGETHER) * TOGETHER + n % TOGETHER. Ids are ordered in time.
ID = """
    CREATE FUNCTION pg_temp.id_at(at timestamptz, seed text) RETURNS uuid LANGUAGE sql AS $$
        SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0')
                || '7' || substr(md5(seed), 1, 3) || 'a' || substr(md5(seed), 5, 15))::uuid $$
"""
FILL = (
    """
    INSERT INTO platform.user_ (id_, email, created, updated)
    SELECT md5('user' || n)::uuid, n || '@example.org', now(), now()
    FROM generate_series(0, CAST(:tenants AS integer) - 1) AS n
    """,
    """
    CREATE TEMPORARY TABLE run AS
    SELECT n, pg_temp.id_at(at, 'run' || n) AS id_, at,
           md5('user' || abs(hashint8(n)) % CAST(:tenants AS integer))::uuid AS owner_id
    FROM generate_series(0, CAST(:rows AS bigint) / :pieces - 1) AS n
    CROSS JOIN LATERAL (
        SELECT now() - :span + CAST(:span AS interval) * (n * :pieces / CAST(:rows AS float8))
    ) AS made (at)
    """,
    "CREATE UNIQUE INDEX ON run (n)",
    "ANALYZE run",
    """
    INSERT INTO platform.workflow
        (id_, owner_id, name, type_, status, workspace_path, run_number_major, run_number_minor, revision,
         run_started_at, run_finished_at, created, updated)
    SELECT id_, owner_id, 'run', 'serial', 'finished', '/x/' || n, n + 1, 0, 3, at, at, at, at FROM run
    ORDER BY n
    """,
    """
    INSERT INTO platform.log_chunk (owner_id, workflow_id, number, at, data, transaction_id)
    SELECT owner_id, id_, place + 1,
           now() - :span + CAST(:span AS interval) * (place / CAST(:rows AS float8)),
           convert_to(repeat(md5(place::text), 9) || '0123456789a', 'UTF8'), 0
    FROM generate_series(0, CAST(:rows AS bigint) - 1) AS place
    JOIN run ON run.n = place / (:pieces * :together) * :together + place % :together
    ORDER BY place
    """,
    """
    INSERT INTO platform.log_size (owner_id, workflow_id, bytes_, first_number, last_number)
    SELECT owner_id, workflow_id, sum(octet_length(data)), min(number), max(number)
    FROM platform.log_chunk GROUP BY owner_id, workflow_id
    """,
    "SELECT setval('platform.log_number', :rows)",
)
# In the place of what is before this month.
MONTHS = (
    "DROP TABLE platform_partitions.log_chunk_before",
    """
    CREATE TABLE platform_partitions.log_chunk_before PARTITION OF platform.log_chunk
    FOR VALUES FROM (MINVALUE) TO (platform.first_id_at('{first}'))
    """,
)
ONE_MONTH = (
    """
    CREATE TABLE platform_partitions.{name} (LIKE platform.log_chunk INCLUDING ALL)
    WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05,
          autovacuum_analyze_scale_factor = 0.02)
    """,
    """
    ALTER TABLE platform_partitions.{name} ALTER owner_id SET STATISTICS 0, ALTER workflow_id SET STATISTICS 0
    """,
    """
    ALTER TABLE platform.log_chunk ATTACH PARTITION platform_partitions.{name}
    FOR VALUES FROM (platform.first_id_at('{start}')) TO (platform.first_id_at('{end}'))
    """,
)
FLOOR = (
    "DELETE FROM platform_partitions.{name} WHERE ctid >= CAST(:first AS tid) AND ctid < CAST(:last AS tid)"
)
SIZE = "SELECT relpages, reltuples FROM pg_class WHERE oid = 'platform_partitions.{name}'::regclass"
STATE = """
    SELECT sum(n_dead_tup)::bigint, sum(pg_table_size(relid))::bigint, sum(pg_indexes_size(relid))::bigint,
           sum(autovacuum_count)::bigint
    FROM pg_stat_user_tables WHERE schemaname = 'platform_partitions'
"""

Waits = list[tuple[float, float]]
"""When each append began, and how many seconds it took with its commit."""


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--uri", help="an empty database to use; it is migrated")
    parser.add_argument("--rows", type=int, default=3_000_000, help="a multiple of 1,000")
    parser.add_argument("--months", type=int, default=12)
    parser.add_argument("--directory", help="where to make the embedded database")
    arguments = parser.parse_args()
    with floor.server(arguments.uri, arguments.directory) as uri:
        engine = database.create_engine(uri)
        schema.init_db(engine)
        make_months(engine, arguments.months)
        begins = month_before(arguments.months)
        fill(engine, arguments.rows, datetime.now(timezone.utc) - begins)
        tell_state(engine, "filled")
        engine.dispose()
        measure(uri, arguments.months)


def month_before(months: int) -> datetime:
    """Return the beginning of a month that is so many before this one."""
    now = datetime.now(timezone.utc)
    number = now.year * 12 + now.month - 1 - months
    return datetime(number // 12, number % 12 + 1, 1, tzinfo=timezone.utc)


def name_of(months: int) -> str:
    return f"log_chunk_{month_before(months):%Y_%m}"


def make_months(engine: sa.Engine, months: int) -> None:
    """Begin the partitions of months so many before this one, as if the database had been there for long."""
    with engine.begin() as connection:
        for statement in MONTHS:
            connection.exec_driver_sql(statement.format(first=month_before(months)))
        for before in range(months, 0, -1):
            values = {"start": month_before(before), "end": month_before(before - 1)}
            for statement in ONE_MONTH:
                connection.exec_driver_sql(statement.format(name=name_of(before), **values))


def fill(engine: sa.Engine, rows: int, span: timedelta) -> None:
    """Make the runs and their logs, the oldest as old as ``span``."""
    values = {"rows": rows, "span": span, "tenants": TENANTS, "pieces": PIECES, "together": TOGETHER}
    with engine.begin() as connection:
        # No triggers: they would give other times.
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        for statement in (ID, *FILL):
            connection.execute(sa.text(statement), values if ":" in statement.replace("::", "") else {})
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM (ANALYZE) platform.log_chunk")
        connection.exec_driver_sql("ANALYZE")


def measure(uri: str, months: int) -> None:
    """Clear the oldest month while others append, prune the next one, and delete the third as the floor."""
    context = multiprocessing.get_context("spawn")
    ready, stop = context.Barrier(WRITERS + 1), context.Event()
    answers: Any = context.Queue()
    writers = [
        context.Process(target=write, args=(uri, ready, stop, answers), daemon=True) for _ in range(WRITERS)
    ]
    for writer in writers:
        writer.start()
    ready.wait(60)
    engine = database.create_engine(uri)
    now = datetime.now(timezone.utc)
    (rule,) = choose_rules(["log_chunk"])
    # A week later than the end of its month, as its last runs have logged after it.
    first, second = (
        replace(rule, age=now - month_before(months - past) - timedelta(days=7)) for past in (1, 2)
    )

    def clear_month() -> int:
        begin, cleared = time.monotonic(), list[float]()
        (result,) = prune(
            lambda: orm.Session(engine),
            [first],
            progress=lambda table, rows: cleared.append(time.monotonic() - begin),
        )
        print(f"the month was gone after {cleared[0]:.2f} s; after it, db prune looks for what is left")
        return result.rows

    def prune_chunks() -> int:
        gone: list[int] = []
        runs = runs_to_prune(lambda: orm.Session(engine), replace(second, whole_months=False))
        prune_log(lambda: orm.Session(engine), second, runs, None, gone.append)
        return sum(gone)

    acts: dict[str, Callable[[], Any]] = {
        "alone": lambda: time.sleep(ALONE),
        "month": clear_month,
        "chunks": prune_chunks,
        "floor": lambda: delete_bare(engine, name_of(months - 2), first.batch),
    }
    times: dict[str, tuple[float, float]] = {}
    rates: dict[str, float] = {}
    for name, act in acts.items():
        begin = time.monotonic()
        rows = act()
        times[name] = (begin, time.monotonic())
        if rows:
            took = times[name][1] - begin
            rates[name] = rows / took
            print(f"{name}: {rows:,} rows in {took:.1f} s, {rates[name]:,.0f}/s")
            time.sleep(COUNTED_AFTER)
            tell_state(engine, f"after {name}")
    for name in ("month", "chunks"):
        print(f"{name} / floor: {rates[name] / rates['floor']:.2f}")
    stop.set()
    waits = [wait for _ in writers for wait in answers.get()]
    for name, (begin, end) in times.items():
        tell_waits(name, [took for at, took in waits if begin <= at < end])
    print(f"dead rows below a thousand after {wait_for_vacuum(engine):.0f} s more")
    tell_state(engine, "vacuumed")
    engine.dispose()


def write(uri: str, ready: Any, stop: Any, answers: Any) -> None:
    """Append to the log of a run of its own until it is told to stop, and answer with the waits."""
    engine, waits = database.create_engine(uri), Waits()
    with orm.Session(engine) as session:
        owner = User(email=f"{uuid.uuid4()}@example.org")
        session.add(owner)
        session.flush()
        run = Workflow(owner_id=owner.id_, name="run", type_="serial")
        session.add(run)
        session.commit()
        key = (owner.id_, run.id_)
        session.expunge_all()
        ready.wait()
        while not stop.is_set():
            begin = time.monotonic()
            append_log(session, key, LINE * 3, model=Workflow, limit=1 << 60)
            session.commit()
            waits.append((begin, time.monotonic() - begin))
            time.sleep(PAUSE)
    engine.dispose()
    answers.put(waits)


def delete_bare(engine: sa.Engine, name: str, batch: int) -> int:
    """Delete the rows of a month, and return how many they were."""
    with engine.connect() as connection:
        pages, rows = connection.execute(sa.text(SIZE.format(name=name))).one()
    step, deleted = int(batch * pages / rows), 0
    for page in range(0, pages, step):
        places = {"first": f"({page},0)", "last": f"({page + step},0)"}
        with engine.begin() as connection:
            deleted += connection.execute(sa.text(FLOOR.format(name=name)), places).rowcount
    return deleted


def wait_for_vacuum(engine: sa.Engine) -> float:
    """Return how many seconds autovacuum took to leave next to no dead rows, or the longest wait for it."""
    begin = time.monotonic()
    while state(engine)[0] >= 1000 and time.monotonic() - begin < LONGEST_VACUUM:
        time.sleep(1)
    return time.monotonic() - begin


def state(engine: sa.Engine) -> Any:
    """Return the dead rows, the bytes of the table and of its indexes, and how often it was vacuumed."""
    with engine.connect() as connection:
        return connection.execute(sa.text(STATE)).one()


def tell_state(engine: sa.Engine, when: str) -> None:
    """Print it."""
    dead, table, indexes, vacuums = state(engine)
    sizes = f"{table / 10**6:,.0f} MB and {indexes / 10**6:,.0f} MB of indexes"
    print(f"{when}: {dead:,} dead rows, {sizes}, vacuumed {vacuums} times", flush=True)


def tell_waits(name: str, waits: list[float]) -> None:
    """Print the middle, the hundredth longest and the longest of the waits."""
    ordered = [wait * 1000 for wait in sorted(waits)]
    middle, hundredth = (ordered[int(part * (len(ordered) - 1))] for part in (0.5, 0.99))
    print(
        f"appends, {name}: {len(ordered):,}; milliseconds p50 {middle:.1f}, p99 {hundredth:.1f},"
        f" longest {ordered[-1]:.1f}"
    )


if __name__ == "__main__":
    main()
