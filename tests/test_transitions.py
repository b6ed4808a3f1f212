"""Changing statuses: compare-and-set, conditions, reasons, overrides, races."""

from __future__ import annotations

import threading
import uuid

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from platform_db import errors
from platform_db.lifecycle.transitions import override_guard, set_actor, transition, transition_many
from platform_db.models import Job, JobStatus, RunStatus, StatusChange, Workflow
from tests.factories import make_guarded, make_run, make_user


def changes(session: Session, row: object) -> list[StatusChange]:
    query = sa.select(StatusChange).where(StatusChange.entity_id == row.id_).order_by(StatusChange.revision)
    return list(session.scalars(query))


def test_a_transition_changes_the_row_the_object_and_the_history(session: Session) -> None:
    run = make_run(session, make_user(session))
    assert transition(session, run, RunStatus.queued, reason="a slot is free") is RunStatus.queued
    assert (run.status, run.revision) == (RunStatus.queued, 1)
    session.commit()
    (change,) = changes(session, run)
    assert (change.from_status, change.to_status, change.reason) == ("created", "queued", "a slot is free")
    assert change.owner_id == run.owner_id


def test_an_id_will_do(session: Session) -> None:
    run = make_run(session, make_user(session))
    job = Job(workflow_id=run.id_)
    session.add(job)
    session.commit()
    assert transition(session, str(run.id_), "queued", model=Workflow) is RunStatus.queued
    assert transition(session, job.id_, JobStatus.queued, model=Job) is JobStatus.queued
    assert job.status is JobStatus.queued


def test_a_refusal_names_the_stored_status_and_leaves_the_transaction_usable(session: Session) -> None:
    run = make_run(session, make_user(session), status="finished")
    with pytest.raises(errors.InvalidTransition, match="cannot go from finished to queued") as refusal:
        transition(session, run, RunStatus.queued)
    assert refusal.value.stored_status == "finished"
    assert refusal.value.hint == "after finished may come running, deleted"
    assert transition(session, run, RunStatus.queued, on_conflict="report") is RunStatus.finished
    assert transition(session, run, RunStatus.deleted) is RunStatus.deleted


def test_the_stored_status_again_is_no_change(session: Session) -> None:
    run = make_run(session, make_user(session), status="running")
    assert transition(session, run, RunStatus.running) is RunStatus.running
    assert changes(session, run) == []


def test_conditions_are_checked_with_the_change(session: Session) -> None:
    run = make_run(session, make_user(session), status="running")
    with pytest.raises(errors.Conflict, match="expected status pending, stored is running") as conflict:
        transition(session, run, RunStatus.failed, expected_status=RunStatus.pending)
    assert (conflict.value.condition, conflict.value.stored_revision) == ("status", 0)
    with pytest.raises(errors.Conflict, match="expected revision 3"):
        transition(session, run, RunStatus.failed, expected_revision=3)
    assert transition(session, run, RunStatus.failed, expected_status="running", expected_revision=0)


def test_what_is_not_there_is_not_found(session: Session) -> None:
    with pytest.raises(errors.WorkflowNotFound):
        transition(session, uuid.uuid4(), RunStatus.queued, model=Workflow)
    with pytest.raises(errors.InvalidIdentifier, match="a UUID is needed"):
        transition(session, "nonsense", RunStatus.queued, model=Workflow)
    with pytest.raises(errors.InvalidIdentifier, match="give its model"):
        transition(session, uuid.uuid4(), "running")


def test_a_reason_speaks_of_one_statement_only(session: Session) -> None:
    run = make_run(session, make_user(session))
    set_actor(session, "scheduler", "nightly")
    transition(session, run, RunStatus.queued, reason="a slot is free")
    transition(session, run, RunStatus.pending)
    session.commit()
    transition(session, run, RunStatus.running)
    session.commit()
    assert [(c.actor, c.reason) for c in changes(session, run)] == [
        ("scheduler", "a slot is free"),
        ("scheduler", "nightly"),
        (None, None),
    ]


def test_hostile_reasons_are_stored_as_they_are(session: Session) -> None:
    run = make_run(session, make_user(session))
    reason = "'; DROP TABLE platform.workflow; --\\ %s :reason \N{SNOWMAN}"
    transition(session, run, RunStatus.queued, reason=reason)
    assert changes(session, run)[0].reason == reason


def test_many_rows_change_in_one_statement_and_each_is_reported(session: Session) -> None:
    owner = make_user(session)
    created = [make_run(session, owner) for _ in range(3)]
    finished = make_run(session, owner, status="finished")
    nobody = uuid.uuid4()
    results = transition_many(
        session, [*created, finished.id_, str(nobody)], RunStatus.queued, model=Workflow, reason="go"
    )
    assert [(r.changed, r.status, r.revision) for r in results] == [
        *[(True, "queued", 1)] * 3,
        (False, "finished", 0),
        (False, None, None),
    ]
    assert {run.status for run in created} == {RunStatus.queued}
    assert all(changes(session, run)[0].reason == "go" for run in created)


def test_an_override_passes_the_guard_and_leaves_its_mark(session: Session) -> None:
    run = make_run(session, make_user(session), status="deleted")
    with override_guard(session, reason="restored from a backup"):
        transition(session, run, RunStatus.finished)
        run.status = RunStatus.created
    transition(session, run, RunStatus.queued)
    session.commit()
    assert [(c.to_status, c.overridden, c.reason) for c in changes(session, run)] == [
        ("finished", True, "restored from a backup"),
        ("created", True, "restored from a backup"),
        ("queued", False, None),
    ]


def test_an_override_ends_with_its_block_also_by_an_error(session: Session) -> None:
    run = make_run(session, make_user(session), status="deleted")
    with pytest.raises(ZeroDivisionError), override_guard(session, reason="try"):
        transition(session, run, RunStatus.finished)
        raise ZeroDivisionError
    assert run.status is RunStatus.deleted
    with pytest.raises(errors.InvalidTransition):
        transition(session, run, RunStatus.finished)
    with pytest.raises(errors.InvalidArgument, match="needs a reason"), override_guard(session, reason=" "):
        pass


@pytest.mark.parametrize("many", [False, True])
def test_two_writers_race_and_exactly_one_wins(
    session: Session, session_factory: sessionmaker[Session], many: bool
) -> None:
    owner = make_user(session)
    for _ in range(10):
        run = make_run(session, owner, status="running")
        barrier, told = threading.Barrier(2), {}

        def write(status: RunStatus, run_id: uuid.UUID = run.id_, barrier=barrier, told=told) -> None:
            with session_factory() as other:
                other.connection()
                barrier.wait()
                if many:
                    (result,) = transition_many(other, [run_id], status, model=Workflow)
                    told[status] = result.status
                else:
                    told[status] = transition(
                        other, run_id, status, model=Workflow, on_conflict="report"
                    ).value
                other.commit()

        statuses = (RunStatus.finished, RunStatus.failed)
        threads = [threading.Thread(target=write, args=(status,)) for status in statuses]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        session.expire_all()
        (change,) = changes(session, run)
        assert set(told.values()) == {run.status.value} == {change.to_status}
        assert run.revision == 1


@pytest.mark.parametrize("entity", ["workflow", "job"])
def test_several_statuses_may_be_expected_or_unexpected(session: Session, entity: str) -> None:
    row = make_guarded(session, make_user(session), entity, "running")
    with pytest.raises(errors.Conflict, match="expected status created or queued, stored is running"):
        transition(session, row, "failed", expected_status=["created", "queued"])
    with pytest.raises(errors.Conflict, match="expected status not running or stopped") as conflict:
        transition(session, row, "failed", unexpected_statuses=["running", "stopped"])
    assert (conflict.value.condition, conflict.value.stored_status) == ("status", "running")
    assert transition(
        session, row, "failed", expected_status=["created", "running"], unexpected_statuses="stopped"
    )


def test_an_empty_list_of_statuses_is_one_that_no_row_fits(session: Session) -> None:
    run = make_run(session, make_user(session))

    with pytest.raises(errors.Conflict, match="expected status of an empty list, stored is created"):
        transition(session, run, "queued", expected_status=[])
    (result,) = transition_many(session, [run], "queued", expected_status=())

    assert isinstance(result.refusal, errors.Conflict)
    assert (result.changed, run.status) == (False, RunStatus.created)
    assert transition(session, run, "queued", unexpected_statuses=[]) is RunStatus.queued
    assert transition_many(session, [run], "pending", unexpected_statuses=set())[0].changed


def test_conditions_hold_for_each_of_many_rows(session: Session) -> None:
    owner = make_user(session)
    queued, moved, created, nobody = (
        make_run(session, owner, status="queued"),
        make_run(session, owner, status="created"),
        make_run(session, owner, status="finished"),
        uuid.uuid4(),
    )
    transition(session, moved, RunStatus.queued)
    results = transition_many(
        session,
        [queued, moved, created, nobody],
        RunStatus.pending,
        expected_revision={queued.id_: 0, moved.id_: 0},
        unexpected_statuses=[RunStatus.deleted],
        model=Workflow,
    )
    assert [result.changed for result in results] == [True, False, False, False]
    refusals = [result.refusal for result in results]
    assert refusals[0] is None
    assert isinstance(refusals[1], errors.Conflict)
    assert (refusals[1].condition, refusals[1].expected, refusals[1].stored_revision) == ("revision", "0", 1)
    assert isinstance(refusals[2], errors.InvalidTransition)
    assert isinstance(refusals[3], errors.WorkflowNotFound)


def test_of_many_rows_those_without_an_expected_revision_may_have_any(session: Session) -> None:
    owner = make_user(session)
    first, second = make_run(session, owner), make_run(session, owner)
    results = transition_many(session, [first, second], "queued", expected_revision={first.id_: 0})
    assert [result.changed for result in results] == [True, True]


def test_after_a_refusal_the_object_shows_what_is_stored(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    run = make_run(session, make_user(session), status="running")
    assert run.status is RunStatus.running
    with session_factory() as other:
        transition(other, run.id_, "finished", model=Workflow)
        other.commit()
    with pytest.raises(errors.InvalidTransition):
        transition(session, run, "queued")
    assert (run.status, run.revision) == (RunStatus.finished, 1)


def test_terminal_jobs_stay_terminal(session: Session) -> None:
    owner = make_user(session)
    for terminal in ("finished", "failed", "stopped"):
        job = make_guarded(session, owner, "job", terminal)
        for status in set(JobStatus) - {JobStatus(terminal)}:
            with pytest.raises(errors.InvalidTransition):
                transition(session, job, status)
            (result,) = transition_many(session, [job], status)
            assert (result.changed, result.status) == (False, terminal)


@pytest.mark.parametrize("change", [transition, lambda s, run, status: transition_many(s, [run], status)])
def test_a_savepoint_that_is_rolled_back_takes_the_object_along(session: Session, change) -> None:
    run = make_run(session, make_user(session))
    savepoint = session.begin_nested()
    change(session, run, RunStatus.queued)
    assert run.status is RunStatus.queued
    savepoint.rollback()
    assert (run.status, run.revision) == (RunStatus.created, 0)


def test_overrides_nest(session: Session) -> None:
    run = make_run(session, make_user(session), status="deleted")
    with override_guard(session, reason="outer"):
        with override_guard(session, reason="inner"):
            transition(session, run, RunStatus.created)
        transition(session, run, RunStatus.finished)
    session.commit()
    assert [change.reason for change in changes(session, run)] == ["inner", "outer"]


def test_a_status_that_does_not_exist_is_refused(session: Session) -> None:
    run = make_run(session, make_user(session))
    with pytest.raises(errors.UnknownStatus, match="workflow has no status 'bogus', only created, queued"):
        transition(session, run, "bogus")
