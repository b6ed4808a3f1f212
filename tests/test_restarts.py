"""Restarts: what has ended is queued again as a run of its own, and what could not be done waits longer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from platform_db import errors
from platform_db.identifiers import new_id
from platform_db.leases import heartbeat
from platform_db.lifecycle import history, restart, transition
from platform_db.models import Job, JobStatus, RunStatus, Workflow
from platform_db.queue import requeue
from platform_db.workflows import cancel, create_workflow
from tests.factories import make_run, make_user
from tests.locks import wait_for_a_lock


@pytest.fixture
def start(session: Session) -> Callable[..., Workflow]:
    """Return a function that stores a running run of a new user."""

    def start(**values: object) -> Workflow:
        return make_run(session, make_user(session), **{"status": "running", **values})

    return start


def notes(session: Session, run: Workflow) -> list[str | None]:
    return [entry.message for entry in history(session, run).rows if entry.kind == "note"]


def waits(session: Session, run: Workflow) -> float:
    """Return how many seconds the queue holds the run back, counted from its creation."""
    assert run.start_after is not None
    return (run.start_after - run.created).total_seconds()


def test_a_restart_is_a_new_queued_run_in_the_same_workspace(session: Session, start) -> None:
    run = start(specification={"steps": 2}, labels={"team": "a"}, priority=7, type_="daemon")
    transition(session, run, "failed")
    again = restart(session, run, reason="the disk was full")
    assert (again.run_number, again.status, run.status) == ("1.1", RunStatus.queued, RunStatus.failed)
    assert (again.restart, again.start_after, again.version) == (True, None, 1)
    for name in ("name", "specification", "labels", "priority", "type_", "workspace_path", "owner_id"):
        assert getattr(again, name) == getattr(run, name), name
    assert notes(session, run) == ["restarted as 1.1"]
    assert notes(session, again) == ["restarts 1: the disk was full"]
    details = [page.rows[-1].details for page in (history(session, run), history(session, again))]
    assert details == [{"restart": str(again.id_)}, {"run": str(run.id_)}]


def test_the_queue_holds_a_restart_back_as_long_as_is_asked(session: Session, start) -> None:
    run = start()
    transition(session, run, "stopped")
    again = restart(session, (run.owner_id, run.id_), delay=timedelta(minutes=2))
    assert waits(session, again) == pytest.approx(120, abs=5)


@pytest.mark.parametrize("status", ["created", "queued", "pending", "running", "deleted"])
def test_only_what_has_ended_is_restarted(session: Session, start, status: str) -> None:
    run = start(status=status)
    with pytest.raises(errors.Conflict, match=f"expected status .*finished.*, stored is {status}"):
        restart(session, run)
    assert session.scalars(sa.select(Workflow)).all() == [run]


def test_a_run_that_is_not_there_is_not_restarted(session: Session, start) -> None:
    with pytest.raises(errors.WorkflowNotFound):
        restart(session, (start().owner_id, new_id()))


def test_restarts_can_be_bounded(session: Session, start) -> None:
    run = start(status="failed")
    again = restart(session, run, most_restarts=1)
    transition(session, again, "failed")
    with pytest.raises(errors.Refused, match="as often as allowed"):
        restart(session, again, most_restarts=1)
    assert restart(session, again).run_number == "1.2"


def test_a_run_that_could_not_be_done_waits_longer_each_time_and_then_only_fails(
    session: Session, start
) -> None:
    run, waited = start(), []
    for _ in range(3):
        again = requeue(session, run, reason="no GPU", delay=10)
        session.commit()
        assert again is not None
        assert (run.status, again.status) == (RunStatus.failed, RunStatus.queued)
        waited.append(waits(session, again))
        transition(session, again, "pending")
        run = again
    assert waited == [pytest.approx(seconds, abs=5) for seconds in (10, 20, 40)]
    assert requeue(session, run, reason="no GPU") is None
    assert run.status is RunStatus.failed
    assert notes(session, run) == [
        "restarts 1.2: no GPU",
        "could not be restarted: it was restarted as often as allowed (3)",
    ]
    assert history(session, run, level="workflow").rows[-2].reason == "no GPU"


def test_no_attempt_waits_longer_than_the_longest_delay(session: Session, start) -> None:
    run = start(run_number="1.2000")
    again = requeue(session, run, reason="no GPU", most_restarts=5000, longest_delay=timedelta(minutes=5))
    assert again is not None
    assert waits(session, again) == pytest.approx(300, abs=5)


@pytest.mark.parametrize("status", ["queued", "finished", "failed", "stopped"])
def test_only_what_a_worker_holds_is_requeued(session: Session, start, status: str) -> None:
    with pytest.raises(errors.Conflict, match=f"expected status pending or running, stored is {status}"):
        requeue(session, start(status=status), reason="no GPU")


def test_of_two_that_requeue_a_run_one_is_refused(
    session: Session, session_factory: sessionmaker[Session], start
) -> None:
    run_id, together, ended = start().id_, threading.Barrier(4), []

    def give_back() -> None:
        with session_factory() as worker:
            together.wait()
            try:
                requeue(worker, run_id, reason="no GPU")
                worker.commit()
                ended.append("requeued")
            except errors.Conflict:
                ended.append("refused")

    threads = [threading.Thread(target=give_back) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ended) == ["refused", "refused", "refused", "requeued"]
    assert session.scalar(sa.select(sa.func.count()).select_from(Workflow)) == 2


def test_a_worker_that_has_lost_its_run_does_not_requeue_it(session: Session, start) -> None:
    run = start()
    heartbeat(session, [run], "n2/1")
    with pytest.raises(errors.Conflict, match="expected holder n1/1, stored is running"):
        requeue(session, run, reason="no GPU", worker="n1/1")
    assert run.status is RunStatus.running
    assert requeue(session, run, reason="no GPU", worker="n2/1") is not None


def test_a_run_that_was_asked_to_stop_is_not_requeued(session: Session, start) -> None:
    run = start()
    job = Job(workflow_id=run.id_, status="running")
    session.add(job)
    cancel(session, run, reason="wrong input")
    assert requeue(session, run, reason="no GPU") is None
    assert (run.status, job.status) == (RunStatus.stopped, JobStatus.stopped)
    assert session.scalar(sa.select(sa.func.count()).select_from(Workflow)) == 1


@pytest.mark.parametrize("status", ["running", "failed"])
def test_a_creator_may_then_write_the_run_that_is_restarted(
    session: Session, session_factory: sessionmaker[Session], start, status: str
) -> None:
    run, ended = start(status=status), []

    def restart_it() -> None:
        with session_factory() as worker:
            try:
                requeue(worker, run.id_, reason="no GPU") if status == "running" else restart(worker, run.id_)
            except errors.Conflict as conflict:
                ended.append(conflict.stored_status)

    restarting = threading.Thread(target=restart_it)
    with session_factory() as creator, creator.begin():
        create_workflow(creator, run.owner_id, "other", type_="serial")
        restarting.start()
        wait_for_a_lock(session_factory)
        transition(creator, run.id_, "stopped" if status == "running" else "deleted", model=Workflow)
    restarting.join()
    assert ended == ["stopped" if status == "running" else "deleted"]


def test_a_number_of_restarts_that_no_column_holds_is_refused(session: Session, start) -> None:
    for call in (restart, lambda *given, **named: requeue(*given, reason="no GPU", **named)):
        with pytest.raises(errors.InvalidArgument, match="number of restarts must be a number from 0"):
            call(session, start(status="failed"), most_restarts=2**31)
