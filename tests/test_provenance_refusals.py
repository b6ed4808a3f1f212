"""Rows that cannot be stored: each is put aside with its method's name, and the rest is stored."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session

from platform_db import errors, quota
from platform_db.models import User
from platform_db.provenance import Recorder, recorder, statements
from tests.provenance_rows import (
    NOW,
    count,
    make_owner,
    put_call,
    put_execution,
    put_job,
    put_task,
    put_value,
    recorders,
)

MakeRecorder = Callable[..., Recorder]


@pytest.fixture
def owner(session: Session) -> User:
    return make_owner(session)


@pytest.fixture
def make_recorder(engine: sa.Engine, owner: User) -> Iterator[MakeRecorder]:
    with recorders(engine, owner) as make:
        yield make


def test_a_row_that_cannot_be_stored_is_put_aside_and_the_rest_is_stored(
    engine: sa.Engine, make_recorder: MakeRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    one = make_recorder()
    put_task(one)
    put_value(one, "argument")
    types, arguments, keys = {7: "a\0b", 9: "\ud800", 11: None}, {17: "nothing"}, {27: "\0"}
    for number in range(50):
        put_value(one, f"value {number}", type=types.get(number, "bytes"))
        one.remember(f"value {number}")
        put_call(one, f"call {number}", arguments.get(number, "argument"), keys.get(number))
    with pytest.raises(errors.NotRecorded) as caught, caplog.at_level(logging.ERROR):
        one.flush()

    assert set(caught.value.methods) == {"record_value", "record_call_node"}
    assert {row.key for row in caught.value.refused if row.table in ("value", "call_node")} == {
        "value 7",
        "value 9",
        "value 11",
        "call 17",
        "call 27",
    }
    assert "record_call_node: the call_node call 17 was put aside" in caplog.text
    assert (count(engine, "value"), count(engine, "call_node")) == (49, 48)
    assert count(engine, "call_argument") == count(engine, "call_subtree_task") == 48
    assert not one.known("value 7")
    one.flush()  # It is said once.
    put_value(one, "value 7")
    one.flush()
    assert count(engine, "value") == 50


def test_an_execution_that_cannot_be_stored_takes_its_jobs_along_and_no_others(
    engine: sa.Engine, make_recorder: MakeRecorder
) -> None:
    one = make_recorder()
    put_task(one)
    for name, args in (("good", "[]"), ("bad", "\0")):
        with one.together():
            put_execution(one, name, f"{name} 0", args)
            put_job(one, f"{name} 0", name)
        for number in range(1, 20):
            put_job(one, f"{name} {number}", name, parent_id=f"{name} 0")
    with pytest.raises(errors.NotRecorded, match=r"record_execution.*record_job"):
        one.flush()

    assert (count(engine, "call_execution"), count(engine, "call_job")) == (1, 20)


def test_values_beyond_the_database_storage_are_put_aside(
    engine: sa.Engine, make_recorder: MakeRecorder, session: Session, owner: User
) -> None:
    quota.set_limit(session, owner.id_, "database", 1000)
    session.commit()
    one = make_recorder()
    put_value(one, "large", bytes(2000))
    put_value(one, "small", bytes(500))
    with pytest.raises(errors.NotRecorded, match="database storage"):
        one.flush()

    assert count(engine, "value") == 1


def test_a_row_that_no_statement_can_hold_is_put_aside(
    engine: sa.Engine, make_recorder: MakeRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "LARGEST_BYTES", 10_000)
    one = make_recorder()
    put_value(one, "small")
    put_value(one, "large", bytes(20_000))
    with pytest.raises(errors.NotRecorded, match="10000 bytes"):
        one.flush()

    assert count(engine, "value") == 1


def test_an_owner_without_room_does_not_hold_up_the_recorder(
    make_recorder: MakeRecorder, session: Session, owner: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    quota.set_limit(session, owner.id_, "database", 1000)
    session.commit()
    written: list[int] = []
    insert = statements.insert
    monkeypatch.setattr(statements, "insert", lambda *given: written.append(1) or insert(*given))
    monkeypatch.setattr(recorder, "FULL_ROWS", 1000)
    one = make_recorder(delay=60)
    for number in range(640):  # one batch
        put_value(one, f"large {number}", bytes(2000))
    with pytest.raises(errors.NotRecorded, match="640 rows"):
        one.flush()

    assert len(written) < 100


def test_rows_that_spoil_a_batch_together_hold_up_no_further_ones(
    engine: sa.Engine, make_recorder: MakeRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    one = make_recorder()
    put_task(one)
    one.flush()
    for key in ("a", "b"):  # Not the row's own key.
        row = {"eval_hash": "eval", "task_hash": "task", "args_hash": "", "value_hash": "task"}
        one.put("evaluation", key, row, "set_eval_cache")
    with pytest.raises(errors.NotRecorded, match="2 of set_eval_cache"):
        one.flush()
    assert "INSERT" not in caplog.text

    put_value(one, "later")
    one.flush()
    assert count(engine, "value") == 2


@pytest.mark.parametrize("type_", ["bytes", "a\0b"])
def test_a_batch_that_is_too_long_for_a_statement_is_one_transaction(
    engine: sa.Engine, make_recorder: MakeRecorder, monkeypatch: pytest.MonkeyPatch, type_: str
) -> None:
    monkeypatch.setattr(statements, "LARGEST_STATEMENT", 10_000)
    sent: list[int] = []
    one = make_recorder()
    event.listen(one._engine, "before_cursor_execute", lambda *given: sent.append(len(str(given[3]))))
    with one.together():
        for number in range(20):
            put_value(one, f"value {number}", bytes(3000), type=type_ if number == 7 else "bytes")
    with suppress(errors.NotRecorded):
        one.flush()

    assert max(sent) < 30_000
    with engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT xmin::text, count(*) FROM platform.value GROUP BY 1").all()
    assert [rows for _, rows in found] == [20 if type_ == "bytes" else 19]


def test_a_job_whose_call_was_pruned_meanwhile_is_stored_without_it(
    engine: sa.Engine, make_recorder: MakeRecorder
) -> None:
    one = make_recorder()
    put_task(one)
    with one.together():
        put_execution(one)
        put_job(one, "job", end_time=NOW, call_hash="pruned", cached=True)
    one.flush()

    with engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT id, end_time, call_hash FROM platform.call_job")
        assert rows.all() == [("job", NOW, None)]


def test_a_row_with_a_value_of_another_type_is_put_aside(
    engine: sa.Engine, make_recorder: MakeRecorder
) -> None:
    one = make_recorder()
    put_task(one)
    with one.together():
        put_execution(one)
        put_job(one, "job", end_time="later")
    with pytest.raises(errors.NotRecorded, match="of record_job"):
        one.flush()
    put_value(one, "v")
    one.flush()

    assert (count(engine, "value"), count(engine, "call_job")) == (2, 0)
