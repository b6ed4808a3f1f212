"""The guard: for every pair of statuses, whoever writes meets the rules of states.py."""

from __future__ import annotations

import io
import itertools

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors, states
from platform_db.models import Base, StatusChange
from tests.factories import make_guarded, make_run, make_user


@pytest.mark.parametrize("entity", states.MACHINES)
def test_bulk_update_raw_sql_and_orm_agree_with_the_tables(
    session: Session, secret_key: str, entity: str
) -> None:
    machine = states.MACHINES[entity]
    owner = make_user(session)
    for stored in machine.statuses:
        for status in machine.statuses:
            for write in (bulk_update, raw_sql, orm_attribute):
                if write is orm_attribute and stored == status:
                    continue  # the ORM writes nothing then
                row = make_guarded(session, owner, entity, stored)
                changed = allowed(session, write, row, status)
                assert changed == machine.allows(stored, status), f"{write.__name__}: {stored} to {status}"
                session.refresh(row)
                assert row.status == (status if changed else stored)
                assert row.revision == (1 if changed and stored != status else 0)
                assert len(history(session, row)) == row.revision
                session.delete(row)
                session.commit()


def bulk_update(session: Session, row: Base, status: states.Status) -> None:
    session.execute(sa.update(type(row)).where(type(row).id_ == row.id_).values(status=status))


def raw_sql(session: Session, row: Base, status: states.Status) -> None:
    with session.connection().connection.cursor() as cursor:
        statement = f"UPDATE platform.{row.__tablename__} SET status = %s WHERE id_ = %s"
        cursor.execute(statement, (status.value, str(row.id_)))


def orm_attribute(session: Session, row: Base, status: states.Status) -> None:
    row.status = status
    session.flush()


def allowed(session: Session, write, row: Base, status: states.Status) -> bool:
    row_id = str(row.id_)
    try:
        write(session, row, status)
    except errors.InvalidTransition as error:
        assert (error.entity, error.entity_id) == (row.__tablename__, row_id)
        assert error.status == status.value
    except Exception as error:
        # psycopg2's own cursor knows nothing of platform-db's errors, but the code is there.
        assert getattr(error, "pgcode", None) == "PD001"
    else:
        session.commit()
        return True
    session.rollback()
    return False


def merge(session: Session, row: Base, status: states.Status) -> None:
    statement = (
        f"MERGE INTO platform.{row.__tablename__} AS target USING (SELECT CAST(:id AS uuid) AS id_) AS source"
        f" ON target.id_ = source.id_ WHEN MATCHED THEN UPDATE SET status = '{status.value}'"
    )
    session.execute(sa.text(statement), {"id": row.id_})


def on_conflict(session: Session, row: Base, status: states.Status) -> None:
    statement = (
        f"INSERT INTO platform.{row.__tablename__} SELECT * FROM platform.{row.__tablename__} WHERE id_ = :id"
        f" ON CONFLICT (id_) DO UPDATE SET status = '{status.value}'"
    )
    session.execute(sa.text(statement), {"id": row.id_})


@pytest.mark.parametrize("write", [merge, on_conflict])
@pytest.mark.parametrize("entity", states.MACHINES)
def test_merge_and_upsert_meet_the_guard(session: Session, secret_key: str, entity: str, write) -> None:
    machine = states.MACHINES[entity]
    stored = next(status for status in machine.statuses if machine.transitions[status])
    for status in set(machine.statuses) - {stored}:
        row = make_guarded(session, make_user(session), entity, stored)
        changed = allowed(session, write, row, status)
        assert changed == machine.allows(stored, status)
        session.refresh(row)
        assert (row.status == status) == changed
        assert len(history(session, row)) == row.revision == int(changed)


def test_copy_meets_the_guard(session: Session) -> None:
    run = make_run(session, make_user(session), status="failed")
    run.status = states.RunStatus.running
    session.commit()
    with session.connection().connection.cursor() as cursor:
        rows = io.StringIO()
        cursor.copy_expert("COPY (SELECT * FROM platform.workflow) TO STDOUT", rows)
        cursor.execute("DELETE FROM platform.workflow")
        cursor.copy_expert("COPY platform.workflow FROM STDIN", io.StringIO(rows.getvalue()))
    session.commit()
    assert (run.status, run.revision) == (states.RunStatus.running, 0)  # its history went with it


def history(session: Session, row: Base) -> list[StatusChange]:
    query = sa.select(StatusChange).where(StatusChange.entity_id == row.id_).order_by(StatusChange.revision)
    return list(session.scalars(query))


@pytest.mark.parametrize("status", states.RunStatus)
def test_any_status_may_be_inserted_and_is_stamped(session: Session, status: states.RunStatus) -> None:
    run = make_run(session, make_user(session), status=status)
    assert (run.run_started_at is not None) == (status == "running")
    assert (run.run_finished_at is not None) == (status in ("finished", "failed"))
    assert (run.run_stopped_at is not None) == (status == "stopped")
    assert run.revision == 0


def test_going_to_running_stamps_the_start_and_clears_the_ends(session: Session) -> None:
    run = make_run(session, make_user(session), status="failed", run_started_at="2020-01-01T00:00:00Z")
    assert run.run_finished_at is not None
    run.status = states.RunStatus.running
    session.commit()
    assert run.run_started_at.year > 2020
    assert run.run_finished_at is None
    assert run.run_stopped_at is None


def test_a_time_that_the_caller_gives_is_kept(session: Session) -> None:
    run = make_run(session, make_user(session), status="pending")
    run.status, run.run_started_at = states.RunStatus.running, "2021-01-01T00:00:00Z"
    session.commit()
    run.status, run.run_finished_at = states.RunStatus.finished, "2021-01-02T00:00:00Z"
    session.commit()
    assert (run.run_started_at.year, run.run_finished_at.day) == (2021, 2)


def test_a_revision_cannot_be_written_past_the_guard(session: Session) -> None:
    run = make_run(session, make_user(session))
    session.execute(sa.text("UPDATE platform.workflow SET revision = 17"))
    session.commit()
    assert run.revision == 0


def test_a_status_that_stays_leaves_no_trace(session: Session) -> None:
    run = make_run(session, make_user(session), status="running")
    started = run.run_started_at
    session.execute(sa.text("UPDATE platform.workflow SET status = 'running'"))
    session.commit()
    assert (run.run_started_at, run.revision, history(session, run)) == (started, 0, [])


def test_a_finished_run_keeps_its_finish_time(session: Session) -> None:
    make_run(session, make_user(session), status="finished")
    with pytest.raises(sa.exc.IntegrityError, match="finished_has_end"):
        session.execute(sa.text("UPDATE platform.workflow SET run_finished_at = NULL"))


def test_a_row_keeps_its_id_and_its_owner(session: Session) -> None:
    run, stranger = make_run(session, make_user(session)), make_user(session)
    run.owner_id = stranger.id_
    with pytest.raises(errors.Refused, match="keeps its id and its owner"):
        session.flush()


def test_a_row_that_comes_back_begins_anew(session: Session) -> None:
    owner = make_user(session)
    run = make_run(session, owner)
    run_id = run.id_
    run.status = states.RunStatus.queued
    session.commit()
    session.delete(run)
    session.commit()
    again = make_run(session, owner, id_=run_id)
    assert (again.revision, history(session, again)) == (0, [])
    again.status = states.RunStatus.queued
    session.commit()
    assert [change.revision for change in history(session, again)] == [1]


@pytest.mark.parametrize("settings", [("override", "why"), ("override 1", "why"), ("override {now}", "")])
def test_an_override_needs_this_transaction_and_a_reason(session: Session, settings: tuple[str, str]) -> None:
    run = make_run(session, make_user(session), status="deleted")
    now = session.scalar(sa.text("SELECT pg_current_xact_id()::text"))
    session.execute(sa.text("SET LOCAL platform.guard = :value"), {"value": settings[0].format(now=now)})
    session.execute(sa.text("SET LOCAL platform.reason = :value"), {"value": settings[1]})
    run.status = states.RunStatus.running
    with pytest.raises(errors.InvalidTransition):
        session.flush()


@pytest.mark.parametrize("entity", states.MACHINES)
def test_a_way_takes_legal_steps_alone_and_is_there_where_there_is_one(entity: str) -> None:
    machine = states.MACHINES[entity]
    for stored in machine.statuses:
        reached, before = {stored}, set()
        while reached != before:
            before = reached
            reached = reached | {status for from_ in reached for status in machine.transitions[from_]}
        for status in machine.statuses:
            way = machine.way(stored, status)
            assert (way is not None) == (status in reached)
            steps = [stored, *(way or [])]
            assert all(after in machine.transitions[step] for step, after in itertools.pairwise(steps))
            assert way is None or steps[-1] == status
    assert states.WORKFLOW.way(states.RunStatus.created, states.RunStatus.finished) == [
        "queued",
        "running",
        "finished",
    ]
