"""Pruning waits for nobody, and what speaks of a row goes with it, whoever deletes it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from platform_db import errors
from platform_db.health.deep_check import check_deeply
from platform_db.jobs.cache import find_cached_result
from platform_db.leases import heartbeat
from platform_db.lifecycle.history import add_note
from platform_db.lifecycle.transitions import override_guard, transition
from platform_db.models import Job, JobCache, Lease, Note, RunStatus, StatusChange, Workflow
from platform_db.retention import choose_rules, prune
from platform_db.retention import prune as prune_function
from platform_db.retention.archive import write_archive
from platform_db.tenancy import tenant_scope
from tests.factories import make_guarded, make_run, make_user
from tests.locks import wait_for_a_lock
from tests.tenants import prepare_roles
from tests.test_prune import NOW, ORPHANS, make_life

RULES = choose_rules(["workflow"], older_than=NOW)


@pytest.fixture
def session_factory(session_factory: sessionmaker[Session]) -> Iterator[sessionmaker[Session]]:
    """Let whoever waits for a lock fail."""
    engine = session_factory.kw["bind"]

    @sa.event.listens_for(engine, "begin")
    def wait_for_nobody(connection: sa.Connection) -> None:
        connection.exec_driver_sql("SET LOCAL lock_timeout = '300ms'")

    yield session_factory
    sa.event.remove(engine, "begin", wait_for_nobody)


def job_of(session: Session, run: Workflow) -> Job:
    return session.scalars(sa.select(Job).where(Job.workflow_id == run.id_)).one()


def hold_a_job(session: Session, run: Workflow) -> None:
    transition(session, job_of(session, run), "finished")


def hold_a_note(session: Session, run: Workflow) -> None:
    add_note(session, run, "still", "here")


def hold_a_lease(session: Session, run: Workflow) -> None:
    heartbeat(session, [job_of(session, run)], holder="n1/1")


def hold_a_hit(session: Session, run: Workflow) -> None:
    assert find_cached_result(session, run.owner_id, "p", "h") is not None


def hold_a_rule(session: Session, run: Workflow) -> None:
    (rule,) = run.retention_rules
    transition(session, rule, "pending")


@pytest.mark.parametrize("hold", [hold_a_job, hold_a_note, hold_a_lease, hold_a_hit, hold_a_rule])
def test_a_run_of_which_somebody_holds_a_part_is_left_whole(
    session: Session, session_factory: sessionmaker[Session], hold
) -> None:
    held = make_life(session, "deleted")
    heartbeat(session, [job_of(session, held)], holder="n1/1")
    held_id = held.id_
    make_life(session, "deleted")
    with session_factory() as other:
        hold(other, other.get_one(Workflow, held_id))
        (result,) = prune(session_factory, RULES)
        assert (result.rows, result.left) == (1, 1)
        other.commit()
    session.rollback()
    assert session.scalars(sa.select(Workflow.id_)).all() == [held_id]
    session.rollback()
    (result,) = prune(session_factory, RULES)
    assert (result.rows, result.left) == (1, 0)
    assert session.scalar(sa.text(ORPHANS)) == 0
    assert session.scalars(sa.select(Lease)).all() == []


@pytest.mark.parametrize("entity", ["workflow", "job", "interactive_session", "service", "user_token"])
def test_what_speaks_of_a_row_goes_with_it(session: Session, secret_key: str, entity: str) -> None:
    owner = make_user(session)
    row = make_guarded(session, owner, entity, "requested" if entity == "user_token" else "created")
    kept = make_run(session, owner, name="kept")
    add_note(session, kept, "a", "b")
    add_note(session, row, "a", "b")
    if entity != "user_token":
        heartbeat(session, [row])
    transition(session, row, {"user_token": "revoked", "workflow": "queued"}.get(entity, "running"))
    session.commit()
    session.delete(row)
    session.commit()
    assert session.scalars(sa.select(StatusChange)).all() == []
    assert session.scalars(sa.select(Lease)).all() == []
    assert session.scalars(sa.select(Note.entity_id)).all() == [kept.id_]
    assert check_deeply(session) == []


def test_a_run_that_goes_takes_the_histories_of_its_jobs_along(session: Session) -> None:
    run = make_life(session, "running")
    session.delete(run)
    session.commit()
    for model in (StatusChange, Note, Lease, Job):
        assert session.scalar(sa.select(sa.func.count()).select_from(model)) == 0


def test_a_tenant_may_delete_a_run_with_its_history(engine: sa.Engine, session: Session) -> None:
    prepare_roles(engine)
    run = make_life(session, "running")
    owner_id, run_id = run.owner_id, run.id_
    session.commit()
    with tenant_scope(engine, owner_id) as own:
        own.execute(sa.delete(Workflow).where(Workflow.id_ == run_id))
        assert own.scalar(sa.select(sa.func.count()).select_from(StatusChange)) == 0
    with (
        pytest.raises(sa.exc.ProgrammingError, match="permission denied"),
        tenant_scope(engine, owner_id) as own,
    ):
        own.execute(sa.delete(StatusChange))


def test_nothing_is_noted_about_what_is_gone(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    run = make_run(session, make_user(session))
    with session_factory() as other:
        other.execute(sa.delete(Workflow).where(Workflow.id_ == run.id_))
        other.commit()
    with pytest.raises(errors.NotFound):
        add_note(session, run, "too", "late")


def test_a_note_waits_for_the_end_of_a_deletion_and_is_not_left_behind(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    run = make_run(session, make_user(session))

    def note() -> None:
        with session_factory() as another:
            add_note(another, another.get_one(Workflow, run.id_), "too", "late")
            another.commit()

    with session_factory() as other, ThreadPoolExecutor() as pool:
        other.execute(sa.delete(Workflow).where(Workflow.id_ == run.id_))
        noted = pool.submit(note)
        wait_for_a_lock(session_factory)
        other.commit()
        with pytest.raises(errors.NotFound):
            noted.result()


def change(session: Session, run_id, how: str) -> None:
    if how == "touched":
        session.execute(sa.text("UPDATE platform.workflow SET priority = 1 WHERE id_ = :id"), {"id": run_id})
    else:
        with override_guard(session, reason="it was needed"):
            transition(session, session.get_one(Workflow, run_id), "running")
    session.commit()


@pytest.mark.parametrize("how", ["touched", "running"])
def test_what_changed_since_it_was_looked_at_stays(
    session: Session, session_factory: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    run_id = make_run(session, make_user(session), status="deleted").id_
    session.execute(sa.text("ALTER TABLE platform.workflow DISABLE TRIGGER stamp_row"))
    session.execute(sa.text("UPDATE platform.workflow SET updated = now() - interval '1 year'"))
    session.execute(sa.text("ALTER TABLE platform.workflow ENABLE TRIGGER stamp_row"))
    session.commit()
    sessions = 0

    def make() -> Session:
        nonlocal sessions
        sessions += 1
        if sessions == 2:  # The first one looks, the second one deletes.
            change(session, run_id, how)
        return session_factory()

    (result,) = prune(make, choose_rules(["workflow"]))

    assert (sessions, result.rows, result.left) == (2, 0, 0)
    assert session.get_one(Workflow, run_id).status is RunStatus("running" if how == "running" else "deleted")


def test_what_was_held_at_first_is_tried_again(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    make_life(session, "deleted")
    session.commit()
    other = session_factory()
    other.execute(sa.select(Workflow.id_).with_for_update())
    told = []

    def let_go(table: str, rows: int) -> None:
        told.append(rows)
        other.rollback()

    (result,) = prune(session_factory, RULES, progress=let_go)
    assert (told, result.rows, result.left) == ([0, 1], 1, 0)


def test_all_pages_are_looked_at(
    session: Session, session_factory: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[prune_function.__module__], "LOOK", 2)
    owner = make_user(session)
    for _ in range(5):
        make_run(session, owner, status="deleted")
    (result,) = prune(session_factory, RULES)
    assert (result.rows, result.left) == (5, 0)


def test_a_result_that_was_used_lately_stays(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    used, unused = make_life(session, "finished"), make_life(session, "finished")
    session.execute(sa.text("ALTER TABLE platform.job_cache DISABLE TRIGGER stamp_row"))
    session.execute(sa.text("UPDATE platform.job_cache SET updated = now() - interval '2 years'"))
    session.execute(sa.text("UPDATE platform.job_cache_use SET last_hit_at = now() - interval '2 years'"))
    session.commit()
    assert find_cached_result(session, used.owner_id, "p", "h") is not None
    session.commit()
    (result,) = prune(session_factory, choose_rules(["job_cache"]))
    assert result.rows == 1
    session.rollback()
    assert session.scalars(sa.select(JobCache.owner_id)).all() == [used.owner_id]
    assert unused.owner_id != used.owner_id


def test_an_archive_that_is_not_finished_has_no_name_of_one(tmp_path: Path) -> None:
    def rows() -> Iterator[tuple[str, str]]:
        yield "workflow", "{}"
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        write_archive(tmp_path, "workflow", rows())
    assert list(tmp_path.glob("*.jsonl.gz")) == []
