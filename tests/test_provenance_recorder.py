"""The recorder: batches are whole, survive what goes wrong, and name what cannot be stored."""

from __future__ import annotations

import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session, sessionmaker

from platform_db import errors, quota
from platform_db.models import User
from platform_db.provenance import Recorder, lookups, recorder, recorder_of, statements
from platform_db.tenancy.privileges import Role
from tests.factories import make_user
from tests.locks import wait_for_a_lock
from tests.tenants import login_engine, prepare_roles
from tests.test_tasks import close_database

NOW = datetime(2026, 11, 26, 20, 0, tzinfo=timezone.utc)
LATER = 60.0  # seconds; nothing is written by itself within a test

MakeRecorder = Callable[..., Recorder]


@pytest.fixture
def owner(session: Session) -> User:
    user = make_user(session)
    session.refresh(user)
    session.expunge(user)
    session.rollback()
    return user


@pytest.fixture
def make_recorder(engine: sa.Engine, owner: User) -> Iterator[MakeRecorder]:
    """Give a function that makes recorders, which are closed in the end."""
    made: list[Recorder] = []

    def make(engine: sa.Engine = engine, owner: Any = owner.id_, **options: Any) -> Recorder:
        made.append(Recorder(engine, owner, **{"delay": LATER, **options}))
        return made[-1]

    yield make
    for one in made:
        with suppress(errors.NotRecorded):
            one.close()


def put_value(recorder: Recorder, hash_: str, data: bytes = b"x", **values: Any) -> str:
    row = {"value_hash": hash_, "type": "bytes", "format": "text/plain", "value": data, "size": len(data)}
    recorder.put("value", hash_, {**row, **values}, "record_value")
    return hash_


def put_task(recorder: Recorder, hash_: str = "task") -> str:
    put_value(recorder, hash_, type="Task")
    row = {"hash": hash_, "name": "fit", "namespace": "", "source": "code"}
    recorder.put("call_task", hash_, row, "record_value")
    return hash_


def put_call(
    recorder: Recorder, hash_: str, argument: str = "argument", key: str | None = None, children: Any = ()
) -> str:
    """Record a call with one argument, as an integration does."""
    with recorder.together():
        node = {"call_hash": hash_, "task_name": "fit", "task_hash": "task", "args_hash": f"args {argument}"}
        node |= {"value_hash": argument, "timestamp": NOW}
        recorder.put("call_node", hash_, node, "record_call_node")
        row = {"call_hash": hash_, "task_hash": "task"}
        recorder.put("call_subtree_task", (hash_, "task"), row, "record_call_node")
        row = {"arg_hash": f"arg {hash_}", "call_hash": hash_, "value_hash": argument, "arg_position": 0}
        recorder.put("call_argument", f"arg {hash_}", {**row, "arg_key": key}, "record_call_node")
        for order, child in enumerate(children):
            edge = {"parent_id": hash_, "child_id": child, "call_order": order}
            recorder.put("call_edge", (hash_, order, child), edge, "record_call_node")
    return hash_


def put_job(recorder: Recorder, id_: str, execution: str = "execution", **values: Any) -> None:
    row = {"id": id_, "start_time": NOW, "end_time": None, "task_hash": "task", "cached": False}
    row |= {"call_hash": None, "parent_id": None, "execution_id": execution, **values}
    recorder.put("call_job", id_, row, "record_job")


def put_execution(recorder: Recorder, id_: str = "execution", job: str = "job", args: str = "[]") -> None:
    row = {"id": id_, "args": args, "updated_time": NOW, "job_id": job, "workflow_id": None}
    recorder.put("call_execution", id_, row, "record_execution")


def put_everything(recorder: Recorder) -> None:
    """Record a row of each table."""
    put_task(recorder)
    for value in ("argument", "whole", "part", "file", "state 1", "state 2"):
        put_value(recorder, value)
    recorder.put("value_file", "file", {"value_hash": "file", "path": "/data/a"}, "record_value")
    part = {"value_hash": "part", "parent_value_hash": "whole"}
    recorder.put("subvalue", ("whole", "part"), part, "record_value")
    evaluation = {"eval_hash": "eval", "task_hash": "task", "args_hash": "args argument"}
    recorder.put("evaluation", "eval", {**evaluation, "value_hash": "whole"}, "set_eval_cache")
    put_call(recorder, "child")
    put_call(recorder, "parent", children=["child"])
    source = {"arg_hash": "arg parent", "result_call_hash": "child"}
    recorder.put("call_argument_source", ("arg parent", "child"), source, "record_call_node")
    with recorder.together():
        put_execution(recorder)
        put_job(recorder, "job", end_time=NOW, call_hash="parent")
    for tag, value in (("tag 1", {"a": 'b"\\'}), ("tag 2", None)):
        row = {"tag_hash": tag, "entity_type": "Job", "entity_id": "job", "key": "k", "value": value}
        recorder.put("entity_tag", tag, {**row, "is_current": True}, "record_tags")
    recorder.put("entity_tag_edit", ("tag 1", "tag 2"), {"parent_id": "tag 1", "child_id": "tag 2"}, "tags")
    for state in ("state 1", "state 2"):
        row = {"hash": state, "fullname": "db", "value_hash": state, "key": "", "is_valid": True}
        recorder.put("handle", state, row, "advance_handle")
    row = {"parent_id": "state 1", "child_id": "state 2"}
    recorder.put("handle_edge", ("state 1", "state 2"), row, "advance_handle")


def count(engine: sa.Engine, table: str) -> int:
    with engine.connect() as connection:
        return int(connection.exec_driver_sql(f"SELECT count(*) FROM platform.{table}").scalar_one())


def counts(engine: sa.Engine) -> dict[str, int]:
    return {table: count(engine, table) for table in recorder.TABLES}


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


# What goes wrong


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


def test_an_owner_without_room_does_not_hold_up_the_recorder(
    make_recorder: MakeRecorder, session: Session, owner: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    quota.set_limit(session, owner.id_, "database", 1000)
    session.commit()
    written: list[int] = []
    insert = statements.insert
    monkeypatch.setattr(statements, "insert", lambda *given: written.append(1) or insert(*given))
    one = make_recorder()
    for number in range(640):
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


def test_what_a_closed_recorder_could_not_write_is_written_at_exit(
    engine: sa.Engine, database_uri: str, owner: User
) -> None:
    program = """if True:
        import sys
        from platform_db import database, errors
        from platform_db.provenance import Recorder
        from tests.test_provenance_recorder import close_database, put_value
        engine = database.create_engine(sys.argv[1])
        one = Recorder(engine, sys.argv[2], delay=60, patience=0.1)
        close_database(engine, engine.url.database)
        put_value(one, "v")
        try:
            one.close()
        except errors.Unreachable:
            close_database(engine, engine.url.database, open_=True)
    """
    subprocess.run([sys.executable, "-c", program, database_uri, str(owner.id_)], check=True)

    assert count(engine, "value") == 1


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
        patch.setattr(one, "enter", "SET LOCAL ROLE nowhere;")
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


KILLED = """if True:
    import sys
    from platform_db import database
    from platform_db.provenance import Recorder
    from tests.test_provenance_recorder import put_call, put_task, put_value
    one = Recorder(database.create_engine(sys.argv[1]), sys.argv[2], delay=0.02)
    put_task(one)
    put_value(one, "argument")
    one.flush()
    print("begun", flush=True)
    for number in range(int(sys.argv[3])):
        put_call(one, f"call {number}")
"""


def wait_for_others(engine: sa.Engine) -> None:
    """Return when the server has ended what a killed program sent."""
    working = sa.text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'"
    )
    give_up_at = time.monotonic() + 30
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while connection.scalar(working):
            assert time.monotonic() < give_up_at
            time.sleep(0.02)


def test_no_call_is_without_its_arguments_after_a_kill(
    engine: sa.Engine, database_uri: str, owner: User, make_recorder: MakeRecorder
) -> None:
    for number in range(3):
        command = [sys.executable, "-c", KILLED, database_uri, str(owner.id_), "1000000"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            time.sleep(0.3 + number * 0.11)
            process.send_signal(signal.SIGKILL)
        wait_for_others(engine)
        assert count(engine, "call_node") > 0
        assert count(engine, "call_node") == count(engine, "call_argument")
        assert count(engine, "call_node") == count(engine, "call_subtree_task")
    stored = count(engine, "call_node")
    one = make_recorder()
    for number in range(stored + 100):  # The rerun records what is missing.
        put_call(one, f"call {number}")
    one.flush()
    assert count(engine, "call_node") == count(engine, "call_argument") == stored + 100


def test_a_program_that_ends_writes_its_last_rows(engine: sa.Engine, database_uri: str, owner: User) -> None:
    program = KILLED.replace("delay=0.02", "delay=60")
    subprocess.run([sys.executable, "-c", program, database_uri, str(owner.id_), "10"], check=True)

    assert count(engine, "call_node") == 10


def test_a_forked_child_records_by_itself_and_nothing_twice(
    engine: sa.Engine, make_recorder: MakeRecorder
) -> None:
    one = make_recorder()
    put_value(one, "parent's")
    one.remember("parent's")
    child = os.fork()
    if not child:
        try:
            assert one.pending("value", "parent's") is None
            assert not one.known("parent's")
            put_value(one, "child's")
            one.flush()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert count(engine, "value") == 1
    one.flush()
    assert count(engine, "value") == 2


def test_rows_that_are_put_together_cannot_be_flushed_one_by_one(make_recorder: MakeRecorder) -> None:
    one = make_recorder()
    with one.together():
        put_value(one, "v")
        with pytest.raises(errors.Refused):
            one.flush()
    one.flush()


# Tenants


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


# Looking up


def test_cached_results_are_found_by_kind(
    engine: sa.Engine, make_recorder: MakeRecorder, owner: User
) -> None:
    one = make_recorder()
    put_everything(one)
    one.flush()
    asked = {
        "task_hash": "task",
        "args_hash": "args argument",
        "eval_hash": "eval",
        "execution_id": "execution",
    }
    find = lookups.find_cached
    with engine.connect() as connection:
        for reading in (one.reading, connection):
            hit = find(reading, owner.id_, **asked)
            assert hit is not None
            assert (hit.kind, hit.call_hash, hit.value_hash, hit.value) == ("CSE", "parent", "argument", b"x")
            hit = find(reading, owner.id_, **{**asked, "execution_id": "another"})
            assert hit == lookups.Hit("SINGLE", None, "whole", "bytes", "text/plain", b"x", 1)
            shallow = {**asked, "kinds": ["ULTIMATE"]}
            assert find(reading, owner.id_, **shallow) is None
            hit = find(reading, owner.id_, **shallow, known_tasks={"task", "other"})
            assert hit is not None
            assert hit.kind == "ULTIMATE"
            assert find(reading, owner.id_, **{**asked, "kinds": ["SINGLE"], "eval_hash": "none"}) is None


def test_what_a_cached_result_asks_for_next_is_found_at_once(
    make_recorder: MakeRecorder, owner: User
) -> None:
    one = make_recorder()
    put_everything(one)
    put_call(one, "newest", "whole", children=["child", "parent"])
    one.flush()

    children = lookups.find_children(
        one.reading, owner.id_, task_hash="task", args_hash="args whole", at_most=10
    )
    assert [child.call_hash for child in children] == ["child", "parent"]
    found = lookups.find_evaluations(one.reading, owner.id_, ["none", "eval"], largest=1)
    assert [(row.eval_hash, row.value_hash, row.value) for row in found] == [("eval", "whole", b"x")]
    assert lookups.find_evaluations(one.reading, owner.id_, ["eval"], largest=0) == []


def test_tables_have_statistics_after_the_first_load(
    engine: sa.Engine, make_recorder: MakeRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "ANALYZE_AFTER", 3)
    own = make_recorder()
    analyzed = sa.text("SELECT reltuples FROM pg_class WHERE oid = 'platform.value'::regclass")
    for rows, found in ((2, -1), (4, 6)):
        for number in range(rows):
            put_value(own, f"{rows} {number}")
        own.flush()
        with engine.connect() as connection:
            assert connection.execute(analyzed).scalar_one() == found
