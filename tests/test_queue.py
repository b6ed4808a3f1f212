"""The queue: owners take turns, limits hold, nothing is taken twice, and a run that waits says why."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session, sessionmaker

from platform_db import errors, quota, settings
from platform_db.audit import list_audit
from platform_db.leases import heartbeat, recover
from platform_db.lifecycle import transition
from platform_db.lifecycle.history import history
from platform_db.logs import append_log
from platform_db.models import (
    InteractiveSession,
    Job,
    Lease,
    OwnerLimit,
    Resource,
    RunStatus,
    User,
    Workflow,
    WorkflowResource,
)
from platform_db.queue import (
    UNLIMITED,
    Claim,
    Limits,
    claim,
    claiming,
    explain,
    finish,
    queue_status,
    release,
    requeue,
    set_limits,
)
from platform_db.tenancy import tenant_scope
from platform_db.tenancy.privileges import Role, role_name
from platform_db.workflows import cancel
from tests.factories import make_run, make_user
from tests.locks import wait_for_a_lock
from tests.processes import in_processes
from tests.test_plans import RUNS, USERS, plans_of

LONG_AGO = datetime(2020, 1, 1, tzinfo=timezone.utc)
FAR = datetime(2100, 1, 1, tzinfo=timezone.utc)


@pytest.fixture
def ada(session: Session) -> User:
    return make_user(session, email="ada@example.org")


@pytest.fixture
def bob(session: Session) -> User:
    return make_user(session, email="bob@example.org")


def enqueue(session: Session, owner: User, count: int = 1, **values: Any) -> list[Workflow]:
    """Store queued runs, the oldest first."""
    return [make_run(session, owner, status="queued", **values) for _ in range(count)]


def enqueue_jobs(session: Session, owner: User, count: int, **values: Any) -> list[Job]:
    run = make_run(session, owner, status="running")
    jobs = [Job(workflow_id=run.id_, status="queued", **values) for _ in range(count)]
    for job in jobs:
        session.add(job)
        session.commit()
    return jobs


def ids(rows: Iterable[Claim | Workflow | Job]) -> list[Any]:
    return [row.id_ for row in rows]


def obstacles(session: Session, run: Workflow) -> list[str]:
    return [obstacle.text for obstacle in explain(session, run).obstacles]


# -- whose turn it is


def test_a_claimed_run_is_pending_and_its_lease_is_the_workers(session: Session, ada: User) -> None:
    (run,) = enqueue(session, ada)
    (taken,) = claim(session, "n1/7", limit=10)
    assert taken == Claim(Workflow, ada.id_, run.id_, "analysis", "1", revision=1, worker="n1/7")
    assert (run.status, run.revision) == (RunStatus.pending, 1)
    assert session.get(taken.model, taken.key) is run
    session.commit()
    assert session.execute(sa.select(Lease.entity, Lease.entity_id, Lease.holder)).all() == [
        ("workflow", run.id_, "n1/7")
    ]
    assert heartbeat(session, [run], "n1/7") == {run.id_}
    session.commit()
    assert [entry.reason for entry in history(session, run).rows] == ["claimed by n1/7"]
    assert claim(session, "n2/1", limit=10) == []


def test_each_owner_gets_a_run_before_any_gets_a_second(session: Session, ada: User) -> None:
    enqueue(session, ada, 30)
    others = [make_user(session) for _ in range(5)]
    for other in others:
        enqueue(session, other, 2)
    first = Counter(c.owner_id for w in ("a", "b") for c in claim(session, w, limit=3))
    assert first == dict.fromkeys([ada.id_, *(other.id_ for other in others)], 1)
    second = Counter(c.owner_id for c in claim(session, "c", limit=6))
    assert second == first
    assert Counter(c.owner_id for c in claim(session, "d", limit=6)) == {ada.id_: 6}


def test_who_was_served_longest_ago_is_next(session: Session, ada: User, bob: User) -> None:
    for owner in (ada, bob, ada, bob):
        enqueue(session, owner)
    first = [claim(session, "w", limit=1)[0].owner_id for _ in range(2)]
    assert set(first) == {ada.id_, bob.id_}
    assert [claim(session, "w", limit=1)[0].owner_id for _ in range(2)] == first


def test_what_one_owner_does_not_use_others_get(session: Session, ada: User, bob: User) -> None:
    enqueue(session, ada, 20)
    enqueue(session, bob, 1)
    assert Counter(c.owner_id for c in claim(session, "w", limit=10)) == {ada.id_: 9, bob.id_: 1}


def test_within_an_owner_the_priority_decides_and_then_the_age(session: Session, ada: User) -> None:
    none, low, high, also_high = (
        enqueue(session, ada, priority=priority)[0] for priority in (None, -1, 5, 5)
    )
    taken = [claimed.id_ for _ in range(2) for claimed in claim(session, "w", limit=2)]
    assert taken == ids([high, also_high, low, none])


def test_a_run_that_waited_for_its_time_has_its_place_among_the_others(session: Session, ada: User) -> None:
    low, high = (enqueue(session, ada, priority=priority)[0] for priority in (1, 5))
    due, later = (enqueue(session, ada, priority=3, start_after=when)[0] for when in (LONG_AGO, FAR))
    (first_due,) = enqueue(session, ada, start_after=LONG_AGO + timedelta(days=1), priority=9)
    taken = [claimed.id_ for _ in range(2) for claimed in claim(session, "w", limit=2)]
    assert taken == ids([first_due, high, due, low])
    assert claim(session, "w", limit=9) == []
    assert [o.code for o in explain(session, later).obstacles] == ["start_after"]


def test_an_owner_whose_runs_all_wait_for_their_time_is_passed_over(
    session: Session, ada: User, bob: User
) -> None:
    enqueue(session, ada, 3, start_after=FAR)
    (run,) = enqueue(session, bob)
    assert ids(claim(session, "w", limit=2)) == [run.id_]
    assert (queue_status(session, ada)[0].queued, claim(session, "w", limit=2)) == (3, [])


def test_a_turn_from_before_the_clock_was_set_back_is_none(session: Session, ada: User, bob: User) -> None:
    enqueue(session, ada)
    enqueue(session, bob)
    ahead = sa.func.clock_timestamp() + timedelta(days=1)
    session.execute(sa.update(OwnerLimit).where(OwnerLimit.owner_id == ada.id_).values(served_at=ahead))
    session.execute(
        sa.update(OwnerLimit)
        .where(OwnerLimit.owner_id == bob.id_)
        .values(served_at=sa.func.clock_timestamp())
    )
    session.commit()
    assert [c.owner_id for c in claim(session, "w", limit=1)] == [ada.id_]


def test_a_run_waits_for_its_time(session: Session, ada: User) -> None:
    run, later = enqueue(session, ada, 2)
    run.start_after = datetime.now(timezone.utc) + timedelta(hours=1)
    session.commit()
    assert ids(claim(session, "w", limit=10)) == [later.id_]
    run.start_after = datetime.now(timezone.utc) - timedelta(seconds=1)
    session.commit()
    assert ids(claim(session, "w", limit=10)) == [run.id_]


def test_a_worker_takes_the_kinds_and_labels_that_it_can_run(session: Session, ada: User) -> None:
    serial = enqueue(session, ada, labels={"team": "a", "gpu": "a100"})[0]
    snakemake = enqueue(session, ada, type_="snakemake", labels={"team": "a"})[0]
    assert claim(session, "w", limit=9, kinds=["cwl"]) == claim(session, "w", limit=9, kinds=[]) == []
    assert claim(session, "w", limit=9, labels="team=b") == []
    assert claim(session, "w", limit=9, labels="gpu in (h100)") == []
    assert ids(claim(session, "w", limit=9, labels="team=a,!gpu", kinds=["serial", "snakemake"])) == [
        snakemake.id_
    ]
    assert ids(claim(session, "w", limit=9, labels="gpu in (a100, h100),team!=b")) == [serial.id_]


def test_owners_without_a_wanted_run_are_passed_over(session: Session, ada: User) -> None:
    for _ in range(80):  # more than one claim looks at for a single row
        enqueue(session, make_user(session), labels={"gpu": "a100"})
    (run,) = enqueue(session, ada)
    assert ids(claim(session, "w", limit=1, labels="!gpu")) == [run.id_]


# -- how much an owner may take


@pytest.fixture
def defaults(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Let a test set the default limits."""
    yield monkeypatch
    monkeypatch.undo()
    settings.reset_settings()


def set_default(defaults: pytest.MonkeyPatch, name: str, value: str) -> None:
    defaults.setenv(f"PLATFORM_DB_QUEUE_{name}", value)
    settings.reset_settings()


def test_no_owner_has_more_runs_at_once_than_the_limit(session: Session, ada: User, bob: User) -> None:
    enqueue(session, ada, 5)
    enqueue(session, bob, 5)
    set_limits(session, ada, concurrent_runs=2)
    taken = claim(session, "w", limit=10)
    assert Counter(c.owner_id for c in taken) == {ada.id_: 2, bob.id_: 5}
    of_ada = [c for c in taken if c.owner_id == ada.id_]
    transition(session, of_ada[0].key, "running", model=Workflow)
    assert claim(session, "w", limit=10) == []
    finish(session, of_ada[0], "finished", "w")
    assert [c.owner_id for c in claim(session, "w", limit=10)] == [ada.id_]


def test_an_owners_own_limit_wins_over_the_default(
    session: Session, ada: User, bob: User, defaults: pytest.MonkeyPatch
) -> None:
    enqueue(session, ada, 5)
    enqueue(session, bob, 5)
    set_default(defaults, "CONCURRENT_RUNS", "1")
    set_limits(session, ada, concurrent_runs=3)
    assert Counter(c.owner_id for c in claim(session, "w", limit=10)) == {ada.id_: 3, bob.id_: 1}
    set_default(defaults, "CONCURRENT_RUNS", "0")
    set_limits(session, ada, concurrent_runs=None)
    assert claim(session, "w", limit=10) == []


def test_starts_a_minute_are_a_bucket_that_fills_again(session: Session, ada: User) -> None:
    enqueue(session, ada, 20)
    set_limits(session, ada, starts_per_minute=6)
    assert len(claim(session, "w", limit=4)) == 4
    assert len(claim(session, "w", limit=4)) == 2
    assert claim(session, "w", limit=4) == []

    def pass_time(seconds: float) -> None:
        session.execute(
            sa.update(OwnerLimit).values(starts_until=OwnerLimit.starts_until - timedelta(seconds=seconds))
        )
        session.commit()

    pass_time(9)
    assert claim(session, "w", limit=4) == []
    pass_time(1)
    assert len(claim(session, "w", limit=4)) == 1
    pass_time(3600)
    assert len(claim(session, "w", limit=20)) == 6
    set_limits(session, ada, starts_per_minute=0)
    pass_time(3600)
    assert claim(session, "w", limit=1) == []
    assert obstacles(session, session.scalars(sa.select(Workflow).filter_by(status="queued")).first()) == [
        "its owner may start none"
    ]


def test_starts_from_before_the_clock_was_set_back_are_over(session: Session, ada: User) -> None:
    (run,) = enqueue(session, ada)
    set_limits(session, ada, starts_per_minute=1)
    session.execute(sa.update(OwnerLimit).values(starts_until=sa.func.now() + timedelta(days=9)))
    assert explain(session, run).is_next
    assert ids(claim(session, "w", limit=1)) == [run.id_]


def test_an_owner_over_a_hard_quota_waits(session: Session, ada: User, bob: User) -> None:
    enqueue(session, ada, 2)
    enqueue(session, bob)
    quota.set_limit(session, ada, "disk", 10)
    quota.commit_reservation(session, quota.reserve(session, ada, "disk", 0), 10)
    assert [c.owner_id for c in claim(session, "w", limit=10)] == [bob.id_]
    quota.set_limit(session, ada, "disk", 11)
    assert len(claim(session, "w", limit=10)) == 2


def test_an_owner_may_have_no_limit_against_a_default_that_is_set(
    session: Session, ada: User, bob: User, defaults: pytest.MonkeyPatch
) -> None:
    set_default(defaults, "CONCURRENT_RUNS", "1")
    set_default(defaults, "STARTS_PER_MINUTE", "1")
    for owner in (ada, bob):
        enqueue(session, owner, 5)
    set_limits(session, ada, concurrent_runs=UNLIMITED, starts_per_minute=UNLIMITED)
    session.commit()
    taken = [claimed.owner_id for _ in range(2) for claimed in claim(session, "w", limit=9)]
    assert Counter(taken) == {ada.id_: 5, bob.id_: 1}


def test_a_limit_is_set_alone_and_recorded(session: Session, ada: User, bob: User) -> None:
    assert set_limits(session, ada, concurrent_runs=2, starts_per_minute=60) == Limits(None, None)
    assert set_limits(session, ada.id_, starts_per_minute=None, actor=bob) == Limits(2, 60)
    assert set_limits(session, ada, concurrent_runs=2) == Limits(2, None)
    first, second = reversed(list_audit(session, action="set_queue_limits").rows)
    assert first.details == {
        "before": {"concurrent_runs": None, "starts_per_minute": None},
        "limits": {"concurrent_runs": 2, "starts_per_minute": 60},
    }
    assert (second.owner_id, second.actor_id) == (ada.id_, bob.id_)
    assert second.details is not None
    assert second.details["limits"] == {"concurrent_runs": 2, "starts_per_minute": None}
    for limit in (-1, 2**31, "3", 1.5, True):
        with pytest.raises(errors.InvalidArgument, match="concurrent runs must be a number from 0"):
            set_limits(session, ada, concurrent_runs=limit)  # type: ignore[arg-type]
    with pytest.raises(errors.UserNotFound):
        set_limits(session, InteractiveSession().id_, concurrent_runs=1)


# -- handing back


def test_what_is_released_is_at_its_old_place_again(session: Session, ada: User) -> None:
    first, second = enqueue(session, ada, 2)
    taken = claim(session, "w", limit=2)
    assert release(session, taken, "other") == set()
    transition(session, second, "running")
    assert release(session, [*taken, first], "w") == {first.id_}, "what has started stays"
    assert (first.status, second.status) == (RunStatus.queued, RunStatus.running)
    session.commit()
    assert session.scalars(sa.select(Lease.entity_id)).all() == [second.id_]
    assert history(session, first).rows[-1].reason == "released by w"
    assert ids(claim(session, "other", limit=2)) == [first.id_]
    assert release(session, [], "w") == set()


def test_the_holder_alone_says_how_a_run_ended(session: Session, ada: User) -> None:
    Resource.initialise_default_resources(session)
    (run,) = enqueue(session, ada)
    (taken,) = claim(session, "w", limit=1)
    transition(session, run, "running")
    session.commit()
    with pytest.raises(errors.Conflict, match="expected holder other, stored is running at revision 2"):
        finish(session, taken, "finished", "other")
    with pytest.raises(errors.InvalidArgument, match="nothing ends as pending; choose from deleted, fail"):
        finish(session, taken, "pending", "w")
    assert finish(session, run, "failed", "w", reason="out of memory") is RunStatus.failed
    assert (run.status, session.scalars(sa.select(Lease)).all()) == (RunStatus.failed, [])
    assert history(session, run).rows[-1].reason == "out of memory"
    assert session.scalars(sa.select(WorkflowResource)).one().measured_at is not None, "its time is counted"
    with pytest.raises(errors.Conflict, match="expected holder w"):
        finish(session, taken, "failed", "w")


def test_a_claim_stands_for_its_row_and_its_worker(session: Session, ada: User) -> None:
    enqueue(session, ada, 4)
    works, waits, asked, late = claim(session, "n7/1", limit=4)

    transition(session, works, "running", expected_revision=works.revision)
    append_log(session, works, "at work\n")
    transition(session, asked, "running")
    cancel(session, asked, reason="not needed")
    held = heartbeat(session, [works, waits, asked])

    assert (held, held.stop_requested) == ({works.id_, waits.id_, asked.id_}, {asked.id_})
    assert release(session, [waits]) == {waits.id_}
    assert requeue(session, late, reason="no GPU is free") is not None
    assert finish(session, asked, "stopped") is RunStatus.stopped
    assert finish(session, works, "finished") is RunStatus.finished
    assert session.get_one(works.model, works.key).logs == "at work\n"
    assert heartbeat(session, [works, waits], "other") == {waits.id_}, "given back, it is anybody's"


def test_a_refused_end_leaves_the_lease(session: Session, ada: User) -> None:
    (run,) = enqueue(session, ada)
    (taken,) = claim(session, "w", limit=1)
    with pytest.raises(errors.InvalidTransition):
        finish(session, taken, "finished", "w")
    assert heartbeat(session, [run], "w") == {run.id_}


def test_what_no_longer_is_cannot_end(session: Session, ada: User) -> None:
    enqueue(session, ada)
    (taken,) = claim(session, "w", limit=1)
    session.delete(session.get_one(Workflow, taken.key))
    session.flush()
    with pytest.raises(errors.NotFound):
        finish(session, taken, "failed", "w")


def test_what_a_dead_worker_has_claimed_is_handed_out_again(session: Session, ada: User) -> None:
    (run,) = enqueue(session, ada)
    (job,) = enqueue_jobs(session, ada, 1)
    claim(session, "n1/7", limit=1)
    claim(session, "n1/7", limit=1, model=Job)
    session.commit()
    assert recover(session, timedelta(hours=1)).ids == []
    assert recover(session, timedelta(0)).by_status == {"queued": 2}
    assert [obstacle.code for obstacle in explain(session, run).obstacles] == ["start_after"]
    run.start_after = None
    session.commit()
    assert ids(claim(session, "n2/1", limit=9)) == [run.id_]
    assert ids(claim(session, "n2/1", limit=9, model=Job)) == [job.id_]


def test_a_worker_that_was_recovered_meanwhile_ends_nothing(
    session: Session, session_factory: sessionmaker[Session], ada: User
) -> None:
    (run,) = enqueue(session, ada)
    (taken,) = claim(session, "w", limit=1)
    session.commit()
    refused: list[Exception] = []

    def end() -> None:
        with session_factory() as own:
            try:
                finish(own, taken, "failed", "w")
            except errors.Conflict as error:
                refused.append(error)

    recover(session, timedelta(0))
    worker = threading.Thread(target=end)
    worker.start()
    wait_for_a_lock(session_factory)
    session.commit()
    worker.join()
    assert [str(error).partition(": ")[2] for error in refused] == [
        "expected holder w, stored is queued at revision 2"
    ]
    assert run.status is RunStatus.queued


# -- jobs


def test_jobs_are_handed_out_the_same_way_and_stay_queued(session: Session, ada: User, bob: User) -> None:
    of_ada = enqueue_jobs(session, ada, 3, job_name="fit", compute_backend="slurm")
    (of_bob,) = enqueue_jobs(session, bob, 1, compute_backend="htcondor")
    taken = claim(session, "w", limit=2, model=Job)
    assert set(ids(taken)) == {of_ada[0].id_, of_bob.id_}
    assert {c.name for c in taken} == {"fit", None}
    assert claim(session, "v", limit=9, model=Job, kinds=["htcondor"]) == []
    assert ids(claim(session, "v", limit=9, model=Job)) == ids(of_ada[1:])
    assert release(session, taken, "w") == set(ids(taken))
    assert ids(claim(session, "v", limit=9, model=Job, kinds=["htcondor"])) == [of_bob.id_]
    assert finish(session, of_bob, "finished", "v") == "finished"
    assert of_ada[0].status == "queued"
    with pytest.raises(errors.InvalidFilter, match="job has no field"):
        claim(session, "w", limit=1, model=Job, labels="team=a")
    with pytest.raises(errors.InvalidArgument, match="there is no queue of InteractiveSession"):
        claim(session, "w", limit=1, model=InteractiveSession)  # type: ignore[arg-type]


def test_one_kind_needs_no_list(session: Session, ada: User) -> None:
    enqueue(session, ada, type_="cwl")
    (run,) = enqueue(session, ada, type_="serial")
    assert ids(claim(session, "w", limit=9, kinds="serial")) == [run.id_]


@pytest.mark.parametrize("worker", [None, "", 7])
def test_a_worker_has_a_name(session: Session, ada: User, worker: Any) -> None:
    (run,) = enqueue(session, ada)
    with pytest.raises(errors.InvalidArgument, match="who holds leases has a name"):
        claim(session, worker, limit=1)
    if worker is not None:
        with pytest.raises(errors.InvalidArgument, match="who holds leases has a name"):
            heartbeat(session, [run], worker)


def test_what_has_no_queue_cannot_be_handed_back(session: Session, ada: User) -> None:
    with pytest.raises(errors.InvalidArgument, match="a UUID has no lease"):
        finish(session, ada.id_, "finished", "w")  # type: ignore[arg-type]


def test_jobs_of_runs_that_do_not_go_on_are_not_handed_out(session: Session, ada: User) -> None:
    jobs = [enqueue_jobs(session, ada, 1)[0] for _ in range(3)]
    asked, ended, at_work = (session.get_one(Workflow, (ada.id_, job.workflow_id)) for job in jobs)
    cancel(session, asked)
    transition(session, ended, "failed")
    session.commit()
    assert ids(claim(session, "w", limit=9, model=Job)) == [jobs[2].id_]
    assert at_work.status is RunStatus.running


def test_jobs_cost_no_owner_the_turn_with_runs(session: Session, ada: User, bob: User) -> None:
    enqueue(session, bob, 2)
    enqueue(session, ada)
    enqueue_jobs(session, ada, 1)
    assert claim(session, "w", limit=1)
    assert claim(session, "w", limit=1, model=Job)
    assert {c.owner_id for c in claim(session, "w", limit=1)} | {ada.id_, bob.id_} == {ada.id_, bob.id_}
    assert session.scalars(sa.select(Workflow.status).filter_by(owner_id=ada.id_, name="analysis")).all()
    assert len(queue_status(session, ada)) == 1
    assert queue_status(session, ada)[0].queued == 0, "the second claim of a run was Ada's"


# -- others at the same time


@pytest.fixture
def unannounced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let claims announce nothing, as one that serves many owners does after the first ones."""
    monkeypatch.setattr(claiming, "MOST_ANNOUNCED", 0)


def test_a_claim_waits_for_no_other_claim(
    session: Session, session_factory: sessionmaker[Session], ada: User, bob: User, unannounced: None
) -> None:
    enqueue(session, ada, 2)
    (of_bob,) = enqueue(session, bob)
    session.execute(sa.text("SET LOCAL lock_timeout = '1ms'"))
    with session_factory() as other:
        assert claim(other, "other", limit=1)
        assert claim(other, "other", limit=1)
        assert claim(session, "w", limit=3) == [], "the other one serves both owners"
        other.rollback()
    assert len(claim(session, "w", limit=3)) == 3
    session.rollback()
    with session_factory() as other:
        transition(other, of_bob, "stopped")
        assert Counter(c.owner_id for c in claim(session, "w", limit=3)) == {ada.id_: 2}


def test_no_login_that_holds_a_lock_keeps_an_owner_waiting(
    session: Session, session_factory: sessionmaker[Session], ada: User, bob: User
) -> None:
    enqueue(session, ada)
    enqueue(session, bob)
    with session_factory() as other:
        for owner in (ada, bob):
            key = f"platform queue {owner.id_}"
            other.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(key, 0))))
        served = {c.owner_id for _ in range(200) for c in claim(session, "w", limit=1)}
    assert served == {ada.id_, bob.id_}


def test_claims_at_the_same_time_do_not_try_the_same_owners(
    engine: sa.Engine, session: Session, session_factory: sessionmaker[Session]
) -> None:
    owners = [make_user(session) for _ in range(20)]
    for owner in owners:
        enqueue(session, owner)
    session.commit()
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    with session_factory() as other:
        first = claim(other, "other", limit=10)
        assert len(statements) == 12, "whose turn it is, an announcement, and each owner's runs"
        second = claim(session, "w", limit=10)
        assert len(statements) <= 26, "now and then it tries the owner who has waited longest"
    assert {c.owner_id for c in first} | {c.owner_id for c in second} == {owner.id_ for owner in owners}


class Between:
    """Does something once, after the next claim has read whose turn it is."""

    def __init__(self, engine: sa.Engine, act: Any) -> None:
        self.act = act
        event.listen(engine, "after_cursor_execute", self)

    def __call__(self, connection, cursor, statement, parameters, context, executemany) -> None:
        if "RECURSIVE" in statement and self.act is not None:
            act, self.act = self.act, None
            act()


def test_a_claim_that_commits_meanwhile_leaves_no_room(
    engine: sa.Engine,
    session: Session,
    session_factory: sessionmaker[Session],
    ada: User,
    unannounced: None,
) -> None:
    enqueue(session, ada, 3)
    set_limits(session, ada, concurrent_runs=1)
    session.commit()
    taken: list[Claim] = []

    def act() -> None:
        with session_factory() as other, other.begin():
            taken.extend(claim(other, "other", limit=1))

    Between(engine, act)
    assert claim(session, "w", limit=3) == []
    assert len(taken) == 1


def test_a_lower_limit_holds_for_a_claim_that_has_read_the_one_before(
    engine: sa.Engine,
    session: Session,
    session_factory: sessionmaker[Session],
    ada: User,
    unannounced: None,
) -> None:
    enqueue(session, ada, 3)
    session.commit()

    def act() -> None:
        with session_factory() as other, other.begin():
            set_limits(other, ada.id_, concurrent_runs=1)

    Between(engine, act)
    assert len(claim(session, "w", limit=3)) == 1


def test_a_claim_begins_again_where_another_was_quicker(
    engine: sa.Engine, session: Session, session_factory: sessionmaker[Session], ada: User
) -> None:
    enqueue(session, ada, 3)
    session.commit()

    def act() -> None:
        with session_factory() as other, other.begin():
            assert len(claim(other, "other", limit=1)) == 1

    Between(engine, act)
    assert len(claim(session, "w", limit=3)) == 2


def take_and_finish(uri: str, owner: str, number: int) -> None:
    """Claim and end runs until there are none; end badly where the owner's limit is passed."""
    from platform_db import database

    claiming.MOST_ANNOUNCED = 0
    engine = database.create_engine(uri)
    worker = f"w{number}"
    while True:
        with Session(engine) as session, session.begin():
            if not session.scalar(sa.select(sa.exists().where(Workflow.status.in_(("queued", "pending"))))):
                break
            taken = claim(session, worker, limit=2)
            at_work = sa.select(sa.func.count()).where(Workflow.status.in_(("pending", "running")))
            assert (session.scalar(at_work) or 0) <= 3
        for claimed in taken:
            with Session(engine) as session, session.begin():
                transition(session, claimed.key, "running", model=Workflow)
            with Session(engine) as session, session.begin():
                finish(session, claimed, "finished", worker)
    engine.dispose()


def test_workers_together_take_each_run_once_and_pass_no_limit(
    session: Session, database_uri: str, ada: User
) -> None:
    enqueue(session, ada, 60)
    set_limits(session, ada, concurrent_runs=3)
    session.commit()
    in_processes(4, take_and_finish, database_uri, str(ada.id_))
    # Each was claimed once: a revision for pending, running and finished.
    assert Counter(session.execute(sa.select(Workflow.status, Workflow.revision)).all()) == {
        (RunStatus.finished, 3): 60
    }
    assert session.scalars(sa.select(Lease)).all() == []


# -- looking


def test_a_run_that_waits_says_why(session: Session, ada: User) -> None:
    Resource.initialise_default_resources(session)
    first, second, third = enqueue(session, ada, 3)
    assert explain(session, first).is_next
    assert obstacles(session, second) == ["its owner has 1 queued run before it"]
    assert obstacles(session, third) == ["its owner has 2 queued runs before it"]

    claim(session, "n1/7", limit=1)
    assert obstacles(session, first) == ["it is pending, held by n1/7"]
    transition(session, first, "running")
    assert obstacles(session, first) == ["it is running, held by n1/7"]
    new = make_run(session, ada, status="created")
    assert obstacles(session, new) == ["it is created, and was not queued yet"]
    transition(session, new, "failed")
    assert obstacles(session, new) == ["it is failed: only a restart of it can be queued"]

    set_limits(session, ada, concurrent_runs=1)
    assert obstacles(session, second) == ["its owner has 1 of 1 pending and running runs"]
    set_limits(session, ada, concurrent_runs=None, starts_per_minute=1)
    session.execute(sa.update(OwnerLimit).values(starts_until=sa.func.now() + timedelta(seconds=30)))
    (obstacle,) = explain(session, second).obstacles
    assert obstacle.text.startswith("its owner may start 1 a minute, the next one at 20")
    until = datetime.fromisoformat(obstacle.facts["until"]) - datetime.now(timezone.utc)
    assert timedelta(seconds=20) < until < timedelta(seconds=40)
    set_limits(session, ada, starts_per_minute=None)

    quota.set_limit(session, ada, "disk", 2048)
    quota.commit_reservation(session, quota.reserve(session, ada, "disk", 0), 4096)
    second.start_after = datetime(2100, 1, 1, tzinfo=timezone.utc)
    assert obstacles(session, second) == [
        "it may start after 2100-01-01T00:00:00+00:00",
        "its owner has used 4 KiB of 2 KiB of shared storage",
    ]
    assert [o.code for o in explain(session, third.id_).obstacles] == ["quota"]
    assert explain(session, (ada.id_, third.id_)).as_dict() == {
        "id": str(third.id_),
        "owner_id": str(ada.id_),
        "type": "serial",
        "labels": {},
        "is_next": False,
        "obstacles": [
            {
                "code": "quota",
                "text": "its owner has used 4 KiB of 2 KiB of shared storage",
                "facts": {"resource": "shared storage", "used": 4096, "limit": 2048},
            }
        ],
    }
    with pytest.raises(errors.WorkflowNotFound):
        explain(session, ada.id_)


def test_a_run_is_explained_as_a_claim_decides(session: Session, ada: User) -> None:
    runs = [enqueue(session, ada, priority=p)[0] for p in (None, 3, 1, None, 3)]
    runs[1].start_after = LONG_AGO
    runs[4].start_after = datetime(2100, 1, 1, tzinfo=timezone.utc)
    session.commit()
    while True:
        nexts = [run.id_ for run in runs if explain(session, run).is_next]
        taken = ids(claim(session, "w", limit=1))
        assert taken == nexts
        if not taken:
            break
    assert [o.code for o in explain(session, runs[4]).obstacles] == ["start_after"]


def test_the_status_of_the_queue_is_by_owner(
    session: Session, ada: User, bob: User, defaults: pytest.MonkeyPatch
) -> None:
    set_default(defaults, "CONCURRENT_RUNS", "7")
    runs = enqueue(session, ada, 3)
    enqueue(session, bob)
    make_run(session, make_user(session), status="finished")
    set_limits(session, bob, concurrent_runs=1, starts_per_minute=2)
    (taken,) = claim(session, "w", limit=1)
    transition(session, taken.key, "running", model=Workflow)
    session.commit()
    waiting, served = queue_status(session)
    assert served.owner_id == taken.owner_id
    assert served.served_at is not None
    assert waiting.served_at is None
    of_ada = queue_status(session, ada)[0]
    assert of_ada in (waiting, served)
    assert (of_ada.email, of_ada.concurrent_runs, of_ada.starts_per_minute) == (ada.email, 7, None)
    assert (of_ada.queued + of_ada.running, of_ada.pending) == (3, 0)
    assert of_ada.oldest_queued in (runs[0].created, runs[1].created)
    of_bob = queue_status(session, bob)[0]
    assert (of_bob.concurrent_runs, of_bob.starts_per_minute) == (1, 2)
    assert len(queue_status(session, limit=1)) == 1


# -- who may


def test_services_claim_and_a_tenants_scope_does_not(
    engine: sa.Engine, session: Session, tenant_roles: None, ada: User
) -> None:
    enqueue(session, ada, 2)
    session.execute(sa.text(f"SET ROLE {role_name(Role.service)}"))
    set_limits(session, ada, concurrent_runs=1)
    (taken,) = claim(session, "w", limit=1)
    assert queue_status(session)[0].pending == 1
    release(session, [taken], "w")
    (taken,) = claim(session, "w", limit=1)
    transition(session, taken.key, "running", model=Workflow)
    finish(session, taken, "finished", "w")
    session.commit()
    session.execute(sa.text("RESET ROLE"))
    session.commit()
    with tenant_scope(engine, ada.id_) as own:
        with pytest.raises(errors.Refused, match="not in a tenant's scope: the queue is of all owners"):
            claim(own, "w", limit=1)
        with pytest.raises(errors.Refused, match="not in a tenant's scope: limits are the platform's"):
            set_limits(own, ada.id_, concurrent_runs=9)
        assert [owner.queued for owner in queue_status(own)] == [1]
        assert explain(own, own.scalars(sa.select(Workflow).filter_by(status="queued")).one()).is_next


# -- what it costs

LIMITS = "INSERT INTO platform.owner_limit (owner_id) SELECT id_ FROM platform.user_ ON CONFLICT DO NOTHING"

JOBS = """
    INSERT INTO platform.job (id_, owner_id, workflow_id, status, created, updated)
    SELECT gen_random_uuid(), owner_id, id_, 'created', now(), now() FROM platform.workflow
"""

# Half of the owners have something in the queue.
SOME_WAIT = """
    UPDATE platform.workflow SET start_after = now() + interval '1 day' * (random() - 0.5)
    WHERE status = 'queued' AND random() < 0.3
"""
BURST = """
    UPDATE platform.{} SET status = 'queued'
    WHERE status <> 'running' AND owner_id IN (SELECT owner_id FROM platform.owner_limit LIMIT 150)
"""


@pytest.mark.parametrize("statistics", ["fresh", "none", "from before a burst of runs"])
def test_what_is_asked_of_the_queue_reads_its_indexes_alone(
    session: Session, ada: User, statistics: str
) -> None:
    session.execute(sa.text("ALTER TABLE platform.workflow SET (autovacuum_enabled = off)"))
    session.execute(sa.text("ALTER TABLE platform.job SET (autovacuum_enabled = off)"))
    session.execute(sa.text("SET LOCAL session_replication_role = replica"))
    session.execute(sa.text(USERS), {"tenants": 300})
    session.execute(sa.text(RUNS), {"runs": 20})
    session.execute(sa.text(JOBS))
    session.execute(sa.text(LIMITS))
    if statistics == "from before a burst of runs":
        session.execute(sa.text("ANALYZE"))
    session.execute(sa.text(BURST.format("workflow")))
    session.execute(sa.text(BURST.format("job")))
    session.execute(sa.text(SOME_WAIT))
    if statistics == "fresh":
        session.execute(sa.text("ANALYZE"))
    session.commit()
    some = session.scalars(sa.select(Workflow).filter_by(status="queued").limit(1)).one()
    set_limits(session, some.owner_id, concurrent_runs=5)

    def scans(ask: Any, table: str) -> set[str]:
        """Return by what a table's rows are found; those that are then updated are found by their key."""
        plan = plans_of(session, ask).replace("Index Only Scan", "Index Scan")
        bitmap = r"Bitmap Heap Scan on (.*\n)(?:.*\n)*?.*Bitmap Index Scan on (\S+).*\n"
        plan = re.sub(bitmap, r"Index Scan using \2 on \1", plan)
        found = re.findall(rf"(\S+ Scan.*?) on {table}\b.*\n((?:.*Cond: .*\n)?)", plan)
        return {scan for scan, condition in found if "id_ = ANY" not in condition}

    queue = {f"Index Scan using ix_workflow_{name}" for name in ("ready", "delayed", "at_work")}
    assert scans(lambda: claim(session, "w", limit=2), "workflow") == queue
    # What an owner has queued for later is passed over by the index, and not run by run.
    plan = plans_of(session, lambda: claim(session, "w", limit=2))
    of_time = [line.strip() for line in plan.split("\n") if "start_after <= " in line]
    assert of_time
    assert all(line.startswith("Index Cond") for line in of_time)
    assert scans(lambda: claim(session, "w", limit=2, labels="a=b"), "workflow") == queue
    assert scans(lambda: claim(session, "w", limit=2, model=Job), "job") == {"Index Scan using ix_job_queue"}
    assert scans(lambda: queue_status(session), "workflow") >= queue
    assert "Seq Scan" not in scans(lambda: explain(session, some), "workflow")
