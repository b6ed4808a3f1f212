"""Stopping: what waits stops at once, what runs is asked, its worker is told, and recovery sees to it."""

from __future__ import annotations

import threading
import time
import uuid
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from platform_db import database, errors, quota
from platform_db.database.session import PlatformSession
from platform_db.identifiers import new_id
from platform_db.leases import heartbeat, recover, recover_owned_by
from platform_db.lifecycle import history, set_actor, transition
from platform_db.models import Job, JobStatus, Lease, RunStatus, User, Workflow, WorkflowResource
from platform_db.workflows import cancel, cancel_workflows, update_workflow_status
from tests.factories import make_guarded, make_run, make_user
from tests.locks import wait_for_a_lock
from tests.processes import in_processes

NOW = timedelta(0)
LONG = timedelta(hours=1)


@pytest.fixture
def owner(session: Session) -> User:
    return make_user(session)


def make_job(session: Session, run: Workflow, status: str = "running", **values: object) -> Job:
    job = Job(workflow_id=run.id_, status=status, **values)
    session.add(job)
    session.commit()
    return job


def reasons(session: Session, row: Workflow | Job) -> list[tuple[str | None, str | None]]:
    """Return the last entry's status or topic, and why."""
    return [(e.to_status or e.topic, e.reason or e.message) for e in history(session, row).rows]


@pytest.mark.parametrize("status", ["created", "queued", "pending"])
def test_a_run_that_waits_stops_at_once_with_its_jobs(session: Session, owner: User, status: str) -> None:
    run = make_run(session, owner, status=status)
    waiting, done = make_job(session, run, "queued"), make_job(session, run, "finished")
    assert cancel(session, run, reason="wrong input") is RunStatus.stopped
    session.commit()
    assert (run.status, run.stop_requested_at) == (RunStatus.stopped, None)
    assert (waiting.status, done.status) == (JobStatus.stopped, JobStatus.finished)
    assert reasons(session, run)[0] == ("stopped", "wrong input")
    assert reasons(session, waiting) == [("stopped", "wrong input")]


def test_a_running_run_is_asked_and_its_worker_told_by_its_next_heartbeat(
    session: Session, owner: User
) -> None:
    run, other = make_run(session, owner, status="running"), make_run(session, owner, status="running")
    job = make_job(session, run)
    assert heartbeat(session, [run, other, job]).stop_requested == set()
    assert cancel(session, run, reason="wrong input") is RunStatus.running
    session.commit()
    assert (run.status, job.status) == (RunStatus.running, JobStatus.running)
    held = heartbeat(session, [run, other, job])
    assert (held, held.stop_requested) == ({run.id_, other.id_, job.id_}, {run.id_, job.id_})
    assert reasons(session, run) == [("stop", "asked to stop: wrong input")]
    assert cancel(session, run, force=True, reason="stopped by its worker") is RunStatus.stopped
    assert (run.status, job.status) == (RunStatus.stopped, JobStatus.stopped)
    assert heartbeat(session, [run, other, job]) == {other.id_}


def test_the_first_request_stays_and_says_who_asked(session: Session, owner: User) -> None:
    run = make_run(session, owner, status="running")
    set_actor(session, "ada")
    cancel(session, run, reason="wrong input")
    session.commit()
    first = run.stop_requested_at
    assert first is not None
    assert cancel(session, run.id_, reason="again") is RunStatus.running
    session.commit()
    assert run.stop_requested_at == first
    (note,) = history(session, run).rows
    assert (note.topic, note.message, note.details) == (
        "stop",
        "asked to stop: wrong input",
        {"actor": "ada"},
    )


def test_a_request_is_for_the_life_in_which_it_came(session: Session, owner: User) -> None:
    run = make_run(session, owner, status="running")
    cancel(session, run)
    transition(session, run, "finished")  # it was done before it could stop
    transition(session, run, "running")
    session.commit()
    assert heartbeat(session, [run]).stop_requested == set()
    assert recover(session, LONG, grace=NOW).ids == []
    cancel(session, run)
    assert heartbeat(session, [run]).stop_requested == {run.id_}


@pytest.mark.parametrize("status", ["finished", "failed", "deleted"])
def test_what_has_ended_otherwise_is_refused(session: Session, owner: User, status: str) -> None:
    run = make_run(session, owner, status=status)
    with pytest.raises(errors.InvalidTransition, match=f"cannot go from {status} to stopped"):
        cancel(session, run)
    assert run.status == status


def test_a_run_that_stopped_before_stays_so(session: Session, owner: User) -> None:
    run = make_run(session, owner, status="queued")
    assert [cancel(session, run) for _ in range(2)] == [RunStatus.stopped] * 2
    assert run.revision == 1


def test_a_run_that_is_not_there_cannot_be_cancelled(session: Session) -> None:
    with pytest.raises(errors.WorkflowNotFound):
        cancel(session, new_id())


def test_many_are_cancelled_each_with_a_result(session: Session, owner: User) -> None:
    statuses = ("queued", "running", "finished", "stopped")
    runs = [make_run(session, owner, status=status) for status in statuses]
    foreign = make_run(session, make_user(session, email="eve@example.org"), status="running")
    nowhere = new_id()
    asked = [*runs, foreign, nowhere, str(runs[0].id_)]
    results = cancel_workflows(session, asked, owner=owner, reason="maintenance")
    session.commit()
    assert [result.status for result in results] == [
        "stopped", "running", "finished", "stopped", None, None, "stopped"
    ]  # fmt: skip
    assert [result.changed for result in results] == [True, False, False, False, False, False, True]
    assert [type(result.refusal) for result in results] == [
        type(None),
        type(None),
        errors.InvalidTransition,
        type(None),
        errors.WorkflowNotFound,
        errors.WorkflowNotFound,
        type(None),
    ]
    assert (runs[1].stop_requested_at is None, foreign.stop_requested_at) == (False, None)
    assert cancel_workflows(session, []) == []


def test_runs_of_many_owners_are_cancelled_by_their_ids(session: Session, owner: User) -> None:
    others = make_user(session, email="eve@example.org")
    runs = [make_run(session, user, status="queued") for user in (owner, others)]
    results = cancel_workflows(session, [run.id_ for run in runs], force=True)
    assert [result.changed for result in results] == [True, True]


def test_what_stops_by_force_is_accounted_for(session: Session, owner: User) -> None:
    run = make_run(session, owner, status="running", run_started_at="2026-01-01T00:00:00Z")
    cancel(session, run, force=True)
    session.commit()
    used = session.scalar(
        sa.select(WorkflowResource.quota_used).where(WorkflowResource.workflow_id == run.id_)
    )
    assert used and used > 0


def test_the_workspace_of_a_run_that_waited_is_measured_again(session: Session, owner: User) -> None:
    waiting = make_run(session, owner, status="queued")
    disk = quota.get_default_quota_resource(session, "disk")
    figure = WorkflowResource(workflow_id=waiting.id_, resource_id=disk.id_, quota_used=1)
    session.add(figure)
    session.commit()
    assert not figure.stale
    cancel(session, waiting)
    assert figure.stale


def test_the_jobs_of_a_run_follow_where_its_worker_sets_its_status(session: Session, owner: User) -> None:
    run = make_run(session, owner, status="running")
    job = make_job(session, run)
    update_workflow_status(session, run, RunStatus.stopped, message="asked for")
    assert (job.status, reasons(session, job)) == (JobStatus.stopped, [("stopped", "asked for")])


def test_what_does_not_stop_within_its_grace_time_is_stopped_by_recovery(
    session: Session, owner: User
) -> None:
    run, other = make_run(session, owner, status="running"), make_run(session, owner, status="running")
    job = make_job(session, run)
    heartbeat(session, [run, other], holder="n1/7")
    cancel(session, run)
    session.commit()
    assert recover(session, LONG).ids == []  # By default it may take as long as a worker may be silent.
    recovery = recover(session, LONG, grace=NOW)
    session.commit()
    assert recovery.counts == {"workflow": {"stopped": 1}, "job": {"stopped": 1}}
    assert (run.status, job.status, other.status) == (
        RunStatus.stopped,
        JobStatus.stopped,
        RunStatus.running,
    )
    assert "asked to stop at" in (history(session, run, level="workflow").rows[-1].reason or "")
    assert heartbeat(session, [run, other], holder="n1/7") == {other.id_}
    assert recover(session, LONG, grace=NOW).ids == []


@pytest.mark.parametrize("status", ["stopped", "failed", "finished", "deleted"])
def test_a_job_that_is_left_of_a_run_that_has_ended_is_stopped_by_recovery(
    session: Session, owner: User, status: str
) -> None:
    run = make_run(session, owner, status="created" if status == "deleted" else "running")
    job = make_job(session, run)
    other = make_job(session, make_run(session, owner, status="running"))
    assert heartbeat(session, [job]).stop_requested == set()
    transition(session, run, status)  # by psql, say
    session.commit()
    assert heartbeat(session, [job]).stop_requested == {job.id_}
    assert recover(session, LONG).ids == []
    assert recover(session, LONG, grace=NOW).ids == [job.id_]
    assert (job.status, other.status) == (JobStatus.stopped, JobStatus.running)
    assert reasons(session, job) == [("stopped", "its run has ended")]


def test_jobs_are_stopped_a_batch_at_a_time(session: Session, owner: User) -> None:
    jobs = []
    for _ in range(3):
        run = make_run(session, owner, status="running")
        jobs += [make_job(session, run) for _ in range(2)]
        transition(session, run, "failed")
    session.commit()
    found = [recover(session, NOW, batch=4).ids for _ in range(3)]
    assert [len(ids) for ids in found] == [4, 2, 0]
    assert {id_ for ids in found for id_ in ids} == {job.id_ for job in jobs}


@pytest.mark.parametrize("policy", ["fail", "requeue"])
def test_what_was_asked_to_stop_is_neither_failed_nor_restarted_for_its_dead_worker(
    session: Session, owner: User, policy: str
) -> None:
    run = make_run(session, owner, status="running")
    job, held = make_job(session, run), make_job(session, run)
    heartbeat(session, [run, held], holder="n1")
    cancel(session, run)
    session.commit()
    assert recover_owned_by(session, "n1", {"workflow": policy, "job": policy}) == {"stopped": 3}
    assert (run.status, job.status, held.status) == (RunStatus.stopped, JobStatus.stopped, JobStatus.stopped)
    assert session.scalars(sa.select(Workflow)).all() == [run]


def test_a_run_cancelled_while_pending_is_not_started_by_its_worker(
    session: Session, session_factory: sessionmaker[Session], owner: User
) -> None:
    run = make_run(session, owner, status="pending")
    heartbeat(session, [run])
    cancel(session, run)
    session.commit()
    with session_factory() as worker:
        assert heartbeat(worker, [worker.get_one(Workflow, run.id_)]) == set()
        with pytest.raises(errors.InvalidTransition, match="cannot go from stopped to running"):
            transition(worker, run.id_, "running", model=Workflow)


def test_a_job_that_another_transaction_writes_is_left_to_recovery(
    session: Session, session_factory: sessionmaker[Session], owner: User
) -> None:
    run = make_run(session, owner, status="pending")
    job, free = make_job(session, run, "queued"), make_job(session, run, "queued")
    with session_factory() as observer:
        transition(observer, job.id_, "running", model=Job)
        session.execute(sa.text("SET LOCAL lock_timeout = '500ms'"))
        assert cancel(session, run) is RunStatus.stopped
        session.commit()
        observer.commit()
    assert (job.status, free.status) == (JobStatus.running, JobStatus.stopped)
    assert recover(session, LONG, grace=NOW).ids == [job.id_]


@pytest.mark.parametrize(
    ("status", "worker_sets", "cancelled", "stored"),
    [
        ("queued", "pending", RunStatus.stopped, "stopped"),
        ("pending", "running", RunStatus.running, "running"),
        ("running", "finished", None, "finished"),
        ("running", "stopped", RunStatus.stopped, "stopped"),
    ],
)
def test_a_cancellation_waits_for_the_worker_and_decides_by_what_it_stored(
    session: Session,
    session_factory: sessionmaker[Session],
    owner: User,
    status: str,
    worker_sets: str,
    cancelled: RunStatus | None,
    stored: str,
) -> None:
    run = make_run(session, owner, status=status)
    answers: list[RunStatus | None] = []

    def cancel_it() -> None:
        with session_factory() as other:
            try:
                answers.append(cancel(other, run_id))
            except errors.InvalidTransition:
                answers.append(None)
            other.commit()

    run_id = run.id_
    transition(session, run, worker_sets)
    thread = threading.Thread(target=cancel_it)
    thread.start()
    wait_for_a_lock(session_factory)
    session.commit()
    thread.join()
    session.refresh(run)
    assert (answers, run.status) == ([cancelled], RunStatus(stored))
    assert (run.stop_requested_at is not None) == (cancelled is RunStatus.running)


STEPS = {"queued": "pending", "pending": "running", "running": "finished"}


def go_on(uri: str, ids: list[uuid.UUID], number: int) -> None:
    """Take each run from queued to its end, as a worker does, or cancel it, as people do."""
    engine = database.create_engine(uri)
    for id_ in ids:
        try:
            if number % 2:
                with PlatformSession(engine) as session, session.begin():
                    cancel(session, id_)
                continue
            for before, after in STEPS.items():
                with PlatformSession(engine) as session, session.begin():
                    transition(session, id_, after, model=Workflow, expected_status=before)
        except errors.Refused:
            continue
    engine.dispose()


@pytest.mark.parametrize("count", [30, pytest.param(400, marks=pytest.mark.soak)])
def test_workers_and_cancellations_that_race_leave_each_run_in_one_story(
    session: Session, database_uri: str, owner: User, count: int
) -> None:
    ids = [make_run(session, owner, status="queued").id_ for _ in range(count)]
    in_processes(4, go_on, database_uri, ids)
    for run in session.scalars(sa.select(Workflow).execution_options(populate_existing=True)):
        story = [entry.to_status for entry in history(session, run).rows if entry.kind == "status"]
        assert story in (
            ["stopped"],
            ["pending", "stopped"],
            ["pending", "running", "finished"],
        ), story
        assert (run.stop_requested_at is None) or story[-1] == "finished"


def test_two_recoveries_at_once_stop_each_run_once(
    session: Session, session_factory: sessionmaker[Session], owner: User
) -> None:
    runs = [make_run(session, owner, status="running") for _ in range(20)]
    jobs = [make_job(session, run) for run in runs]
    cancel_workflows(session, runs)
    session.commit()
    together, found = threading.Barrier(3), []

    def recover_them() -> None:
        with session_factory() as recovering:
            together.wait()
            recovery = recover(recovering, LONG, grace=NOW)
            time.sleep(0.1)
            recovering.commit()
            found.extend(recovery.ids)

    threads = [threading.Thread(target=recover_them) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(row.id_ for row in (*runs, *jobs))


def test_a_worker_that_stops_its_run_now_is_not_waited_for(
    session: Session, session_factory: sessionmaker[Session], owner: User
) -> None:
    run = make_run(session, owner, status="running")
    cancel(session, run)
    session.commit()
    with session_factory() as worker:
        transition(worker, run.id_, "stopped", model=Workflow, reason="as asked")
        session.execute(sa.text("SET LOCAL lock_timeout = '500ms'"))
        assert recover(session, LONG, grace=NOW).ids == []
        session.commit()
        worker.commit()
    assert reasons(session, run)[-1] == ("stopped", "as asked")


def test_a_heartbeat_needs_no_more_statements_than_kinds_of_rows(session: Session, owner: User) -> None:
    rows = [make_guarded(session, owner, entity, "running") for entity in ("workflow", "job", "service")]
    assert heartbeat(session, rows).stop_requested == set()
    assert session.scalar(sa.select(sa.func.count()).select_from(Lease)) == 3
