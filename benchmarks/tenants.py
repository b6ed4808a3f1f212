"""What one tenant asks, among few runs and among a million: counts, lists and a page of history.

Usage: python -m benchmarks.tenants POSTGRESQL-URI-OF-AN-EMPTY-MIGRATED-DATABASE [RUNS]
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import database
from platform_db.lifecycle.history import history
from platform_db.models import RunStatus, Workflow
from platform_db.workflows import count_by_status, list_workflows

TENANTS = 1000
FEW = 10_000
REPEATS = 200

FILL = (
    """
    INSERT INTO platform.user_ (id_, email, created, updated)
    SELECT gen_random_uuid(), n || '@example.org', now(), now() FROM generate_series(1, :tenants) AS n
    ON CONFLICT DO NOTHING
    """,
    """
    INSERT INTO platform.workflow
        (id_, owner_id, name, type_, status, workspace_path, run_number_major, run_number_minor, revision,
         run_started_at, run_finished_at, created, updated)
    SELECT gen_random_uuid(), id_, 'run', 'serial',
           CASE WHEN n % 100 = 1 THEN 'running' ELSE 'finished' END::platform.run_status, '/x/' || n, n, 0, 3,
           now(), CASE WHEN n % 100 = 1 THEN NULL ELSE now() END, now() + n * interval '1 s', now()
    FROM platform.user_ CROSS JOIN generate_series(CAST(:first AS integer), CAST(:last AS integer)) AS n
    ORDER BY n DESC -- so that the first run moves its owner's counter, and no other
    """,
    """
    INSERT INTO platform.status_change
        (owner_id, entity_id, revision, entity, from_status, to_status, number, at, transaction_id)
    SELECT owner_id, id_, n, 'workflow', 'created', 'queued', nextval('platform.history_number'), now(), 0
    FROM platform.workflow CROSS JOIN generate_series(1, 3) AS n
    WHERE run_number_major BETWEEN :first AND :last
    """,
)


def main() -> None:
    """Measure with few runs, then with many."""
    engine = database.create_engine(sys.argv[1])
    many = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000
    with Session(engine) as session:
        filled, before = 0, {}
        for runs in (FEW, many):
            fill(session, engine, filled // TENANTS + 1, runs // TENANTS)
            filled = runs
            for name, seconds in measure(session).items():
                ratio = f", {seconds / before[name]:.2f} times" if name in before else ""
                print(f"{runs:>9} runs: {name:<24} {seconds * 1000:.2f} ms{ratio}")
                before.setdefault(name, seconds)


def fill(session: Session, engine: sa.Engine, first: int, last: int) -> None:
    """Give each tenant the runs with these numbers."""
    session.execute(sa.text("SET LOCAL session_replication_role = replica"))
    for statement in FILL:
        session.execute(sa.text(statement), {"tenants": TENANTS, "first": first, "last": last})
    session.commit()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")


def measure(session: Session) -> dict[str, float]:
    """Return the median seconds of each question, over many tenants."""
    runs = session.scalars(sa.select(Workflow).where(Workflow.run_number_major == 1).limit(REPEATS)).all()
    questions: dict[str, Callable[[Workflow], object]] = {
        "counts by status": lambda run: count_by_status(session, run.owner_id),
        "runs in progress": lambda run: (
            list_workflows(session, run.owner_id, statuses=[RunStatus.running], limit=10).rows
        ),
        "a page of history": lambda run: history(session, run),
    }
    return {name: statistics.median(seconds(ask, run) for run in runs) for name, ask in questions.items()}


def seconds(ask: Callable[[Workflow], object], run: Workflow) -> float:
    """Return how long the answer takes."""
    begun = time.perf_counter()
    ask(run)
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
