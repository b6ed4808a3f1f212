"""A job has a phase beside its status, in the engine's own words: each state of an execution has a place."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from platform_db import errors
from platform_db.identifiers import new_id
from platform_db.leases import heartbeat, recover_owned_by
from platform_db.lifecycle import history, set_phase, transition
from platform_db.models import Job, JobStatus, Lease, RunStatus, User
from platform_db.tenancy import tenant_scope
from platform_db.workflows import cancel
from tests.factories import make_guarded, make_run, make_user
from tests.locks import wait_for_a_lock
from tests.tenants import prepare_roles

PAGE = Path(__file__).parents[1] / "docs" / "stopping.rst"


@pytest.fixture
def job(session: Session) -> Job:
    """Return a running job."""
    job: Job = make_guarded(session, make_user(session), "job", "running")
    return job


def phases(session: Session, job: Job) -> list[tuple[str | None, object]]:
    entries = history(session, job).rows
    return [(entry.message, (entry.details or {})["from"]) for entry in entries if entry.topic == "phase"]


def test_each_phase_is_kept_in_the_history(session: Session, job: Job) -> None:
    for phase in ("waiting for verification", "publishing", "publishing", None):
        set_phase(session, job, phase)
        assert job.phase == phase
    session.commit()
    assert phases(session, job) == [
        ("waiting for verification", None),
        ("publishing", "waiting for verification"),
        ("", "publishing"),
    ]
    assert (job.status, job.revision) == (JobStatus.running, 0)


@pytest.mark.parametrize("named", ["id", "key"])
def test_a_job_is_named_by_its_id_or_its_key(session: Session, job: Job, named: str) -> None:
    set_phase(session, job.id_ if named == "id" else (job.owner_id, job.id_), "publishing")
    assert job.phase == "publishing"


def test_a_phase_is_changed_only_from_the_one_that_is_expected(session: Session, job: Job) -> None:
    set_phase(session, job, "bid accepted", expected_phase=None)
    with pytest.raises(errors.Conflict, match="expected phase None, stored is running at revision 0"):
        set_phase(session, job, "publishing", expected_phase=None)
    set_phase(session, job, "publishing", expected_phase="bid accepted")
    assert [phase for phase, _ in phases(session, job)] == ["bid accepted", "publishing"]


@pytest.mark.parametrize("status", ["finished", "failed", "stopped"])
def test_a_job_that_has_ended_keeps_its_last_phase(session: Session, job: Job, status: str) -> None:
    set_phase(session, job, "publishing")
    transition(session, job, status)
    with pytest.raises(
        errors.Conflict, match=f"expected status created or queued or running, stored is {status}"
    ):
        set_phase(session, job, "cleaning")
    assert job.phase == "publishing"


def test_what_is_no_phase_is_refused(session: Session, job: Job) -> None:
    for phase in ("", "x" * 256, "ü" * 128, "a\0b", "\ud800", 3, b"publishing"):
        with pytest.raises(errors.InvalidArgument, match="a text of 1 to 255 bytes"):
            set_phase(session, job, phase)  # type: ignore[arg-type]
        with pytest.raises(errors.InvalidArgument, match="a text of 1 to 255 bytes"):
            set_phase(session, job, "publishing", expected_phase=phase)  # type: ignore[arg-type]
    with pytest.raises(errors.NotFound, match="there is no job"):
        set_phase(session, new_id(), "publishing")


def test_a_tenant_sets_phases_and_cancels_its_own_rows_alone(
    session: Session, session_factory: sessionmaker[Session], engine: sa.Engine, job: Job
) -> None:
    prepare_roles(engine)
    eve = make_user(session, email="eve@example.org")
    run = make_run(session, session.get_one(User, job.owner_id), status="queued")
    with tenant_scope(session_factory, job.owner_id) as own:
        set_phase(own, job.id_, "publishing")
        assert phases(own, own.get_one(Job, job.id_)) == [("publishing", None)]
    with tenant_scope(session_factory, eve) as other:
        with pytest.raises(errors.NotFound):
            set_phase(other, job.id_, "stolen")
        with pytest.raises(errors.NotFound):
            cancel(other, run.id_)
    with tenant_scope(session_factory, job.owner_id) as own:
        assert cancel(own, run.id_) is RunStatus.stopped


def test_a_phase_waits_for_the_end_of_the_job_and_is_then_refused(
    session: Session, session_factory: sessionmaker[Session], job: Job
) -> None:
    refused: list[str] = []

    def publish() -> None:
        with session_factory() as engine:
            try:
                set_phase(engine, job_id, "publishing")
            except errors.Conflict as error:
                refused.append(error.stored_status)
            engine.commit()

    job_id = job.id_
    transition(session, job, "failed")
    thread = threading.Thread(target=publish)
    thread.start()
    wait_for_a_lock(session_factory)
    session.commit()
    thread.join()
    assert (refused, job.phase) == (["failed"], None)


def states() -> list[tuple[str, str, str, str, str]]:
    """Return the table of the page: state, status, phase, and what becomes of a batch and of a service."""
    _, _, rest = PAGE.read_text(encoding="utf-8").partition("\nState of an execution")
    rule, *lines = rest.split("\n")[1:]
    spans = [found.span() for found in re.finditer("=+", rule)]
    rows = []
    for line in lines:
        if line.startswith("="):
            break
        state, status, phase, batch, service = (line[start:end].strip() for start, end in spans)
        rows.append((state, status, phase, batch, service))
    return rows


def test_nine_states_have_their_place() -> None:
    assert [state for state, *_ in states()] == [
        "created",
        "bid accepted",
        "running",
        "waiting for verification",
        "result accepted",
        "publishing",
        "completed",
        "failed",
        "cancelled",
    ]


@pytest.mark.parametrize("type_", ["batch", "service"])
@pytest.mark.parametrize("state", states(), ids=lambda state: state[0])
def test_each_state_becomes_at_the_restart_of_its_node_what_the_page_says(
    session: Session, state: tuple[str, str, str, str, str], type_: str
) -> None:
    _, status, phase, batch, service = state
    action = {"batch": batch, "service": service}[type_]
    run = make_run(session, make_user(session), status="running", type_=type_)
    job = Job(workflow_id=run.id_, status="running" if action == "stays" else status)
    session.add(job)
    session.commit()
    heartbeat(session, [job], "n1/1")
    if phase:
        set_phase(session, job, phase)
    transition(session, job, status)
    session.commit()

    counts = recover_owned_by(session, "n1")

    session.commit()
    restarts = session.scalars(sa.select(Job).where(Job.id_ != job.id_)).all()
    expected = {
        "released": (status, None, 0, {status: 1}),
        "failed": ("failed", phase or None, 0, {"failed": 1}),
        "restarted": ("failed", phase or None, 1, {"failed": 1, "queued": 1}),
        "stays": (status, phase or None, 0, {}),
    }[action]
    assert (job.status, job.phase, len(restarts), counts) == expected
    assert session.scalars(sa.select(Lease)).all() == []
