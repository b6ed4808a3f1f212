"""Leases: the dead are recovered once, the living never."""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from platform_db import database, errors, leases
from platform_db.database.session import PlatformSession
from platform_db.identifiers import new_id
from platform_db.leases import Policy, heartbeat, recover, recover_owned_by, release
from platform_db.lifecycle.history import history
from platform_db.lifecycle.transitions import override_guard, transition
from platform_db.models import Lease, RunStatus, StatusChange, User, Workflow
from tests.factories import make_guarded, make_run, make_user
from tests.processes import FORKING

NOW = timedelta(0)
LONG = timedelta(hours=1)


def make_running(session: Session, owner: User, count: int) -> list[Workflow]:
    return [make_run(session, owner, name=f"run-{uuid.uuid4()}", status="running") for _ in range(count)]


def test_a_dead_workers_runs_fail_with_a_reason(session: Session) -> None:
    run, other = make_running(session, make_user(session), 2)
    assert heartbeat(session, [run], holder="n1/7") == {run.id_}
    session.commit()
    assert recover(session, LONG).by_status == {}
    recovery = recover(session, NOW)
    session.commit()
    assert (recovery.ids, recovery.by_status) == ([run.id_], {"failed": 1})
    assert (run.status, other.status) == (RunStatus.failed, RunStatus.running)
    assert "its worker n1/7 died" in (history(session, run).rows[-1].reason or "")
    assert recover(session, NOW).ids == []
    assert heartbeat(session, [run], holder="n1/7") == set()


def test_a_heartbeat_from_before_the_clock_was_set_back_is_of_a_dead_worker(session: Session) -> None:
    runs = make_running(session, make_user(session), 2)
    heartbeat(session, runs)
    ahead = sa.case((Lease.entity_id == runs[0].id_, timedelta(days=365)), else_=timedelta(seconds=30))
    session.execute(sa.update(Lease).values(heartbeat_at=Lease.heartbeat_at + ahead))
    session.commit()
    assert recover(session, LONG).ids == [runs[0].id_]


def test_the_policies_are_named_where_one_is_unknown(session: Session) -> None:
    with pytest.raises(errors.InvalidArgument, match="'' is no policy for a workflow; choose from fail, req"):
        recover(session, LONG, {"workflow": ""})


@pytest.mark.parametrize("entity", ["job", "interactive_session", "service"])
def test_all_kinds_of_running_rows_can_be_held(session: Session, entity: str) -> None:
    row = make_guarded(session, make_user(session), entity, "running")
    assert heartbeat(session, [row]) == {row.id_}
    assert recover(session, NOW, {entity: "nothing"}).left[entity] == 1
    assert dict(recover(session, NOW).counts) == {entity: {"failed": 1}}


def test_one_heartbeat_holds_rows_of_all_kinds(session: Session) -> None:
    owner = make_user(session)
    kinds = ("workflow", "job", "interactive_session", "service")
    rows = [make_guarded(session, owner, entity, "running") for entity in kinds]
    assert heartbeat(session, rows) == {row.id_ for row in rows}


def test_a_lease_is_its_holders(session: Session) -> None:
    (run,) = make_running(session, make_user(session), 1)
    assert heartbeat(session, [run], holder="a") == {run.id_}
    assert heartbeat(session, [run], holder="b") == set()
    release(session, [run], holder="b")
    assert heartbeat(session, [run], holder="b") == set()
    assert heartbeat(session, [run], holder="a") == {run.id_}
    release(session, [run], holder="a")
    assert heartbeat(session, [run], holder="b") == {run.id_}


def test_a_run_that_is_started_again_gets_a_new_holder(session: Session) -> None:
    run, other = make_running(session, make_user(session), 2)
    heartbeat(session, [run, other], holder="a")
    transition(session, run, "finished")
    session.commit()
    assert heartbeat(session, [run], holder="a") == set()
    transition(session, run, "running")
    session.commit()
    assert heartbeat(session, [run, other], holder="b") == {run.id_}
    assert heartbeat(session, [run, other], holder="a") == {other.id_}


def test_a_run_that_is_started_again_is_not_recovered_for_its_former_holder(session: Session) -> None:
    (run,) = make_running(session, make_user(session), 1)
    heartbeat(session, [run], holder="n1")
    transition(session, run, "finished")
    session.commit()
    transition(session, run, "running")
    session.commit()
    # Its new worker has not beaten yet.
    assert recover(session, NOW).ids == []
    assert recover_owned_by(session, "n1") == {}
    assert run.status is RunStatus.running


@pytest.mark.parametrize("entity", ["job", "interactive_session", "service"])
def test_what_an_operator_brings_back_to_life_is_not_recovered_for_its_former_holder(
    session: Session, entity: str
) -> None:
    row = make_guarded(session, make_user(session), entity, "running")
    heartbeat(session, [row])
    transition(session, row, "failed")
    with override_guard(session, reason="it failed by mistake"):
        transition(session, row, "running")
    assert recover(session, NOW).ids == []


def test_starting_a_run_does_not_cost_its_holder_the_lease(session: Session) -> None:
    run = make_run(session, make_user(session), status="pending")
    assert heartbeat(session, [run], holder="a") == {run.id_}
    transition(session, run, "running")
    session.commit()
    assert heartbeat(session, [run], holder="b") == set()
    assert heartbeat(session, [run], holder="a") == {run.id_}


def test_what_was_not_started_yet_goes_back_to_the_queue_and_has_no_holder(session: Session) -> None:
    run = make_run(session, make_user(session), status="pending")
    heartbeat(session, [run], holder="n1/7")
    session.commit()
    assert recover(session, LONG).ids == []
    assert recover(session, NOW).by_status == {"queued": 1}
    session.commit()
    assert (run.status, session.scalars(sa.select(Lease)).all()) == (RunStatus.queued, [])
    assert "its worker n1/7 died" in (history(session, run).rows[-1].reason or "")


def test_a_requeued_run_goes_on_as_a_restart_but_not_for_ever(session: Session) -> None:
    owner = make_user(session)
    run = make_run(session, owner, name="a", status="running", specification={"steps": 1})
    for restart in range(1, 5):
        heartbeat(session, [run])
        session.commit()
        recovery = recover(session, NOW, {"workflow": "requeue"})
        session.commit()
        assert run.status is RunStatus.failed
        if restart == 4:
            break
        assert recovery.by_status == {"failed": 1, "queued": 1}
        new = session.scalars(sa.select(Workflow).where(Workflow.status == "queued")).one()
        assert (new.run_number, new.workspace_path) == (f"1.{restart}", run.workspace_path)
        assert new.specification == {"steps": 1}
        transition(session, new, "pending")
        transition(session, new, "running")
        run = new
    assert recovery.by_status == {"failed": 1}
    assert "restarted as often as allowed" in (history(session, run).rows[-1].message or "")


def test_a_run_that_cannot_be_restarted_fails_and_keeps_nobody_from_being_recovered(session: Session) -> None:
    bad, good = make_running(session, make_user(session), 2)
    heartbeat(session, [bad, good])
    session.execute(sa.text("DELETE FROM platform.run_counter WHERE name = :name"), {"name": bad.name})
    session.commit()
    assert recover(session, NOW, {"workflow": "requeue"}).by_status == {"failed": 2, "queued": 1}
    session.commit()
    assert (bad.status, good.status) == (RunStatus.failed, RunStatus.failed)
    (restarted,) = session.scalars(sa.select(Workflow).where(Workflow.status == "queued"))
    assert restarted.name == good.name
    message = history(session, bad).rows[-1].message or ""
    assert message == f"could not be restarted: there is no run 1 of '{bad.name}' to restart"


def test_policies_that_make_no_sense_are_refused(session: Session) -> None:
    for policies in (
        {"service": "requeue"},
        {"workflow": "explode"},
        {"user_token": "fail"},
        {"job:daemon": "fail"},
    ):
        with pytest.raises(errors.PlatformDBError):
            recover(session, NOW, policies)


@pytest.mark.parametrize("policy", [Policy.requeue, "requeue"])
def test_a_policy_for_other_rows_is_told_by_its_name(session: Session, policy: Policy | str) -> None:
    told = "'requeue' is no policy for a service; choose from fail, nothing"
    with pytest.raises(errors.InvalidArgument, match=f"^{told}$"):
        recover(session, NOW, {"service": policy})


def test_a_node_recovers_its_own_at_its_start(session: Session) -> None:
    owner = make_user(session)
    first, second, other = make_running(session, owner, 3)
    heartbeat(session, [first], holder="n1")
    heartbeat(session, [second], holder="n1/12")
    heartbeat(session, [other], holder="n11/12")
    session.commit()
    assert recover_owned_by(session, "n1") == {"failed": 2}
    assert recover_owned_by(session, "n1") == {}
    assert other.status is RunStatus.running


def test_as_many_are_recovered_at_once_as_is_asked_for(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = make_running(session, make_user(session), 7)
    heartbeat(session, runs, holder="n1")
    session.commit()
    assert len(recover(session, NOW, batch=2).ids) == 2
    monkeypatch.setattr(leases.recovery, "BATCH", 2)
    assert recover_owned_by(session, "n1") == {"failed": 5}


def test_what_has_ended_loses_its_lease_and_nothing_else(session: Session) -> None:
    (run,) = make_running(session, make_user(session), 1)
    heartbeat(session, [run])
    transition(session, run, "finished")
    session.commit()
    assert recover(session, NOW).by_status == {}
    assert session.scalars(sa.select(Lease)).all() == []
    assert run.status is RunStatus.finished


def test_whoever_is_at_work_is_not_waited_for_and_not_recovered(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    beating, ending = make_running(session, make_user(session), 2)
    heartbeat(session, [beating, ending], holder="w")
    session.commit()
    with session_factory() as worker, session_factory() as finisher:
        heartbeat(worker, [worker.get_one(Workflow, beating.id_)], holder="w")
        transition(finisher, ending.id_, "finished", model=Workflow)
        session.execute(sa.text("SET LOCAL lock_timeout = '500ms'"))
        assert recover(session, NOW).ids == []
        session.commit()
        worker.commit()
        finisher.commit()
    assert ending.status is RunStatus.finished


def test_a_lease_that_is_being_recovered_is_lost_to_its_holder(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    (run,) = make_running(session, make_user(session), 1)
    heartbeat(session, [run], holder="w")
    session.commit()
    held: list[set[uuid.UUID]] = []

    def beat() -> None:
        with session_factory() as worker:
            held.append(heartbeat(worker, [worker.get_one(Workflow, run_id)], holder="w"))
            worker.commit()

    run_id = run.id_
    assert recover(session, NOW).ids == [run_id]
    thread = threading.Thread(target=beat)
    thread.start()
    time.sleep(0.2)
    session.commit()
    thread.join()
    assert held == [set()]
    assert session.scalars(sa.select(Lease)).all() == []


def test_leases_are_locked_in_key_order(session: Session, session_factory: sessionmaker[Session]) -> None:
    owner = make_user(session)
    ids = sorted(new_id() for _ in range(3))
    for id_ in reversed(ids):  # so that they stand in the tables in the other order
        heartbeat(session, [make_run(session, owner, id_=id_, status="running")], holder="w")
    session.commit()
    lock = sa.select(Lease).with_for_update()

    def beat() -> None:
        with session_factory() as worker:
            # Whatever the plan: with these, rows would come as they stand in the table.
            for plan in ("indexscan", "nestloop", "mergejoin"):
                worker.execute(sa.text(f"SET LOCAL enable_{plan} = off"))
            heartbeat(worker, [worker.get_one(Workflow, id_) for id_ in ids], holder="w")
            worker.commit()

    session.execute(lock.where(Lease.entity_id == ids[0]))
    thread = threading.Thread(target=beat)
    thread.start()
    try:
        time.sleep(0.3)
        # Who waits for the first holds none of the others, which somebody else may be waiting with.
        others = lock.where(Lease.entity_id != ids[0]).with_for_update(nowait=True)
        with session_factory() as other:
            assert len(other.scalars(others).all()) == 2
    finally:
        session.commit()
        thread.join()


def test_heartbeats_do_not_touch_indexes(session: Session) -> None:
    runs = make_running(session, make_user(session), 10)
    for _ in range(50):
        heartbeat(session, runs)
        session.commit()
    session.execute(sa.text("SELECT pg_stat_force_next_flush()"))
    session.commit()
    updates, hot = session.execute(
        sa.text("SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'lease'")
    ).one()
    assert updates == 490
    assert hot >= 0.8 * updates  # Others on the server may hold up the cleaning of a page now and then.


def work(uri: str, run_ids: list[str], holder: str, beats) -> None:
    """Beat for the runs until killed."""
    engine = database.create_engine(uri)
    with PlatformSession(engine) as session:
        runs = [session.get_one(Workflow, uuid.UUID(run_id)) for run_id in run_ids]
        while True:
            heartbeat(session, runs, holder)
            session.commit()
            beats.release()
            time.sleep(0.05)


@pytest.mark.parametrize("rounds", [2, pytest.param(50, marks=pytest.mark.soak)])
def test_the_runs_of_killed_workers_are_recovered_once_and_those_of_the_living_never(
    session: Session, session_factory: sessionmaker[Session], database_uri: str, rounds: int
) -> None:
    age = timedelta(seconds=2)
    owner = make_user(session)
    stop = threading.Event()
    recovered: list[uuid.UUID] = []

    def keep_recovering() -> None:
        while not stop.is_set():
            with session_factory() as recovering:
                ids = recover(recovering, age).ids
                recovering.commit()
                recovered.extend(ids)
            time.sleep(0.02)

    recoverers = [threading.Thread(target=keep_recovering) for _ in range(3)]
    live = [run.id_ for run in make_running(session, owner, 3)]
    beats = FORKING.Semaphore(0)
    living = FORKING.Process(target=work, args=(database_uri, list(map(str, live)), "living/1", beats))
    living.start()
    beats.acquire(timeout=60)
    for thread in recoverers:
        thread.start()
    dead: list[uuid.UUID] = []
    try:
        for number in range(rounds):
            runs = [run.id_ for run in make_running(session, owner, 3)]
            beats = FORKING.Semaphore(0)
            worker = FORKING.Process(
                target=work, args=(database_uri, list(map(str, runs)), f"dying/{number}", beats)
            )
            worker.start()
            assert beats.acquire(timeout=60)
            os.kill(worker.pid or 0, signal.SIGKILL)
            worker.join()
            dead += runs
        give_up_at = time.monotonic() + 30
        while len(set(recovered)) < len(dead) and time.monotonic() < give_up_at:
            time.sleep(0.1)
    finally:
        stop.set()
        for thread in recoverers:
            thread.join()
        living.kill()
        living.join()
    assert sorted(recovered) == sorted(dead)
    session.expire_all()
    assert {session.get_one(Workflow, id_).status for id_ in live} == {RunStatus.running}
    changes = session.scalars(sa.select(StatusChange.entity_id)).all()
    assert sorted(changes) == sorted(dead)
