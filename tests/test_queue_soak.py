"""The queue at length: a thousand owners, of whom one has a million runs, and workers that are killed."""

from __future__ import annotations

import os
import random
import signal
import statistics
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from platform_db import database
from platform_db.leases import recover_owned_by
from platform_db.lifecycle import transition
from platform_db.models import Lease, RunStatus, StatusChange, User, Workflow
from platform_db.queue import claim, finish, release, set_limits
from tests.factories import make_user
from tests.processes import FORKING, in_processes
from tests.test_plans import USERS
from tests.test_queue import LIMITS, enqueue

OWNERS, WORKERS, AT_ONCE = 1000, 16, 10
FEW, MANY = 10_000, 1_000_000

# Of the first owner as many as are asked for, of each other owner three; each is older than the ones before.
QUEUED = """
    INSERT INTO platform.workflow
        (id_, owner_id, name, type_, status, workspace_path, run_number_major, run_number_minor,
         created, updated)
    SELECT gen_random_uuid(), :owner, 'many', 'serial', 'queued', '/x', n, 0,
           timestamptz '2020-01-01Z' + n * interval '1 second', now()
    FROM generate_series(CAST(:first AS bigint), :last) AS n
"""
OF_OTHERS = """
    INSERT INTO platform.workflow
        (id_, owner_id, name, type_, status, workspace_path, run_number_major, run_number_minor,
         created, updated)
    SELECT gen_random_uuid(), user_.id_, 'few', 'serial', 'queued', '/x', n, 0, now(), now()
    FROM platform.user_ CROSS JOIN generate_series(1, 3) AS n WHERE user_.id_ <> :owner
"""

# What was handed out, written by the transaction of the claim: a run that is claimed twice at one revision
# ends its worker.
HANDED_OUT = """
    CREATE TABLE handed_out (
        place bigserial, owner_id uuid, id_ uuid, revision integer, PRIMARY KEY (id_, revision))
"""
NOTE = sa.text("INSERT INTO handed_out (owner_id, id_, revision) VALUES (:owner_id, :id_, :revision)")


def note(session: Session, claims: list[Any]) -> None:
    for claimed in claims:
        values = {"owner_id": claimed.owner_id, "id_": claimed.id_, "revision": claimed.revision}
        session.execute(NOTE, values)


def take_for_one_round(uri: str, rows: int, number: int) -> None:
    """Claim until all workers together have taken so many runs."""
    engine = database.create_engine(uri)
    taken = sa.text("SELECT count(*) FROM handed_out")
    while True:
        with Session(engine) as session, session.begin():
            if session.execute(taken).scalar_one() >= rows:
                break
            note(session, claim(session, f"w{number}", limit=AT_ONCE))
    engine.dispose()


def load(session: Session, owner: User, first: int, last: int) -> None:
    session.execute(sa.text("SET LOCAL session_replication_role = replica"))
    session.execute(sa.text(QUEUED), {"owner": owner.id_, "first": first, "last": last})
    session.commit()
    session.execute(sa.text("ANALYZE"))
    session.commit()


def milliseconds_of_a_claim(session: Session) -> float:
    times = []
    for _ in range(40):
        start = time.perf_counter()
        taken = claim(session, "w", limit=AT_ONCE)
        session.commit()
        times.append((time.perf_counter() - start) * 1000)
        assert len(taken) == AT_ONCE
        release(session, taken, "w")
        session.commit()
    return statistics.median(times)


@pytest.mark.soak
def test_a_million_runs_of_one_owner_keep_no_other_waiting(
    session: Session, database_uri: str, record_property: Any
) -> None:
    greedy = make_user(session)
    session.execute(sa.text("SET LOCAL session_replication_role = replica"))
    session.execute(sa.text(USERS), {"tenants": OWNERS - 1})
    session.execute(sa.text(LIMITS))
    session.execute(sa.text(OF_OTHERS), {"owner": greedy.id_})
    session.execute(sa.text(HANDED_OUT))
    session.commit()
    load(session, greedy, 1, FEW)
    with_few = milliseconds_of_a_claim(session)
    load(session, greedy, FEW + 1, MANY)
    with_many = milliseconds_of_a_claim(session)
    print(f"a claim of {AT_ONCE}: {with_few:.1f} ms with {FEW} queued, {with_many:.1f} ms with {MANY}")  # noqa: T201
    assert with_many <= 2 * with_few

    # One round is a run for each owner, and what the workers are taking while the last owner is served.
    in_processes(WORKERS, take_for_one_round, database_uri, OWNERS)
    taken = Counter(session.execute(sa.text("SELECT owner_id FROM handed_out")).scalars())
    assert len(taken) == OWNERS
    assert sum(taken.values()) <= OWNERS + WORKERS * AT_ONCE
    assert max(taken.values()) <= 2


def work(uri: str, worker: str) -> None:
    """Claim, start and end runs until killed."""
    engine = database.create_engine(uri)
    while True:
        with Session(engine) as session, session.begin():
            claims = claim(session, worker, limit=3)
            note(session, claims)
            for owner_id in {claimed.owner_id for claimed in claims}:
                at_work = sa.select(sa.func.count()).where(
                    Workflow.owner_id == owner_id,
                    Workflow.status.in_((RunStatus.pending, RunStatus.running)),
                )
                if (session.scalar(at_work) or 0) > 4:
                    session.execute(sa.text("INSERT INTO handed_out VALUES (-1, NULL, gen_random_uuid(), 0)"))
        for claimed in claims:
            with Session(engine) as session, session.begin():
                transition(session, claimed.key, "running", model=Workflow)
            with Session(engine) as session, session.begin():
                finish(session, claimed, "finished", worker)
        time.sleep(0.01)


@pytest.mark.soak
@pytest.mark.parametrize("kills", [50])
def test_workers_that_are_killed_lose_no_run_and_take_none_twice(
    session: Session, session_factory: sessionmaker[Session], database_uri: str, kills: int
) -> None:
    session.execute(sa.text(HANDED_OUT))
    owners = [make_user(session) for _ in range(3)]
    runs = {run.id_ for owner in owners for run in enqueue(session, owner, 20 * kills // len(owners))}
    for owner in owners:
        set_limits(session, owner, concurrent_runs=4)
    session.commit()
    workers: dict[str, BaseProcess] = {}

    def start() -> None:
        worker = f"n{len(names)}"
        names.append(worker)
        workers[worker] = FORKING.Process(target=work, args=(database_uri, worker), daemon=True)
        workers[worker].start()

    def bury(worker: str) -> None:
        process = workers.pop(worker)
        assert process.pid is not None and process.exitcode is None, "a worker ends by itself only at a fault"
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        with session_factory() as own, own.begin():
            recover_owned_by(own, worker, {"workflow": "requeue"})

    names: list[str] = []
    for _ in range(4):
        start()
    chance = random.Random(7)
    give_up_at = time.monotonic() + 60 * kills
    for _ in range(kills):
        time.sleep(chance.uniform(0.05, 0.6))
        bury(chance.choice(sorted(workers)))
        start()
    left = sa.select(sa.func.count()).where(Workflow.status.in_(("queued", "pending", "running")))
    while session.scalar(left):
        session.commit()
        # A lease that a killed transaction still held when it was looked for is found later.
        for dead in set(names) - set(workers):
            with session_factory() as own, own.begin():
                recover_owned_by(own, dead, {"workflow": "requeue"})
        time.sleep(0.5)
        assert time.monotonic() < give_up_at
    for worker in list(workers):
        bury(worker)

    session.expire_all()
    stored = session.scalars(sa.select(Workflow)).all()
    assert {run.id_ for run in stored} >= runs, "none is lost"
    ended = Counter((run.owner_id, run.run_number_major, run.status) for run in stored)
    finished = [run for run in stored if run.status is RunStatus.finished]
    assert len({(run.owner_id, run.run_number_major) for run in finished}) == len(finished), (
        "none ended twice"
    )
    given_up = [run for run in stored if run.run_number_minor == 3 and run.status is RunStatus.failed]
    assert len(finished) + len(given_up) == len(runs), ended
    assert session.scalars(sa.select(Lease)).all() == []
    # Each claim that was committed is in the history once, and no worker saw a limit passed.
    claimed = session.scalar(sa.select(sa.func.count()).where(StatusChange.to_status == "pending"))
    assert session.execute(sa.text("SELECT count(*) FROM handed_out WHERE place > 0")).scalar_one() == claimed
    assert session.execute(sa.text("SELECT count(*) FROM handed_out WHERE place < 0")).scalar_one() == 0
