"""What a scrape of the metrics costs among 10,000 runs and among a million, by a login that may only read.

    python -m benchmarks.metrics URI URI [RUNS]

Two databases of one server, empty and migrated: one gets 10,000 runs, the other a million. What is active is
the same in both: 1,000 runs, of which half have a lease. They are scraped in turns, so that a slow moment
hits both. At most 1.5 times as long is wanted, and at most 200 series.
"""

from __future__ import annotations

import statistics
import sys
import time

import sqlalchemy as sa
from sqlalchemy import orm

from platform_db import database
from platform_db.metrics.database import DatabaseMetrics
from platform_db.tenancy import roles

FEW = 10_000
OWNERS = 1000
ACTIVE = 1000
ROUNDS = 25

USERS = """
    INSERT INTO platform.user_ (id_, email, created, updated)
    SELECT gen_random_uuid(), n || '@example.org', now(), now() FROM generate_series(1, :owners) AS n
    """
RUNS = """
    WITH owners AS (SELECT id_, row_number() OVER () - 1 AS k FROM platform.user_)
    INSERT INTO platform.workflow
        (id_, owner_id, name, type_, status, workspace_path, run_number_major, run_number_minor, revision,
         run_started_at, run_finished_at, created, updated)
    SELECT gen_random_uuid(), owners.id_, 'run', 'serial',
           (CASE WHEN n > :active THEN CASE WHEN n % 20 = 0 THEN 'failed' ELSE 'finished' END
                 WHEN n % 2 = 0 THEN 'queued' ELSE 'running' END)::platform.run_status,
           '/x/' || n, n, 0, 3, CASE WHEN n > :active OR n % 2 = 1 THEN now() END,
           CASE WHEN n > :active THEN now() END, now(), now()
    FROM generate_series(CAST(:first AS integer), CAST(:last AS integer)) AS n
    JOIN owners ON owners.k = n % (SELECT count(*) FROM owners)
    """
LEASES = """
    INSERT INTO platform.lease (owner_id, entity, entity_id, holder, heartbeat_at)
    SELECT owner_id, 'workflow', id_, 'node/1', now() FROM platform.workflow WHERE status = 'running'
    """
HISTORY = """
    INSERT INTO platform.audit_inbox (id_, owner_id, action, created)
    SELECT gen_random_uuid(), owner_id, 'create_user', now() FROM platform.workflow
    WHERE run_number_major BETWEEN :first AND :last AND run_number_major % 10 = 0
    """


def main() -> None:
    """Measure both, and print the ratio."""
    few, many = (database.create_engine(uri) for uri in sys.argv[1:3])
    most = int(sys.argv[3]) if len(sys.argv) > 3 else 1_000_000
    seconds, series = measure({FEW: few, most: many})
    print(f"{'runs':>10}  {'scrape':>9}  {'fastest':>9}  series")
    for runs, times in seconds.items():
        shown = f"{1000 * statistics.median(times):6.1f} ms  {1000 * min(times):6.1f} ms"
        print(f"{runs:>10,}  {shown}  {series[runs]}")
    print(f"{most:,} runs against {FEW:,}: {ratio(seconds[most], seconds[FEW]):.2f} times the time")


def ratio(times: list[float], others: list[float]) -> float:
    """Return by how much scrapes took longer than those that were made in turns with them."""
    return statistics.median(time / other for time, other in zip(times, others, strict=True))


def measure(engines: dict[int, sa.Engine]) -> tuple[dict[int, list[float]], dict[int, int]]:
    """Return what scrapes took, in seconds, and how many series they gave, by the number of runs.

    :param engines: of an empty database each, by how many runs it is to get.
    """
    seconds: dict[int, list[float]] = {runs: [] for runs in engines}
    series: dict[int, int] = {}
    for runs, engine in engines.items():
        fill(engine, runs)
    readers = {runs: reading(engine) for runs, engine in engines.items()}
    for turn in range(ROUNDS + 1):
        for runs, reader in readers.items():
            metrics = DatabaseMetrics(reader)
            began = time.perf_counter()
            families = list(metrics.collect())
            if turn:  # The first one connects and warms the caches.
                seconds[runs].append(time.perf_counter() - began)
            series[runs] = sum(len(family.samples) for family in families)
    for reader in readers.values():
        reader.dispose()
    return seconds, series


def fill(engine: sa.Engine, runs: int) -> None:
    """Store runs; the first ones are active."""
    values = {"first": 1, "last": runs, "active": ACTIVE}
    with engine.begin() as connection:
        connection.execute(sa.text("SET LOCAL session_replication_role = replica"))
        connection.execute(sa.text(USERS), {"owners": OWNERS})
        connection.execute(sa.text(RUNS), values)
        connection.execute(sa.text(LEASES))
        connection.execute(sa.text(HISTORY), values)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("VACUUM (ANALYZE)"))


def reading(engine: sa.Engine) -> sa.Engine:
    """Return an engine whose connections have the rights of the readers' role alone."""
    factory = orm.sessionmaker(engine)
    roles.create_roles(factory)
    roles.grant_privileges(factory)
    own = database.create_engine(engine)

    @sa.event.listens_for(own, "connect")
    def become(connection: sa.engine.interfaces.DBAPIConnection, record: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET ROLE platform_readonly")
        connection.commit()

    return own


if __name__ == "__main__":
    main()
