"""Replacing a log, and logs as attributes that are assigned: before a row is stored, and after."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from platform_db import errors
from platform_db.health.deep_check import check_deeply
from platform_db.logs import append_log, read_log, read_new_log, replace_log, tail_log
from platform_db.models import Job, LogChunk, LogSize, User, Workflow
from platform_db.tenancy import tenant_scope
from platform_db.testing.factories import make_job
from platform_db.testing.statements import assert_num_statements
from tests.factories import make_run, make_user
from tests.locks import wait_for_a_lock
from tests.tenants import prepare_roles

NEW = {
    "run": lambda owner, run, **values: Workflow(None, "new", owner.id_, {}, "serial", **values),
    "job": lambda owner, run, **values: Job(workflow_id=run.id_, **values),
}
New = Callable[..., Any]


def sizes(session: Session) -> list[int]:
    return list(session.scalars(sa.select(LogSize.bytes_).order_by(LogSize.bytes_)))


@pytest.fixture
def owner(session: Session) -> User:
    return make_user(session)


@pytest.fixture
def run(session: Session, owner: User) -> Workflow:
    return make_run(session, owner)


def test_a_log_is_replaced_and_others_stay(session: Session, run: Workflow) -> None:
    job, other = make_job(session, run, logs="job"), make_job(session, run, logs="other")
    for piece in ("one\n", "two\n"):
        append_log(session, run, piece)
    session.commit()
    assert replace_log(session, run, "new\n") == 4
    assert replace_log(session, job.id_, b"", model=Job) == 0
    session.commit()
    assert (run.logs, job.logs, other.logs) == ("new\n", "", "other")
    assert (read_log(session, run), tail_log(session, run)) == (b"new\n", "new\n")
    assert sizes(session) == [len("new\nother")]
    assert check_deeply(session) == []
    with pytest.raises(errors.NotFound):
        replace_log(session, run.owner_id, "text", model=Workflow)


def test_a_follower_gets_what_replaced_the_log(session: Session, run: Workflow) -> None:
    append_log(session, run, "old\n")
    session.commit()
    cursor = read_new_log(session, run).cursor
    replace_log(session, run, "new\n")
    session.commit()
    assert read_new_log(session, run, cursor).data == b"new\n"


def test_a_log_that_was_cut_has_room_again_once_it_is_replaced(session: Session, run: Workflow) -> None:
    assert append_log(session, run, "0123456789", limit=4) == 4
    session.commit()
    assert replace_log(session, run, "ab", limit=4) == 2
    assert append_log(session, run, "cd", limit=4) == 2
    session.commit()
    assert (run.logs, sizes(session)) == ("abcd", [4])
    assert replace_log(session, run, "0123456789", limit=4) == 4
    session.commit()
    assert (run.logs.startswith("0123\n[platform-db"), sizes(session)) == (True, [4])


def test_sizes_of_several_runs_go_up_and_down_in_one_transaction(session: Session, owner: User) -> None:
    runs = [make_run(session, owner, logs="0123456789") for _ in range(3)]
    replace_log(session, runs[0], "a")
    append_log(session, runs[1], "b")
    savepoint = session.begin_nested()
    replace_log(session, runs[2], "c")
    savepoint.rollback()
    session.commit()
    assert [len(run.logs) for run in runs] == [1, 11, 10]
    assert sizes(session) == [1, 10, 11]


def test_of_two_that_replace_a_log_at_once_the_second_ones_text_stays(
    session: Session, session_factory: sessionmaker[Session], run: Workflow
) -> None:
    key = (run.owner_id, run.id_)
    session.commit()
    replace_log(session, run, "first")

    def replace() -> None:
        with session_factory() as other, other.begin():
            replace_log(other, key, "second", model=Workflow)

    second = threading.Thread(target=replace)
    second.start()
    wait_for_a_lock(session_factory)
    session.commit()
    second.join()
    assert (run.logs, sizes(session)) == ("second", [6])


def test_a_tenant_appends_and_does_not_replace(engine: sa.Engine, session: Session, run: Workflow) -> None:
    prepare_roles(engine)
    append_log(session, run, "kept")
    owner_id, id_ = run.owner_id, run.id_
    session.commit()
    with tenant_scope(engine, owner_id) as scoped:
        mine = scoped.scalars(sa.select(Workflow).where(Workflow.id_ == id_)).one()
        mine.logs += ", more"
        scoped.flush()
        with pytest.raises(errors.Refused, match="outside the tenant's scope"):
            replace_log(scoped, mine, "gone")
        scoped.commit()
    assert run.logs == "kept, more"


@pytest.mark.parametrize("new", NEW.values(), ids=NEW)
def test_a_new_rows_log_is_assigned_before_it_is_stored(
    session: Session, owner: User, run: Workflow, new: New
) -> None:
    row = new(owner, run, logs="one, ")
    assert row.logs == "one, "
    row.logs += "two, "
    row.append_logs("three")
    assert row.logs == "one, two, three"
    row.logs = "whole"
    session.add(row)
    row.logs += ", and more"
    assert row.logs == "whole, and more"
    session.commit()
    assert (row.logs, sizes(session)) == ("whole, and more", [15])
    assert check_deeply(session) == []


@pytest.mark.parametrize("new", NEW.values(), ids=NEW)
def test_what_is_added_to_a_log_is_appended_and_anything_else_replaces_it(
    session: Session, session_factory: sessionmaker[Session], owner: User, run: Workflow, new: New
) -> None:
    session.add(row := new(owner, run, logs="one"))
    session.commit()
    row.logs += ", two"
    row.logs += ", three"
    with session_factory() as other, other.begin():
        append_log(other, (row.owner_id, row.id_), ", meanwhile", model=type(row))
    session.commit()
    assert row.logs == "one, two, meanwhile, three"
    pieces = session.scalar(sa.select(sa.func.count()).select_from(LogChunk))
    assert pieces == 4, "what was there is not written again"
    row.logs = "new"
    row.append_logs(", then")
    session.commit()
    assert (row.logs, sizes(session)) == ("new, then", [9])
    row.logs = row.logs.upper()
    session.commit()
    row.logs = b"\xff\0"
    session.commit()
    assert (read_log(session, row), row.logs, sizes(session)) == (b"\xff\0", "\\xff\0", [2])
    row.logs = ""
    session.commit()
    assert (row.logs, sizes(session)) == ("", [0])


def test_the_last_text_that_was_assigned_stays(session: Session, run: Workflow) -> None:
    append_log(session, run, "old")
    before = run.logs
    for text in ("first", before + " second", before + " third"):
        run.logs = text
    append_log(session, run, "!")
    assert run.logs == "old third!"
    run.append_logs(" meanwhile,")
    run.logs = "old third! fourth"
    session.commit()
    assert run.logs == "old third! meanwhile, fourth"


def test_what_was_assigned_is_forgotten_with_a_rollback(session: Session, run: Workflow) -> None:
    run.logs = "kept"
    session.commit()
    run.logs += ", not kept"
    session.rollback()
    run.name = "renamed"
    session.commit()
    assert (run.logs, run.name) == ("kept", "renamed")
    append_log(session, run, "!")
    lost = run.logs
    session.rollback()
    run.logs = lost + "?"
    session.commit()
    assert (run.logs, sizes(session)) == ("kept!?", [6])


def test_a_row_that_is_deleted_loses_what_was_assigned(session: Session, run: Workflow) -> None:
    run.logs = "late"
    session.delete(run)
    session.commit()
    assert session.scalars(sa.select(LogChunk)).all() == []


def test_appending_by_assignment_reads_once_and_writes_once(session: Session, run: Workflow) -> None:
    assert (run.owner_id, run.logs) is not None
    with assert_num_statements(2):
        run.logs += "text"
        session.flush()


def test_a_log_of_a_row_in_no_session_is_not_assigned(session: Session, run: Workflow) -> None:
    session.expunge(run)
    with pytest.raises(errors.PlatformDBError, match="in no session"):
        run.logs = "text"
