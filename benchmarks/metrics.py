"""What a scrape of the metrics costs among 10,000 runs and among a million, by a login that may only read.

    python -m benchmarks.metrics URI [RUNS]

The database has to be empty and migrated. What is active is the same at each size: 1,000 runs, of which half
have a lease. A scrape at a million should take 1.5 times as long as one at 10,000 at most, and give at most
200 series. The fastest scrapes are compared: what others do on the machine slows the rest.
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
ROUNDS = 15

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
    INSERT INTO platform.audit_log (id_, owner_id, action, created)
    SELECT gen_random_uuid(), owner_id, 'create_user', now() FROM platform.workflow
    WHERE run_number_major BETWEEN :first AND :last AND run_number_major % 10 = 0
    """


def main() -> None:
    """Measure with few runs, then with many, and print the ratio."""
    engine = database.create_engine(sys.argv[1])
    many = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000
    seconds, series = measure(engine, (FEW, many))
    print(f"{'runs':>10}  {'scrape':>9}  {'fastest':>9}  series")
    for runs, times in seconds.items():
        shown = f"{1000 * statistics.median(times):6.1f} ms  {1000 * min(times):6.1f} ms"
        print(f"{runs:>10,}  {shown}  {series[runs]}")
    print(f"{many:,} runs against {FEW:,}: {min(seconds[many]) / min(seconds[FEW]):.2f} times the time")


def measure(engine: sa.Engine, sizes: tuple[int, ...]) -> tuple[dict[int, list[float]], dict[int, int]]:
    """Return what scrapes took, in seconds, and how many series they gave, by the number of runs."""
    seconds: dict[int, list[float]] = {}
    series: dict[int, int] = {}
    filled = 0
    with engine.begin() as connection:
        connection.execute(sa.text("SET LOCAL session_replication_role = replica"))
        connection.execute(sa.text(USERS), {"owners": OWNERS})
    for runs in sizes:
        fill(engine, filled + 1, runs)
        filled = runs
        reader = reading(engine)
        list(DatabaseMetrics(reader).collect())  # to warm the caches
        seconds[runs] = []
        for _ in range(ROUNDS):
            metrics = DatabaseMetrics(reader)
            began = time.perf_counter()
            families = list(metrics.collect())
            seconds[runs].append(time.perf_counter() - began)
            series[runs] = sum(len(family.samples) for family in families)
        reader.dispose()
    return seconds, series


def fill(engine: sa.Engine, first: int, last: int) -> None:
    """Store the runs of these numbers; the first ones are active."""
    values = {"first": first, "last": last, "active": ACTIVE}
    with engine.begin() as connection:
        connection.execute(sa.text("SET LOCAL session_replication_role = replica"))
        connection.execute(sa.text(RUNS), values)
        if first == 1:
            connection.execute(sa.text(LEASES))
        connection.execute(sa.text("ALTER TABLE platform.audit_log ENABLE ALWAYS TRIGGER stamp_audit_row"))
        connection.execute(sa.text(HISTORY), values)
        connection.execute(sa.text("ALTER TABLE platform.audit_log ENABLE TRIGGER stamp_audit_row"))
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
