"""Pruning: what the rules name goes with its children, and nobody waits."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import threading
import time
import uuid
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from platform_db import database, errors
from platform_db.database.session import PlatformSession
from platform_db.jobs.cache import store_result
from platform_db.leases import heartbeat
from platform_db.lifecycle.history import add_note
from platform_db.lifecycle.transitions import transition
from platform_db.logs import append_log
from platform_db.models import NOBODY, AuditLog, Base, Job, LogSize, RunStatus, Workflow
from platform_db.retention import choose_rules, prune, require_finished
from platform_db.retention.rules import RULES
from tests.factories import make_run, make_user
from tests.processes import FORKING

NOW = timedelta(0)

ORPHANS = """
    SELECT (SELECT count(*) FROM platform.status_change AS c WHERE entity = 'workflow' AND NOT EXISTS (
                SELECT FROM platform.workflow WHERE owner_id = c.owner_id AND id_ = c.entity_id))
         + (SELECT count(*) FROM platform.status_change AS c WHERE entity = 'job' AND NOT EXISTS (
                SELECT FROM platform.job WHERE owner_id = c.owner_id AND id_ = c.entity_id))
         + (SELECT count(*) FROM platform.note AS n WHERE NOT EXISTS (
                SELECT FROM platform.workflow WHERE owner_id = n.owner_id AND id_ = n.entity_id)
            AND NOT EXISTS (SELECT FROM platform.job WHERE owner_id = n.owner_id AND id_ = n.entity_id))
"""


def make_life(session: Session, status: str) -> Workflow:
    """Store a run that has one of everything, and went to this status."""
    run = make_run(session, make_user(session), status="running")
    job = Job(workflow_id=run.id_)
    session.add(job)
    session.commit()
    transition(session, job, "running")
    add_note(session, job, "node", "n1")
    add_note(session, run, "queue", "small")
    append_log(session, run, "run\n")
    append_log(session, job, "job\n")
    store_result(session, job, "p", "h", "/r")
    heartbeat(session, [run])
    run.set_workspace_retention_rules([{"workspace_files": "*", "retention_days": 1}])
    session.commit()
    if status != "running":
        transition(session, run, "finished")
    if status == "deleted":
        transition(session, run, "deleted")
    session.commit()
    return run


_OF_USERS = {"user_", "resource", "user_resource", "run_counter", "owner_limit"}


def counts(session: Session) -> dict[str, int]:
    session.rollback()
    return {
        table.name: session.scalar(sa.select(sa.func.count()).select_from(table)) or 0
        for table in Base.metadata.sorted_tables
        if table.name not in _OF_USERS | {"audit_inbox", "row_event"}
    }


def test_a_deleted_run_goes_with_all_that_belongs_to_it(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    kept = make_life(session, "finished")
    before = counts(session)
    make_life(session, "deleted")
    assert counts(session) != before

    (result,) = prune(session_factory, choose_rules(["workflow"], older_than=NOW))

    assert counts(session) == before
    assert (result.rows, result.left, result.with_them["job"]) == (1, 0, 1)
    assert session.get(Workflow, kept.id_) is not None


def test_nothing_goes_before_its_time(session: Session, session_factory: sessionmaker[Session]) -> None:
    for status in ("running", "finished", "deleted"):
        make_life(session, status)
    before = counts(session)
    assert {result.rows for result in prune(session_factory)} == {0}
    assert counts(session) == before


def test_a_dry_run_counts_and_deletes_nothing(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    for status in ("running", "finished", "deleted"):
        make_life(session, status)
    before = counts(session)
    results = prune(session_factory, choose_rules(older_than=NOW), dry_run=True)
    assert {result.table: result.rows for result in results if result.rows} == {
        "workflow": 1,
        "log_chunk": 4,
        "job_cache": 3,
        "row_event": 6,
    }
    assert counts(session) == before


def test_a_run_whose_log_was_pruned_has_room_when_it_is_started_again(
    session: Session, session_factory: sessionmaker[Session], tmp_path: Path
) -> None:
    ended = make_life(session, "running")
    size = sa.select(LogSize.bytes_).where(LogSize.workflow_id == ended.id_)
    data = os.urandom(100_000)
    append_log(session, ended, data, limit=1000)
    session.commit()
    assert session.scalar(size) == 1000
    transition(session, ended, "finished")
    session.commit()
    prune(session_factory, choose_rules(["log_chunk"], older_than=NOW), archive=tmp_path)
    assert session.scalar(size) == 0
    transition(session, ended, "running")
    assert append_log(session, ended, b"again", limit=1000) == len(b"again")
    session.commit()
    assert ended.logs == "again"
    assert session.scalar(size) == len(b"again")


def test_logs_of_what_has_ended_go_in_batches(
    session: Session, session_factory: sessionmaker[Session], tmp_path: Path
) -> None:
    running, ended = make_life(session, "running"), make_life(session, "finished")
    for number in range(25):
        append_log(session, ended, f"{number}\n")
    session.commit()
    (result,) = prune(
        session_factory, choose_rules(["log_chunk"], older_than=NOW, batch=10), archive=tmp_path
    )
    assert result.rows == 27
    session.expire_all()
    assert (ended.logs, running.logs) == ("", "run\n")
    assert len(read_archive(tmp_path)) == 27


def read_archive(directory: Path) -> list[dict]:
    rows = []
    for path in directory.glob("*.jsonl.gz"):
        with gzip.open(path, "rt") as lines:
            rows += [json.loads(line) for line in lines]
    return rows


def test_the_archive_holds_what_went(
    session: Session, session_factory: sessionmaker[Session], tmp_path: Path
) -> None:
    run = make_life(session, "deleted")
    run_id = str(run.id_)
    (result,) = prune(session_factory, choose_rules(["workflow"], older_than=NOW), archive=tmp_path)
    rows = read_archive(tmp_path)
    assert rows[0]["table"] == "workflow"
    assert rows[0]["row"]["id_"] == run_id
    assert len(rows) == 1 + result.with_them.total()
    assert {row["table"] for row in rows} >= {"workflow", "job", "log_chunk", "status_change", "note"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.iterdir())


def test_what_cannot_be_archived_stays(session: Session, session_factory: sessionmaker[Session]) -> None:
    make_life(session, "deleted")
    before = counts(session)
    with pytest.raises(OSError, match="Not a directory"):
        prune(session_factory, choose_rules(["workflow"], older_than=NOW), archive=Path("/dev/null/archive"))
    assert counts(session) == before


def test_what_somebody_holds_is_left_and_told(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    held, _ = (make_life(session, "deleted").id_ for _ in range(2))
    with session_factory() as other:
        other.execute(sa.select(Workflow.id_).where(Workflow.id_ == held).with_for_update())
        results = prune(session_factory, choose_rules(["workflow"], older_than=NOW))
        assert (results[0].rows, results[0].left) == (1, 1)
        with pytest.raises(errors.PartialFailure, match="1 of workflow"):
            require_finished(results)
    session.rollback()
    assert session.scalars(sa.select(Workflow.id_)).all() == [held]
    require_finished(prune(session_factory, choose_rules(["workflow"], older_than=NOW)))
    session.rollback()
    assert session.scalars(sa.select(Workflow.id_)).all() == []


def test_each_table_that_lost_rows_leaves_one_audit_row(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    for _ in range(3):
        make_life(session, "deleted")
    prune(session_factory, choose_rules(older_than=NOW), dry_run=True)
    prune(session_factory)
    assert retention_runs(session) == []
    results = prune(session_factory, choose_rules(older_than=timedelta(seconds=0), batch=1))
    workflows, events = retention_runs(session)
    assert (events["table"], events["rows"]) == ("row_event", 12)
    assert workflows == {
        "table": "workflow",
        "rows": 3,
        "with_them": {table: rows for table, rows in results[0].with_them.items() if rows},
        "older_than_seconds": 0,
    }


def test_an_error_half_way_leaves_the_audit_row_of_what_went(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    for status in ("deleted", "deleted", "finished", "finished"):
        make_life(session, status)

    def end(table: str, rows: int) -> None:
        raise KeyboardInterrupt

    for table in ("workflow", "log_chunk"):
        with pytest.raises(KeyboardInterrupt):
            prune(session_factory, choose_rules([table], older_than=NOW, batch=1), progress=end)
    assert [(run["table"], run["rows"]) for run in retention_runs(session)] == [
        ("workflow", 1),
        ("log_chunk", 1),
    ]


def retention_runs(session: Session) -> list[dict]:
    query = sa.select(AuditLog).where(AuditLog.action == "apply_retention").order_by(AuditLog.created)
    rows = session.scalars(query).all()
    session.rollback()
    assert {row.user_id for row in rows} <= {NOBODY}
    return [row.details for row in rows]


@pytest.mark.parametrize("table", ["audit_sealed", "user_token"])
def test_what_leaves_audit_rows_of_its_own_has_no_rule(table: str) -> None:
    with pytest.raises(errors.PlatformDBError, match=f"no rule for {table}"):
        choose_rules([table])


@pytest.mark.parametrize(
    "table",
    [*(rule.table for rule in RULES if rule.table != "log_chunk"), "audit_sealed", "audit_seal_digests"],
)
def test_the_space_of_what_is_pruned_is_used_again_soon(session: Session, table: str) -> None:
    options = session.scalar(
        sa.text("SELECT reloptions FROM pg_class WHERE oid = CAST(:table AS regclass)"),
        {"table": f"platform.{table}"},
    )
    assert "autovacuum_vacuum_scale_factor=0.02" in (options or []), "20 % of it are dead before"


FILL_LOGS = """
    INSERT INTO platform.log_chunk (owner_id, workflow_id, number, at, data, transaction_id)
    SELECT owner_id, id_, n, now(), 'x', 0 FROM platform.workflow CROSS JOIN generate_series(1, 10) AS n
"""
FINISH_HALF = """
    UPDATE platform.workflow SET status = 'finished', run_finished_at = now() WHERE run_number_major > 5000
"""


def test_looking_for_what_is_due_uses_indexes(session: Session) -> None:
    from platform_db.retention import prune_log
    from platform_db.retention.clear_months import ALL
    from platform_db.retention.family import Family
    from platform_db.retention.prune import _lock, _look

    fill(session, 10_000)
    session.execute(sa.text("SET LOCAL session_replication_role = replica"))
    session.execute(sa.text(FINISH_HALF))
    session.execute(sa.text(FILL_LOGS))
    session.commit()
    session.execute(sa.text("ANALYZE"))
    (runs,), (logs,) = choose_rules(["workflow"]), choose_rules(["log_chunk"])
    keys = session.execute(sa.select(Workflow.owner_id, Workflow.id_).limit(20)).all()
    members = {member.table: member for member in Family.of("workflow").members}

    def plan(statement: sa.TextClause) -> str:
        parameters = {
            "age": NOW,
            "hold": NOW,
            "after": str(uuid.UUID(int=0)),
            "look": 100,
            "owners": sorted({str(owner_id) for owner_id, _ in keys}),
            "ids": [str(id_) for _, id_ in keys],
            "batch": 100,
            **ALL,
        }
        return "\n".join(session.execute(sa.text(f"EXPLAIN {statement.text}"), parameters).scalars())

    assert "ix_workflow_deleted" in plan(_look(runs))
    assert "ix_workflow_deleted" in plan(_lock(runs))
    for statement in (members["job"].lock(), members["job"].delete(), members["job"].select()):
        assert "ix_job_owner_id_workflow_id" in plan(statement)
    assert "pk_status_change" in plan(members["status_change"].select())
    session.execute(sa.text("SET LOCAL enable_seqscan = off"))  # For so few chunks, it might be quicker.
    by_run = re.compile(r"\b(pk_log_chunk|ix_log_chunk_owner_id_workflow_id_transaction_id)\b")
    assert by_run.search(plan(members["log_chunk"].select()))
    for statement in (prune_log._look(logs), prune_log._take(logs), prune_log._count(logs)):
        assert by_run.search(plan(statement))


FILL = """
    INSERT INTO platform.workflow
        (id_, owner_id, name, type_, status, workspace_path, run_number_major, run_number_minor, created,
         updated)
    SELECT gen_random_uuid(), CAST(:owner AS uuid), 'old', 'serial', 'deleted', '/x', n, 0,
           now() - interval '1 year', now() - interval '1 year'
    FROM generate_series(1, :count) AS n
"""
FILL_CHANGES = """
    INSERT INTO platform.status_change
        (owner_id, entity_id, revision, entity, from_status, to_status, number, at, transaction_id)
    SELECT owner_id, id_, n, 'workflow', 'created', 'deleted', n, now(), 0
    FROM platform.workflow CROSS JOIN generate_series(1, 2) AS n WHERE name = 'old'
"""
FILL_JOBS = """
    INSERT INTO platform.job
        (id_, owner_id, workflow_id, status, started_at, finished_at, created, updated)
    SELECT gen_random_uuid(), owner_id, id_, 'finished', now(), now(), now(), now()
    FROM platform.workflow WHERE name = 'old'
"""


def fill(session: Session, count: int) -> None:
    """Store so many deleted runs, each with a job and two status changes."""
    owner = str(make_user(session).id_)
    session.execute(sa.text("SET LOCAL session_replication_role = replica"))
    session.execute(sa.text(FILL), {"owner": owner, "count": count})
    session.execute(sa.text(FILL_CHANGES))
    session.execute(sa.text(FILL_JOBS))
    session.commit()
    session.execute(sa.text("ANALYZE"))
    session.commit()


def prune_all(uri: str) -> None:
    engine = database.create_engine(uri)
    require_finished(prune(lambda: PlatformSession(engine), choose_rules(["workflow"])))


@pytest.mark.parametrize("rows", [4_000, pytest.param(1_000_000, marks=pytest.mark.soak)])
def test_a_load_goes_on_and_a_killed_run_is_completed_by_the_next(
    session: Session, session_factory: sessionmaker[Session], database_uri: str, rows: int
) -> None:
    fill(session, rows // 4)
    owner = make_user(session)
    session.refresh(owner)
    session.expunge(owner)  # The load's sessions read it, each in a thread of its own.
    stop, waits, failures = threading.Event(), [], []

    def load() -> None:
        try:
            with session_factory() as worker:
                worker.execute(sa.text("SET lock_timeout = '1s'"))
                worker.commit()
                while not stop.is_set():
                    begun = time.monotonic()
                    run = make_run(worker, owner, name="live")
                    for status in (
                        RunStatus.queued,
                        RunStatus.pending,
                        RunStatus.running,
                        RunStatus.finished,
                    ):
                        transition(worker, run, status)
                        append_log(worker, run, "line\n")
                        worker.commit()
                    transition(worker, run, "deleted")
                    worker.commit()
                    waits.append(time.monotonic() - begun)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    first = FORKING.Process(target=prune_all, args=(database_uri,))
    first.start()
    old = sa.select(sa.func.count()).select_from(Workflow).where(Workflow.name == "old")
    give_up_at = time.monotonic() + 600
    while (session.scalar(old) or 0) > rows // 8 and time.monotonic() < give_up_at:
        session.commit()
        time.sleep(0.01)
    os.kill(first.pid or 0, signal.SIGKILL)
    first.join()
    session.commit()
    assert 0 < session.scalar(old) < rows // 4
    assert session.scalar(sa.text(ORPHANS)) == 0
    session.commit()
    second = FORKING.Process(target=prune_all, args=(database_uri,))
    second.start()
    second.join()
    stop.set()
    for thread in threads:
        thread.join()
    assert second.exitcode == 0
    assert failures == []
    assert waits
    assert session.scalar(old) == 0
    assert session.scalar(sa.text(ORPHANS)) == 0
    assert session.scalar(sa.select(sa.func.count()).select_from(Workflow)) == len(waits)
