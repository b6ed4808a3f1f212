"""A tenant's lists among ten thousand runs, and among a million."""

from __future__ import annotations

import statistics
import time
import uuid
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.models import Workflow
from platform_db.query import find
from platform_db.query.sorting import sorts_of
from platform_db.workflows import count_by_status, overview
from tests.test_plans import USERS

RUNS = """
    INSERT INTO platform.workflow
        (id_, owner_id, name, type_, status, workspace_path, labels, run_number_major, run_number_minor,
         revision, run_started_at, run_finished_at, created, updated)
    SELECT gen_random_uuid(), user_.id_, 'run-' || n % 20, 'serial',
           CAST(CASE WHEN n % 50 = 0 THEN 'running' WHEN n % 3 = 0 THEN 'failed' ELSE 'finished' END
                AS platform.run_status),
           '/x/' || n, jsonb_build_object('team', n % 7), n, 0, 3, made.at,
           CASE WHEN n % 50 > 0 THEN made.at + make_interval(secs => n % 997) END, made.at, made.at
    FROM generate_series(1, 1000) AS n CROSS JOIN platform.user_
    CROSS JOIN LATERAL (SELECT now() - make_interval(secs => 100 * n + random()) AS at) AS made
"""


@pytest.mark.soak
@pytest.mark.parametrize("few", [10])
@pytest.mark.parametrize("many", [1000])
def test_a_tenants_lists_take_as_long_among_a_million_runs(session: Session, few: int, many: int) -> None:
    took = {tenants: dict(measure(session, tenants)) for tenants in (few, many)}
    ratios = {name: took[many][name] / took[few][name] for name in took[few]}
    assert {name: ratio for name, ratio in ratios.items() if ratio > 2} == {}, ratios


def measure(session: Session, tenants: int) -> Iterator[tuple[str, float]]:
    """Fill the database with so many tenants, and yield what each question takes, in seconds."""
    session.execute(sa.text("SET LOCAL session_replication_role = replica"))
    session.execute(sa.text("TRUNCATE platform.workflow, platform.user_ CASCADE"))
    session.execute(sa.text(USERS), {"tenants": tenants})
    session.execute(sa.text(RUNS))
    session.commit()
    session.connection(execution_options={"isolation_level": "AUTOCOMMIT"}).execute(
        sa.text("VACUUM ANALYZE platform.workflow")
    )
    session.commit()
    owners = session.scalars(sa.select(Workflow.owner_id).distinct().limit(7)).all()

    def median(ask: Callable[[uuid.UUID], object]) -> float:
        times = []
        for owner in owners * 3:
            begin = time.perf_counter()
            ask(owner)
            session.rollback()
            times.append(time.perf_counter() - begin)
        return statistics.median(times[len(owners) :])

    for name in sorts_of(Workflow):
        for sort in (name, f"-{name}"):
            yield (
                sort,
                median(lambda owner, s=sort: find(session, Workflow, {"owner_id": owner}, sort=s, limit=50)),
            )
    filter_ = {"labels.team": 3, "status": "failed"}
    yield "filter", median(lambda owner: find(session, Workflow, {"owner_id": owner, **filter_}))
    yield "search", median(lambda owner: find(session, Workflow, {"owner_id": owner}, search="N-17"))
    yield "overview", median(lambda owner: overview(session, owner))
    yield "counts by status", median(lambda owner: count_by_status(session, owner))
    yield "total", median(lambda owner: find(session, Workflow, {"owner_id": owner}, limit=1, total=True))
