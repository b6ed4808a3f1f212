"""Recovery does with each kind of row, in each status, by each policy, what its tables say."""

from __future__ import annotations

import re
import threading
import time
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from platform_db import errors
from platform_db.leases import (
    NODE_POLICIES,
    Policy,
    count_alive,
    heartbeat,
    policies,
    recover,
    recover_owned_by,
)
from platform_db.lifecycle import add_note, history, override_guard, set_phase, transition
from platform_db.models import Job, JobDependency, JobStatus, Lease, RunStatus, Workflow
from platform_db.states import MACHINES
from platform_db.workflows import create_workflow
from tests.factories import make_guarded, make_run, make_user
from tests.locks import wait_for_a_lock

TEXT = policies.__doc__ or ""
NOW = timedelta(0)


def table_of(header: str) -> list[list[str]]:
    """Return the rows of the module's table whose head begins so; each cell is stripped."""
    _, _, rest = TEXT.partition(f"\n{header}")
    rule, *lines = rest.split("\n")[1:]
    starts = [found.start() for found in re.finditer("=+", rule)]
    lines = lines[: next(number for number, line in enumerate(lines) if line.startswith("="))]
    ends = [*starts[1:], None]
    return [[line[a:b].strip() for a, b in zip(starts, ends, strict=True)] for line in lines]


CELLS = [
    (table, status, policy, action)
    for table, statuses, *actions in table_of("Row                  Status")
    for status in statuses.split(", ")
    for policy, action in zip(("fail", "requeue"), actions, strict=True)
    if action
]
STATUS_AFTER = {"queued": "queued", "failed": "failed", "restarted": "failed"}


def hold(session: Session, row: Any, holder: str = "n1/1") -> Any:
    assert heartbeat(session, [row], holder) == {row.id_}
    session.commit()
    return row


def job_of(session: Session, run: Workflow, status: str = "running", **values: object) -> Job:
    job = Job(workflow_id=run.id_, status=status, **values)
    session.add(job)
    session.commit()
    return job


def held_rows(session: Session) -> set[object]:
    return set(session.scalars(sa.select(Lease.entity_id)))


def others_like(session: Session, row: Any) -> list[Any]:
    """Return the rows of this kind that came beside it."""
    model = type(row)
    return list(session.scalars(sa.select(model).where(model.id_ != row.id_)))


def test_the_table_has_each_status_in_which_a_row_is_alive() -> None:
    documented = {(table, status) for table, status, _, _ in CELLS}
    leased = (machine for machine in MACHINES.values() if machine.is_leased)
    assert documented == {(machine.entity, str(status)) for machine in leased for status in machine.alive}


@pytest.mark.parametrize(("table", "status", "policy", "action"), CELLS)
def test_a_dead_workers_row_becomes_what_the_table_says(
    session: Session, table: str, status: str, policy: str, action: str
) -> None:
    row = hold(session, make_guarded(session, make_user(session), table, status))
    recovery = recover(session, NOW, {table: policy})
    session.commit()
    assert row.status == STATUS_AFTER.get(action, status)
    assert recovery.ids == [row.id_]
    assert held_rows(session) == set()
    assert [new.status for new in others_like(session, row)] == ["queued"] * (action == "restarted")
    assert recover(session, NOW, {table: policy}).ids == []


@pytest.mark.parametrize(("table", "status"), sorted({cell[:2] for cell in CELLS}))
def test_with_the_policy_nothing_all_is_left(session: Session, table: str, status: str) -> None:
    row = hold(session, make_guarded(session, make_user(session), table, status))
    recovery = recover(session, NOW, {table: "nothing"})
    session.commit()
    assert (recovery.ids, recovery.left[table], row.status) == ([], 1, status)
    assert held_rows(session) == {row.id_}


def test_the_policies_at_the_start_of_a_node_are_those_of_the_documentation() -> None:
    documented = {
        kind: Policy(policy.strip("`"))
        for kinds, policy in table_of("Row                                      Policy")
        for kind in kinds.split(", ")
    }
    assert documented == dict(NODE_POLICIES)


@pytest.mark.parametrize(
    ("type_", "counts"),
    [
        ("serial", {"failed": 1}),
        ("ops", {"failed": 1}),
        ("service", {"failed": 1, "queued": 1}),
        ("daemon", {"failed": 1, "queued": 1}),
    ],
)
def test_at_the_start_of_a_node_a_service_is_queued_again_and_a_batch_fails(
    session: Session, type_: str, counts: dict[str, int]
) -> None:
    run = hold(session, make_run(session, make_user(session), status="running", type_=type_))
    assert recover_owned_by(session, "n1") == counts
    session.commit()
    assert (run.status, history(session, run).rows[0].reason) == (RunStatus.failed, "its node restarted")
    restarts = others_like(session, run)
    assert [(new.type_, new.status) for new in restarts] == [(type_, RunStatus.queued)] * len(restarts)


def test_the_policies_of_a_node_can_be_overridden(session: Session) -> None:
    owner = make_user(session)
    ops, daemon, batch = (
        hold(session, make_run(session, owner, status="running", type_=type_))
        for type_ in ("ops", "daemon", "serial")
    )
    held = hold(session, job_of(session, ops))
    mine = {**NODE_POLICIES, "workflow:ops": "nothing", "workflow:daemon": Policy.fail, "workflow": "requeue"}
    assert recover_owned_by(session, "n1", mine) == {"failed": 2, "queued": 1}
    assert [row.status for row in (ops, daemon, batch, held)] == ["running", "failed", "failed", "running"]
    assert held_rows(session) == {ops.id_, held.id_}
    assert [run.type_ for run in session.scalars(sa.select(Workflow).where(Workflow.restart))] == ["serial"]


def test_jobs_follow_the_kind_of_their_run(session: Session) -> None:
    owner = make_user(session)
    batch = job_of(session, make_run(session, owner, status="running", type_="serial"))
    daemon = job_of(
        session,
        make_run(session, owner, status="running", type_="daemon"),
        job_name="serve",
        command="serve --port 80",
        container_image="web:1",
        environment={"A": "1"},
        attributes={"gpu": 1},
        phase="publishing",
        backend_job_id="17",
    )
    for job in (batch, daemon):
        hold(session, job)
    assert recover_owned_by(session, "n1") == {"failed": 2, "queued": 1}
    session.commit()
    (new,) = (job for job in session.scalars(sa.select(Job)) if job not in (batch, daemon))
    assert (new.workflow_id, new.status, new.phase) == (daemon.workflow_id, JobStatus.queued, None)
    for name in ("job_name", "command", "container_image", "environment", "attributes", "compute_backend"):
        assert getattr(new, name) == getattr(daemon, name), name
    assert new.backend_job_id is None
    assert [job.workflow.status for job in (batch, daemon)] == [RunStatus.running] * 2
    last = history(session, daemon).rows[-1]
    assert (last.message, last.details) == (f"restarted as {new.id_}", {"restart": str(new.id_)})
    assert history(session, new).rows[0].message == f"restarts {daemon.id_}: its node restarted"


def test_a_job_of_a_run_that_was_restarted_itself_only_fails(session: Session) -> None:
    run = hold(session, make_run(session, make_user(session), status="running", type_="daemon"))
    job = hold(session, job_of(session, run))
    assert recover_owned_by(session, "n1") == {"failed": 2, "queued": 1}
    assert (job.status, others_like(session, job)) == (JobStatus.failed, [])
    assert history(session, job).rows[-1].message == "could not be restarted: its run has ended"


def waits(session: Session, run: Workflow) -> float:
    """Return for how many seconds from now on the queue holds the run back."""
    assert run.start_after is not None
    return (run.start_after - session.scalar(sa.text("SELECT clock_timestamp()"))).total_seconds()


def test_a_run_that_kills_its_workers_while_it_is_pending_waits_longer_each_time_and_then_fails(
    session: Session,
) -> None:
    run, waited = make_run(session, make_user(session), status="pending"), []
    for _ in range(3):
        hold(session, run)
        assert recover_owned_by(session, "n1") == {"queued": 1}
        session.commit()
        waited.append(waits(session, run))
        transition(session, run, "pending")
    assert waited == [pytest.approx(seconds, abs=5) for seconds in (10, 20, 40)]
    hold(session, run)
    assert recover_owned_by(session, "n1") == {"failed": 1}
    entries = history(session, run).rows
    assert [entry.message for entry in entries if entry.topic == "return"] == [
        "queued again: its node restarted"
    ] * 3
    assert entries[-1].reason == "its node restarted; it was queued again as often as allowed (3)"


def test_a_run_that_is_started_again_may_come_back_as_often_again(session: Session) -> None:
    run = make_run(session, make_user(session), status="pending")
    for _ in range(3):
        add_note(session, run, "return", "queued again")
    for status in ("running", "failed", "running"):
        transition(session, run, status)
    with override_guard(session, reason="a platform of its own ways"):
        transition(session, run, "pending")
    hold(session, run)
    assert recover(session, NOW).by_status == {"queued": 1}


def test_a_restart_by_recovery_waits_longer_each_time(session: Session) -> None:
    run, waited = make_run(session, make_user(session), status="running", type_="daemon"), []
    for _ in range(3):
        hold(session, run)
        assert recover_owned_by(session, "n1") == {"failed": 1, "queued": 1}
        session.commit()
        (run,) = session.scalars(sa.select(Workflow).where(Workflow.status == "queued"))
        waited.append(waits(session, run))
        transition(session, run, "running")
    assert waited == [pytest.approx(seconds, abs=5) for seconds in (10, 20, 40)]
    hold(session, run)
    assert recover_owned_by(session, "n1") == {"failed": 1}


def test_the_restart_of_a_job_has_its_place_in_the_graph(session: Session) -> None:
    run = make_run(session, make_user(session), status="running", type_="daemon")
    before, job, after = (job_of(session, run, status) for status in ("finished", "running", "created"))
    for parent, child in ((before, job), (job, after)):
        session.add(JobDependency(workflow_id=run.id_, parent_id=parent.id_, child_id=child.id_, name="x"))
    session.commit()
    hold(session, job)
    recover_owned_by(session, "n1")
    session.commit()
    (new,) = session.scalars(sa.select(Job).where(Job.status == "queued"))
    edges = session.execute(sa.select(JobDependency.parent_id, JobDependency.child_id, JobDependency.name))
    assert {tuple(edge) for edge in edges} == {
        (parent, child, "x")
        for parent, child in (
            (before.id_, job.id_),
            (job.id_, after.id_),
            (before.id_, new.id_),
            (new.id_, after.id_),
        )
    }


def test_a_job_that_kills_its_workers_is_not_restarted_for_ever(session: Session) -> None:
    run = make_run(session, make_user(session), status="running", type_="service")
    job = job_of(session, run)
    add_note(session, job, "restart", "a tenant's own", {"restarts": "many"})
    for _ in range(4):
        hold(session, job)
        counts = recover_owned_by(session, "n1")
        session.commit()
        last, queued = job, session.scalars(sa.select(Job).where(Job.status == "queued")).all()
        for job in queued:
            transition(session, job, "running")
    assert (counts, queued) == ({"failed": 1}, [])
    message = history(session, last).rows[-1].message
    assert message == "could not be restarted: it was restarted as often as allowed (3)"


def test_a_job_that_waits_loses_its_lease_and_its_phase_and_can_be_taken_again(session: Session) -> None:
    job = make_guarded(session, make_user(session), "job", "queued")
    hold(session, job)
    set_phase(session, job, "bid accepted")
    session.commit()
    assert recover_owned_by(session, "n1") == {"queued": 1}
    session.commit()
    assert (job.status, job.phase) == (JobStatus.queued, None)
    assert heartbeat(session, [job], "n2/1") == {job.id_}


def test_what_is_left_alone_does_not_stand_in_the_way_of_the_others(session: Session) -> None:
    owner = make_user(session)
    types = ("ops", "ops", "ops", "serial")
    runs = [hold(session, make_run(session, owner, status="running", type_=type_)) for type_ in types]
    chosen = {"workflow": "fail", "workflow:ops": "nothing"}
    recovery = recover(session, NOW, chosen, batch=1)
    assert (recovery.ids, recovery.left["workflow"]) == ([runs[3].id_], 3)


@pytest.mark.parametrize("kind", ["job:daemon", "user_token", ""])
def test_a_policy_is_for_what_can_be_held(session: Session, kind: str) -> None:
    with pytest.raises(
        errors.InvalidArgument, match=f"there are no leases of '{kind}'; choose from workflow, "
    ):
        recover(session, NOW, {kind: "fail"})


def test_a_pending_run_goes_back_to_the_queue_once_for_two_recoveries(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    owner = make_user(session)
    runs = [hold(session, make_run(session, owner, status="pending")) for _ in range(20)]
    together, found = threading.Barrier(3), []

    def recover_them() -> None:
        with session_factory() as recovering:
            together.wait()
            ids = recover(recovering, NOW).ids
            time.sleep(0.1)
            recovering.commit()
            found.extend(ids)

    threads = [threading.Thread(target=recover_them) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(run.id_ for run in runs)


def test_a_worker_that_starts_its_run_now_keeps_it(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    run = hold(session, make_run(session, make_user(session), status="pending"))
    with session_factory() as worker:
        transition(worker, run.id_, "running", model=Workflow)
        session.execute(sa.text("SET LOCAL lock_timeout = '500ms'"))
        assert recover(session, NOW).ids == []
        session.commit()
        worker.commit()
    assert (run.status, held_rows(session)) == (RunStatus.running, {run.id_})


def test_what_is_alive_is_counted_by_status_and_phase(session: Session) -> None:
    owner = make_user(session)
    for entity in ("interactive_session", "service"):
        for status in ("running", "failed"):
            make_guarded(session, owner, entity, status)
    run = make_run(session, owner, status="running")
    make_run(session, owner, status="finished")
    for number, phase in enumerate(("bid accepted", "bid accepted", "publishing", None)):
        job = job_of(session, run, "queued" if number < 2 else "running", phase=phase)
        hold(session, job, f"n{number}/7")
    job_of(session, run, "finished", phase="publishing")
    jobs = {"queued/bid accepted": 2, "running/publishing": 1, "running": 1}
    others = {"workflow": {"running": 1}, "interactive_session": {"running": 1}, "service": {"running": 1}}
    assert count_alive(session) == {**others, "job": jobs}
    assert count_alive(session, "n0") == {"job": {"queued/bid accepted": 1}}
    assert count_alive(session, "n0/7") == {"job": {"queued/bid accepted": 1}}
    assert count_alive(session, "n") == {}


def test_recovery_locks_the_owners_of_restarts_in_the_order_of_other_creators(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    owners = sorted((make_user(session) for _ in range(3)), key=lambda owner: owner.id_)
    for owner, holder in zip(owners, ("n1/1", "n2/1", "n1/1"), strict=True):
        hold(session, make_run(session, owner, status="running"), holder)
    ended = []

    def requeue_all() -> None:
        with session_factory() as worker:
            recover(worker, NOW, {"workflow": Policy.requeue})
            worker.commit()
            ended.append("recovered")

    recovering = threading.Thread(target=requeue_all)
    with session_factory() as creator:
        create_workflow(creator, owners[1], "other", type_="serial")
        recovering.start()
        wait_for_a_lock(session_factory)
        create_workflow(creator, owners[2], "other", type_="serial")
        creator.commit()
    recovering.join()
    assert ended == ["recovered"]
    assert session.scalar(sa.select(sa.func.count()).where(Workflow.restart)) == 3


@pytest.mark.parametrize("node", [None, "n1"])
def test_a_creator_may_then_write_a_dead_workers_row(
    session: Session, session_factory: sessionmaker[Session], node: str | None
) -> None:
    owner = make_user(session)
    run = hold(session, make_run(session, owner, status="running"))
    ended = []

    def requeue_all() -> None:
        with session_factory() as recovering, recovering.begin():
            mine = {"workflow": Policy.requeue}
            if node is None:
                ended.append(recover(recovering, NOW, mine).by_status)
            else:
                ended.append(recover_owned_by(recovering, node, mine))

    recovering = threading.Thread(target=requeue_all)
    with session_factory() as creator, creator.begin():
        create_workflow(creator, owner, "other", type_="serial")
        recovering.start()
        wait_for_a_lock(session_factory)
        transition(creator, run.id_, "finished", model=Workflow)
    recovering.join()
    assert ended == [{}]


@pytest.mark.parametrize("node", [None, ""])
def test_a_node_without_a_name_recovers_nothing(session: Session, node: str | None) -> None:
    run = hold(session, make_run(session, make_user(session), status="running"))
    with pytest.raises(errors.InvalidArgument, match="who holds leases has a name"):
        recover_owned_by(session, node)  # type: ignore[arg-type]
    assert run.status == RunStatus.running


def test_recovery_that_restarts_nothing_waits_for_no_creator(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    owner = make_user(session)
    run = hold(session, make_run(session, owner, status="running"))
    with session_factory() as creator, creator.begin():
        create_workflow(creator, owner, "other", type_="serial")
        session.execute(sa.text("SET LOCAL lock_timeout = '500ms'"))
        assert recover(session, NOW).ids == [run.id_]
        session.commit()
