"""The recorder: batches are whole, outlive a server's restart, and are each tenant's own."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from platform_db import errors
from platform_db.models import User
from platform_db.provenance import Recorder, lookups, recorder, recorder_of
from platform_db.tenancy.privileges import Role
from tests.factories import make_user
from tests.locks import wait_for_a_lock
from tests.provenance_rows import (
    NOW,
    count,
    counts,
    make_owner,
    put_call,
    put_everything,
    put_execution,
    put_job,
    put_task,
    put_value,
    recorders,
)
from tests.tenants import login_engine, prepare_roles
from tests.test_tasks import close_database

MakeRecorder = Callable[..., Recorder]


@pytest.fixture
def owner(session: Session) -> User:
    return make_owner(session)


@pytest.fixture
def make_recorder(engine: sa.Engine, owner: User) -> Iterator[MakeRecorder]:
    with recorders(engine, owner) as make:
        yield make


def test_a_batch_of_every_table_is_one_transaction_and_writing_it_again_changes_nothing(
    engine: sa.Engine, make_recorder: MakeRecorder
) -> None:
    one = make_recorder()
    put_everything(one)
    assert count(engine, "value") == 0
    one.flush()

    stored = counts(engine)
    assert min(stored.values()) >= 1
    with engine.connect() as connection:
        for table in recorder.TABLES:
            statement = f"SELECT DISTINCT xmin::text FROM platform.{table}"
            assert len(connection.exec_driver_sql(statement).all()) == 1
        assert connection.exec_driver_sql(
            "SELECT value FROM platform.entity_tag WHERE tag_hash = 'tag 1'"
        ).scalar_one() == {"a": 'b"\\'}
    put_everything(make_recorder())
    assert counts(engine) == stored


@pytest.mark.parametrize("data", [b"", b'\0\xff\\"{},', bytes(range(256)) * 1000])
def test_any_bytes_come_back(make_recorder: MakeRecorder, data: bytes) -> None:
    one = make_recorder()
    put_value(one, "v", data)
    one.flush()

    ((value,),) = one.reading.execute("SELECT value FROM platform.value WHERE value_hash = 'v'")
    assert bytes(value) == data


def test_rows_are_on_the_disk_a_moment_later(engine: sa.Engine, make_recorder: MakeRecorder) -> None:
    put_value(make_recorder(delay=0.05), "v")

    give_up_at = time.monotonic() + 30
    while not count(engine, "value"):
        assert time.monotonic() < give_up_at
        time.sleep(0.02)


def test_what_is_put_together_is_written_together(engine: sa.Engine, make_recorder: MakeRecorder) -> None:
    one = make_recorder(delay=0.001)
    with one.together():
        put_value(one, "whole")
        time.sleep(0.3)
        put_value(one, "part")
    one.flush()

    with engine.connect() as connection:
        transactions = connection.exec_driver_sql("SELECT DISTINCT xmin::text FROM platform.value").all()
    assert len(transactions) == 1


def test_what_is_not_committed_yet_is_read_by_its_key(make_recorder: MakeRecorder) -> None:
    one = make_recorder()
    put_value(one, "v", b"abc")

    found = one.pending("value", "v")
    assert found is not None
    assert (found["value"], found["size"]) == (b"abc", 3)
    one.flush()
    assert one.pending("value", "v") is None


def test_a_job_is_written_once_where_it_ends_within_the_delay(
    engine: sa.Engine, make_recorder: MakeRecorder
) -> None:
    one = make_recorder()
    put_task(one)
    put_value(one, "argument")
    with one.together():
        put_execution(one)
        put_job(one, "job")
    put_call(one, "call")
    put_job(one, "job", end_time=NOW, call_hash="call")
    one.flush()
    put_job(one, "later")
    one.flush()
    put_job(one, "later", end_time=NOW, call_hash="call", cached=True)
    one.flush()
    put_job(one, "later", end_time=NOW.replace(hour=23), call_hash="call")
    one.flush()

    with engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT id, end_time, cached FROM platform.call_job ORDER BY id")
        assert rows.all() == [("job", NOW, False), ("later", NOW, True)]


def test_all_that_record_for_an_owner_share_a_recorder(engine: sa.Engine, owner: User) -> None:
    one = recorder_of(engine, owner)

    assert recorder_of(engine, owner.id_) is one
    assert recorder_of(engine, owner, as_tenant=True) is not one
    one.close()


def test_an_owner_that_no_one_records_for_takes_no_memory(engine: sa.Engine, owner: User) -> None:
    one = recorder_of(engine, owner)
    put_value(one, "v")
    one.close()
    former = weakref.ref(one)
    del one
    gc.collect()

    assert former() is None


def test_hashes_are_forgotten_within_an_hour(
    make_recorder: MakeRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make_recorder()
    one.remember("old")
    clock = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: clock + 1801)
    assert one.known("old")
    one.remember("young")
    monkeypatch.setattr(time, "monotonic", lambda: clock + 3602)
    assert not one.known("old")
    assert one.known("young")


def test_the_same_calls_in_another_order_are_not_further_ones(
    engine: sa.Engine, make_recorder: MakeRecorder
) -> None:
    for order in (["a", "b"], ["b", "a"]):
        one = make_recorder()
        put_task(one)
        put_value(one, "argument")
        for child in "ab":
            put_call(one, child)
        put_call(one, "parent", children=order)
        one.flush()

    with engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT child_id FROM platform.call_edge ORDER BY call_order")
        assert rows.scalars().all() == ["a", "b"]


def test_a_batch_outlives_a_restart_while_it_is_sent(
    engine: sa.Engine, make_recorder: MakeRecorder, session_factory: sessionmaker[Session]
) -> None:
    one = make_recorder(delay=0.01)
    name = engine.url.database
    with engine.connect() as connection:
        connection.exec_driver_sql("LOCK TABLE platform.handle")  # The batch waits here, half written.
        with one.together():
            put_everything(one)
        wait_for_a_lock(session_factory)
        close_database(engine, name)
        try:
            put_value(one, "meanwhile")
            time.sleep(0.3)
        finally:
            close_database(engine, name, open_=True)
        connection.invalidate()
    one.flush()

    assert min(counts(engine).values()) >= 1
    assert count(engine, "value") == 8


def test_a_flush_says_that_the_server_does_not_answer_and_loses_nothing(
    engine: sa.Engine, make_recorder: MakeRecorder
) -> None:
    one = make_recorder(patience=0.3)
    name = engine.url.database
    close_database(engine, name)
    try:
        put_value(one, "v")
        with pytest.raises(errors.Unreachable):
            one.flush()
    finally:
        close_database(engine, name, open_=True)
    one.flush()

    assert count(engine, "value") == 1


def test_what_a_read_only_server_refuses_is_written_later(
    engine: sa.Engine, make_recorder: MakeRecorder
) -> None:
    one = make_recorder(patience=0.3)
    name = engine.url.database
    set_option = f'ALTER DATABASE "{name}" {{}} default_transaction_read_only'
    with engine.begin() as connection:
        connection.exec_driver_sql(set_option.format("SET") + " = on")
    put_value(one, "v")
    with pytest.raises(errors.NotWritable, match="read-only"):
        one.flush()
    with engine.begin() as connection:
        connection.exec_driver_sql(set_option.format("RESET"))
    one.flush()

    assert count(engine, "value") == 1


def test_a_login_without_rights_is_told_and_loses_nothing(
    engine: sa.Engine, make_recorder: MakeRecorder
) -> None:
    one = make_recorder(login_engine(engine, "provenance_nobody"), delay=0.01, buffer_limit=1000)
    put_value(one, "v", bytes(1000))
    with pytest.raises(errors.RolesMissing, match="permission denied"):
        one.flush()
    with pytest.raises(errors.RolesMissing, match="permission denied"):
        put_value(one, "w")  # It does not wait for room for ever.
    with pytest.raises(errors.RolesMissing, match="permission denied"):
        one.reading.execute("SELECT FROM platform.value")
    prepare_roles(engine)
    login_engine(engine, "provenance_nobody", Role.service)
    one.flush()

    assert count(engine, "value") == 1


def test_a_role_that_is_missing_spoils_no_row(
    engine: sa.Engine, make_recorder: MakeRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make_recorder(as_tenant=True)
    put_value(one, "v")
    with monkeypatch.context() as patch:
        patch.setattr(one._connection, "_enter", "SET LOCAL ROLE nowhere;")
        with pytest.raises(errors.RolesMissing, match="role of platform-db is missing"):
            one.flush()
    prepare_roles(engine)
    one.flush()

    assert count(engine, "value") == 1


def test_who_records_waits_when_the_buffer_is_full(engine: sa.Engine, make_recorder: MakeRecorder) -> None:
    one = make_recorder(delay=0.01, buffer_limit=100_000)
    name = engine.url.database
    close_database(engine, name)

    def put() -> None:
        for number in range(30):
            put_value(one, str(number), bytes(10_000))

    thread = threading.Thread(target=put)
    try:
        thread.start()
        thread.join(1)
        assert thread.is_alive()
    finally:
        close_database(engine, name, open_=True)
    thread.join(60)
    one.flush()

    assert count(engine, "value") == 30


def test_two_writers_record_the_same_at_once(engine: sa.Engine, make_recorder: MakeRecorder) -> None:
    recorders = [make_recorder(delay=0.005) for _ in range(4)]
    failed = []

    def work(number: int) -> None:
        one = recorders[number]
        order = list(range(200)) if number % 2 else list(reversed(range(200)))
        try:
            put_task(one)
            put_value(one, "argument")
            one.flush()
            for place in order:
                put_value(one, f"value {place}")
                put_call(one, f"call {place}")
                row = {"eval_hash": f"eval {place}", "task_hash": "task", "args_hash": "a"}
                row["value_hash"] = f"value {place}" if number % 2 else "argument"
                one.put("evaluation", f"eval {place}", row, "set_eval_cache")
                if not place % 40:
                    one.flush()
            one.flush()
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not failed
    assert count(engine, "value") == 202
    assert count(engine, "call_node") == count(engine, "call_argument") == count(engine, "evaluation") == 200


def test_rows_that_are_put_together_cannot_be_flushed_one_by_one(make_recorder: MakeRecorder) -> None:
    one = make_recorder()
    with one.together():
        put_value(one, "v")
        with pytest.raises(errors.Refused):
            one.flush()
    one.flush()


def test_a_tenants_recorder_writes_and_finds_the_tenants_rows_alone(
    engine: sa.Engine, make_recorder: MakeRecorder, session: Session, owner: User
) -> None:
    prepare_roles(engine)
    other = make_user(session)
    login = login_engine(engine, "provenance_tenant", Role.tenant)
    mine, theirs = make_recorder(login, as_tenant=True), make_recorder(owner=other.id_)
    for one in (mine, theirs):
        put_everything(one)
        one.flush()

    assert count(engine, "value") == 2 * 7
    asked = {"task_hash": "task", "args_hash": "args argument", "eval_hash": "eval", "execution_id": ""}
    assert lookups.find_cached(mine.reading, owner.id_, **asked) is not None
    assert lookups.find_cached(mine.reading, other.id_, **asked) is None
