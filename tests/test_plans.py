"""What is asked all the time uses an index, also when there are many tenants."""

from __future__ import annotations

import gzip
import json
import re
import time
from datetime import timedelta
from operator import itemgetter
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session, sessionmaker

from platform_db.leases import count_alive, recover, recover_owned_by
from platform_db.lifecycle.history import history
from platform_db.logs import read_new_log
from platform_db.models import Job, ResourceType, RunStatus, Workflow
from platform_db.query import find
from platform_db.query.sorting import sorts_of
from platform_db.quota import cpu, disk
from platform_db.quota.resources import get_default_key
from platform_db.retention import choose_rules, prune
from platform_db.workflows import count_by_status, list_workflows
from tests.test_prune import NOW

TENANTS, RUNS_EACH = 1000, 10

USERS = """
    INSERT INTO platform.user_ (id_, email, created, updated)
    SELECT gen_random_uuid(), n || '@example.org', now(), now() FROM generate_series(1, :tenants) AS n
"""
RUNS = """
    INSERT INTO platform.workflow
        (id_, owner_id, name, type_, status, workspace_path, run_number_major, run_number_minor, revision,
         run_started_at, run_finished_at, created, updated)
    SELECT gen_random_uuid(), user_.id_, 'run', 'serial',
           CASE WHEN n = 1 THEN 'running' ELSE 'finished' END::platform.run_status, '/x/' || n, n, 0, 3,
           now(), CASE WHEN n = 1 THEN NULL ELSE now() END, now(), now()
    FROM platform.user_ CROSS JOIN generate_series(1, :runs) AS n
"""
CHANGES = """
    INSERT INTO platform.status_change
        (owner_id, entity_id, revision, entity, from_status, to_status, number, at, transaction_id)
    SELECT owner_id, id_, n, 'workflow', 'created', 'queued', n, now(), 0
    FROM platform.workflow CROSS JOIN generate_series(1, 3) AS n
"""

CHUNKS = """
    INSERT INTO platform.log_chunk (owner_id, workflow_id, job_id, data)
    SELECT :owner, :run, CASE WHEN n % 2 = 0 THEN CAST(:job AS uuid) END, 'line'
    FROM generate_series(1, 20000) AS n
"""

CHUNKS_OF_OTHERS = """
    INSERT INTO platform.log_chunk (owner_id, workflow_id, number, transaction_id, data, at)
    SELECT owner_id, id_, n, n, 'line', now()
    FROM platform.workflow CROSS JOIN generate_series(1, :chunks) AS n WHERE status::text = ANY (:statuses)
"""


def wait_for_earlier_transactions(session: Session) -> None:
    """Return when no transaction of the server is older than what the session has written.

    Those of other tests count, too: as long as one is open, a reader has to look at what came after it.
    """
    mine = session.scalar(sa.text("SELECT pg_current_xact_id()::text::bigint"))
    session.commit()
    oldest = sa.text("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
    give_up_at = time.monotonic() + 60
    while session.scalar(oldest) <= mine:
        session.commit()
        assert time.monotonic() < give_up_at, "another transaction is open all the time"
        time.sleep(0.05)


@pytest.fixture
def run(session: Session) -> Workflow:
    """Fill the database with tenants and runs, and give one run."""
    session.execute(sa.text("SET LOCAL session_replication_role = replica"))
    session.execute(sa.text(USERS), {"tenants": TENANTS})
    session.execute(sa.text(RUNS), {"runs": RUNS_EACH})
    session.execute(sa.text(CHANGES))
    session.commit()
    session.execute(sa.text("ANALYZE"))
    session.commit()
    return session.scalars(sa.select(Workflow).limit(1)).one()


def plans_of(session: Session, ask) -> str:
    """Return the plans of all statements that ``ask`` executes."""
    statements = []

    def remember(connection, cursor, statement, parameters, context, executemany) -> None:
        if not statement.startswith(("SAVEPOINT", "SET", "RELEASE")):
            statements.append((statement, parameters))

    session.flush()
    engine = session.get_bind()
    event.listen(engine, "before_cursor_execute", remember)
    try:
        ask()
    finally:
        event.remove(engine, "before_cursor_execute", remember)
    lines: list[str] = []
    for statement, parameters in statements:
        lines += session.connection().exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars()
    return "\n".join(lines)


def test_counting_a_tenants_statuses_uses_an_index(session: Session, run: Workflow) -> None:
    plan = plans_of(session, lambda: count_by_status(session, run.owner_id))
    assert "Index Cond: (owner_id" in plan
    assert "Seq Scan" not in plan
    assert count_by_status(session, run.owner_id) == {RunStatus.running: 1, RunStatus.finished: 9}


def test_listing_what_is_in_progress_uses_an_index(session: Session, run: Workflow) -> None:
    plan = plans_of(session, lambda: list_workflows(session, run.owner_id, statuses=[RunStatus.running]).rows)
    assert "Index" in plan
    assert "Seq Scan" not in plan
    query = sa.select(Workflow.id_).where(Workflow.status == RunStatus.running).order_by(Workflow.id_)
    text = str(query.limit(10).compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True}))
    assert "ix_workflow_in_progress" in "\n".join(session.execute(sa.text(f"EXPLAIN {text}")).scalars())


ENDED = (
    """
    INSERT INTO platform.job (id_, owner_id, workflow_id, status, revision, finished_at, created, updated)
    SELECT gen_random_uuid(), owner_id, id_, 'finished', 1, now(), now(), now() FROM platform.workflow
    """,
    """
    INSERT INTO platform.interactive_session
        (id_, owner_id, name, path, status, revision, run_stopped_at, created, updated)
    SELECT gen_random_uuid(), owner_id, 'notebook', '/' || id_, 'stopped', 1, now(), now(), now()
    FROM platform.workflow
    """,
    """
    INSERT INTO platform.service (id_, owner_id, name, status, revision, run_stopped_at, created, updated)
    SELECT gen_random_uuid(), owner_id, 'dask-' || id_, 'stopped', 1, now(), now(), now()
    FROM platform.workflow
    """,
    "ANALYZE",
)


@pytest.fixture
def ended(session: Session, run: Workflow) -> None:
    """Store many rows of each kind that have ended."""
    session.execute(sa.text("SET LOCAL session_replication_role = replica"))
    for statement in ENDED:
        session.execute(sa.text(statement))
    session.commit()


def test_counting_what_is_alive_reads_nothing_that_has_ended(session: Session, ended: None) -> None:
    plan = plans_of(session, lambda: count_alive(session))
    for table in ("workflow", "job", "interactive_session", "service"):
        assert f"ix_{table}_in_progress" in plan
    assert "Seq Scan" not in plan
    assert "Seq Scan on lease" in plans_of(session, lambda: count_alive(session, "n1"))
    assert count_alive(session) == {"workflow": {"running": TENANTS}}


def test_recovery_reads_nothing_that_has_ended(session: Session, ended: None) -> None:
    for recover_rows in (
        lambda: recover(session, timedelta(0)),
        lambda: recover_owned_by(session, "n1"),
    ):
        plan = plans_of(session, recover_rows)
        for table in ("workflow", "job", "interactive_session", "service"):
            assert f"Seq Scan on {table}" not in plan
    plan = plans_of(session, lambda: recover(session, timedelta(0)))
    assert "ix_workflow_stop_requested" in plan
    assert "ix_job_in_progress" in plan


@pytest.mark.parametrize("order", sorted(sorts_of(Workflow)))
def test_a_tenants_list_reads_that_tenants_rows_alone(session: Session, run: Workflow, order: str) -> None:
    mine = {"owner_id": run.owner_id}
    cursor = find(session, Workflow, mine, sort=order, limit=2).cursor
    asked = {"labels.team": "a", "$or": [{"status": "failed"}, {"priority": {"$gt": 5}}]}
    for filter_, options in ((mine, {}), (mine, {"cursor": cursor}), ({**mine, **asked}, {"search": "r"})):
        plan = plans_of(
            session, lambda f=filter_, o=options: find(session, Workflow, f, sort=order, limit=2, **o)
        )
        assert "Index Cond: ((owner_id" in plan or "Index Cond: (owner_id" in plan
        assert "Seq Scan" not in plan


def test_a_list_in_the_order_of_an_index_is_read_off_it(session: Session) -> None:
    session.execute(sa.text("SET LOCAL session_replication_role = replica"))
    session.execute(sa.text(USERS), {"tenants": 5})
    session.execute(sa.text(RUNS), {"runs": 4000})
    session.execute(sa.text("ANALYZE"))
    session.commit()
    mine = {"owner_id": session.scalars(sa.select(Workflow.owner_id).limit(1)).one()}
    for order, index in (("-created", "ix_workflow_owner_id_created"), ("name", "uq_workflow_owner_id_name")):
        plan = plans_of(session, lambda o=order: find(session, Workflow, mine, sort=o, limit=2))
        assert index in plan
        assert "->  Sort" not in plan


def test_the_newest_runs_of_all_owners_are_the_newest_of_each(session: Session, run: Workflow) -> None:
    page = find(session, Workflow, limit=2)
    for cursor in (None, page.cursor):
        plan = plans_of(session, lambda c=cursor: find(session, Workflow, limit=2, cursor=c))
        assert "ix_workflow_owner_id_created" in plan
        assert "Seq Scan on workflow" not in plan


FIGURES = """
    INSERT INTO platform.workflow_resource (owner_id, workflow_id, resource_id, quota_used)
    SELECT owner_id, id_, CAST(:resource AS uuid), 1 FROM platform.workflow
"""


def test_quotas_of_some_users_read_no_one_elses_runs(session: Session, run: Workflow) -> None:
    cpu_time, space = (get_default_key(session, type_) for type_ in (ResourceType.cpu, ResourceType.disk))
    session.execute(sa.text("SET LOCAL session_replication_role = replica"))
    for resource in (cpu_time, space):
        session.execute(sa.text(FIGURES), {"resource": resource.id_})
    session.commit()
    session.execute(sa.text("ANALYZE platform.workflow, platform.workflow_resource"))
    users = session.scalars(sa.select(Workflow.owner_id).distinct().limit(3)).all()
    for ask in (
        lambda: cpu.update_users(session, users, cpu_time),
        lambda: disk.find_drift(session, users, space),
    ):
        assert not re.search(r"Seq Scan on workflow(_resource)?\b", plans_of(session, ask))


def test_a_page_of_a_history_uses_an_index(session: Session, run: Workflow) -> None:
    cursor = history(session, run, limit=1).cursor
    for asked in (None, cursor):
        plan = plans_of(session, lambda asked=asked: history(session, run, limit=1, cursor=asked))
        assert "pk_status_change" in plan
        assert "Seq Scan on status_change" not in plan
        assert "Seq Scan on workflow" not in plan


def test_the_first_page_of_a_history_stores_no_candidates(session: Session, run: Workflow) -> None:
    cursor = history(session, run, limit=1).cursor
    assert "CTE candidates" not in plans_of(session, lambda: history(session, run, limit=1))
    assert "CTE candidates" in plans_of(session, lambda: history(session, run, limit=1, cursor=cursor))


def test_looking_for_what_was_logged_since_uses_an_index_by_transaction(
    session: Session, run: Workflow
) -> None:
    job = Job(workflow_id=run.id_)
    session.add(job)
    session.commit()
    session.execute(sa.text("SET LOCAL session_replication_role = replica"))
    session.execute(sa.text(CHUNKS_OF_OTHERS), {"chunks": 10, "statuses": ["finished"]})
    session.commit()
    session.execute(sa.text("ANALYZE platform.log_chunk, platform.job, platform.workflow"))
    # Statistics know nothing of a log that is written now.
    session.execute(sa.text(CHUNKS), {"owner": run.owner_id, "run": run.id_, "job": job.id_})
    session.commit()
    wait_for_earlier_transactions(session)
    for row in (run, job):
        if row is job:
            session.execute(sa.text("ANALYZE platform.log_chunk"))
        cursor = read_new_log(session, row, chunks=10_000).cursor
        plan = plans_of(session, lambda row=row, cursor=cursor: read_new_log(session, row, cursor))
        assert "owner_id_workflow_id_transaction_id" in plan
        assert "Seq Scan on log_chunk" not in plan


def test_each_chunk_of_a_long_log_is_archived_in_order_and_pruned_by_its_place(
    session: Session, session_factory: sessionmaker[Session], run: Workflow, tmp_path: Path
) -> None:
    ended = session.scalars(sa.select(Workflow).where(Workflow.status == RunStatus.finished).limit(1)).one()
    session.execute(sa.text(CHUNKS), {"owner": ended.owner_id, "run": ended.id_, "job": None})
    session.execute(sa.text("SET LOCAL session_replication_role = replica"))
    session.execute(sa.text(CHUNKS_OF_OTHERS), {"chunks": 2, "statuses": ["running"]})
    session.commit()
    session.execute(sa.text("ANALYZE platform.log_chunk"))
    session.commit()
    rules = choose_rules(["log_chunk"], older_than=NOW)
    plan = plans_of(session, lambda: prune(session_factory, rules, archive=tmp_path))
    assert plan.count("ctid = key.place") + plan.count("key.place = chunk") >= 2
    for path in tmp_path.iterdir():
        with gzip.open(path, "rt") as lines:
            rows = [json.loads(line)["row"] for line in lines]
        assert rows == sorted(rows, key=itemgetter("owner_id", "workflow_id", "number"))
