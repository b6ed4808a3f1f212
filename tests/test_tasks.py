"""Task records: what is added is read as it was given, by any filter, and survives what goes wrong."""

from __future__ import annotations

import base64
import fnmatch
import functools
import json
import logging
import math
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session, sessionmaker

from platform_db import errors, quota
from platform_db.models import AuditLog, TaskRecord, User
from platform_db.retention import choose_rules, prune
from platform_db.tasks import TaskStore, get_task, list_tasks, prune_tasks, recent, stored_bytes, writer
from platform_db.tasks.conditions import BY_ID
from platform_db.tasks.messages import decode_message, encode_message
from platform_db.tenancy.privileges import Role
from platform_db.users import delete_user
from tests.command_line import one_line, run
from tests.factories import make_user
from tests.locks import wait_for_a_lock
from tests.tenants import login_engine, prepare_roles

NOW = datetime(2026, 11, 21, 7, 30, tzinfo=timezone.utc)
LATER = 60.0  # seconds; nothing is written by itself within a test

MakeStore = Callable[..., TaskStore]


@pytest.fixture
def owner(session: Session) -> User:
    user = make_user(session)
    session.refresh(user)
    session.expunge(user)  # so that looking at it opens no transaction
    session.rollback()
    return user


@pytest.fixture
def make_store(database_uri: str, owner: User) -> Iterator[MakeStore]:
    """Give a function that makes stores of one history, which are closed in the end."""
    made: list[TaskStore] = []

    def make(database: Any = database_uri, owner: Any = owner.id_, **options: Any) -> TaskStore:
        made.append(TaskStore(database, owner, **{"cluster": "c", **options}))
        return made[-1]

    yield make
    for store in made:
        store.close()


def task(number: int = 0, **values: Any) -> dict[str, Any]:
    """Return a record of a task that was submitted ``number`` seconds after others."""
    return {"submitted": NOW + timedelta(seconds=number), "completed": None, "stdout": "", **values}


def count_rows(session: Session) -> int:
    session.rollback()
    return session.scalars(sa.select(sa.func.count()).select_from(TaskRecord)).one()


# Values


AWKWARD = {
    "header": {"date": NOW, "a\0b": "\ud800 \ue000 \0", "big": 10**40, "float": 1e22, "b": 1, "a": 2},
    "metadata": {"after": [], "labels": {"$date": "mine"}, "more": [{"$$hex": {"$float": 1}}, {"$x": 1}]},
    "content": [b"\0\xff", math.inf, {"iso": "2026-11-21T07:30:00+00:00"}],
    "buffers": [b"", bytearray(b"\0\1"), memoryview(b"abc")],
    "result_buffers": [],
    "submitted": datetime(2026, 11, 21, 9, 30, 0, 5, tzinfo=timezone(timedelta(hours=2))),
    "client_uuid": "tab\tline\nreturn\r\\N \"'",
    "queue": {"not": "text"},
    "label": "\0\ud8ff\ue000 ü 🚀",
    "stdout": "x" * 5000,
    "error": False,
    "display_data": [{"data": {"text/plain": "\0"}}],
    "own\0key": None,
}


@pytest.mark.parametrize("commit_delay", [0, LATER])
def test_a_record_comes_back_as_it_was_given(make_store: MakeStore, commit_delay: float) -> None:
    store = make_store(commit_delay=commit_delay)
    store.add("t\0", AWKWARD)
    mine = store.get("t\0")
    store.flush()

    stored = make_store().get("t\0")

    assert stored == mine
    (found,) = make_store().find({"msg_id": "t\0"})
    assert found == stored
    expected = {**AWKWARD, "buffers": [b"", b"\0\1", b"abc"], "msg_id": "t\0"}
    assert {key: stored[key] for key in expected if key != "own\0key"} == {
        key: value for key, value in expected.items() if key != "own\0key"
    }
    assert list(stored["header"]) == list(AWKWARD["header"])
    assert stored["result_header"] is None


def test_no_buffers_an_empty_list_and_an_empty_buffer_stay_apart(make_store: MakeStore) -> None:
    store = make_store()
    for number, buffers in enumerate([None, [], [b""]]):
        store.add(str(number), task(buffers=buffers))

    assert [store.find({"msg_id": str(n)})[0]["buffers"] for n in range(3)] == [None, [], [b""]]


messages = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters())
    | st.binary()
    | st.datetimes(timezones=st.just(timezone.utc)),
    lambda parts: (
        st.lists(parts, max_size=3)
        | st.dictionaries(
            st.text(st.characters(), max_size=3)
            | st.sampled_from(["$date", "$hex", "$$float", "$", "$$date"]),
            parts,
            max_size=2,
        )
    ),
    max_leaves=10,
)


@given(messages)
def test_any_message_comes_back(message: Any) -> None:
    text = encode_message(message)

    assert text.isascii()
    assert decode_message(text) == message


def test_nan_stays_nan() -> None:
    (found,) = decode_message(encode_message([math.nan]))
    assert math.isnan(found)


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"submitted": "2026-11-21"}, ValueError),
        ({"header": {"object": object()}}, TypeError),
        ({"content": {("a", "b"): 1}}, TypeError),
        ({"buffers": ["text"]}, TypeError),
        ({"content": functools.reduce(lambda inner, _: [inner], range(100_000), [])}, ValueError),
    ],
)
def test_what_cannot_be_stored_is_refused_in_its_own_call(
    make_store: MakeStore, values: dict[str, Any], error: type[Exception]
) -> None:
    store = make_store()
    with pytest.raises(error):
        store.add("bad", values)
    store.add("good", task())
    with pytest.raises(error):
        store.update("good", values)

    assert store.list_ids() == ["good"]


# Batches


def test_what_is_not_committed_yet_is_read_by_its_id(make_store: MakeStore, session: Session) -> None:
    make_store(commit_delay=0).add("old", task(stdout="a"))
    store = make_store(commit_delay=LATER, memory_limit=0)
    store.add("new", task(label="x"))
    store.update("new", {"stdout": "b", "display_data": 1})
    store.update("old", {"stdout": "b"})

    assert (store.get("new")["stdout"], store.get("new")["label"]) == ("b", "x")
    assert store.get("old")["stdout"] == "b"
    assert count_rows(session) == 1


def test_what_a_filter_finds_is_on_the_disk(make_store: MakeStore, session: Session) -> None:
    store = make_store(commit_delay=LATER)
    for number in range(100):
        store.add(str(number), task(number))
        store.update(str(number), {"engine_uuid": "e"})

    assert len(store.find({"engine_uuid": "e"}, ["msg_id"])) == 100
    assert count_rows(session) == 100
    transactions = sa.text("SELECT count(DISTINCT xmin::text) FROM platform.task_record")
    assert session.scalar(transactions) == 1


def test_records_are_on_the_disk_a_moment_later(make_store: MakeStore, session: Session) -> None:
    make_store(commit_delay=0.05).add("t", task())

    give_up_at = time.monotonic() + 30
    while count_rows(session) == 0:
        assert time.monotonic() < give_up_at
        time.sleep(0.02)


def test_a_program_that_ends_stores_its_last_records(
    database_uri: str, owner: User, session: Session
) -> None:
    program = f"""if True:
        from platform_db.tasks import TaskStore
        store = TaskStore({database_uri!r}, "{owner.id_}", commit_delay=60)
        for number in range(10):
            store.add(str(number), {{"stdout": "x"}})
    """
    subprocess.run([sys.executable, "-c", program], check=True)

    assert count_rows(session) == 10


def test_a_store_closes_at_any_moment_of_its_writer(make_store: MakeStore, session: Session) -> None:
    store = make_store(commit_delay=0.001)
    for number in range(300):
        store.add(str(number), task(number))
        time.sleep(number % 30 / 10_000)
        store.close()

    assert count_rows(session) == 300


def test_a_record_that_comes_while_a_store_closes_is_written_by_itself(
    engine: sa.Engine, make_store: MakeStore, session: Session, session_factory: sessionmaker[Session]
) -> None:
    store = make_store(commit_delay=0.01)
    with engine.begin() as connection:
        connection.execute(sa.text("LOCK TABLE platform.task_record"))
        store.add("before", task())
        wait_for_a_lock(session_factory)
        closing = threading.Thread(target=store.close)
        closing.start()
        closing.join(0.2)
        store.add("meanwhile", task())
    closing.join(60)
    store.add("after", task())

    give_up_at = time.monotonic() + 30
    while count_rows(session) < 3:
        assert time.monotonic() < give_up_at
        time.sleep(0.02)


def test_changes_replace_values_and_take_them_away(make_store: MakeStore) -> None:
    store = make_store(commit_delay=0, memory_limit=0)
    store.add("t", task(queue={"not": "text"}, own=1, label="a"))
    store.update("t", {"queue": "text", "own": 2, "label": ["other"], "other": 3, "completed": NOW})
    first = store.get("t")
    store.update("t", {"queue": None, "label": None})

    assert {key: first[key] for key in ("queue", "own", "label", "other", "completed")} == {
        "queue": "text",
        "own": 2,
        "label": ["other"],
        "other": 3,
        "completed": NOW,
    }
    assert (store.get("t")["queue"], store.get("t")["label"]) == (None, None)


def test_a_second_record_of_an_id_is_refused_or_replaces_anothers(make_store: MakeStore) -> None:
    store, other = make_store(), make_store()
    store.add("t", task(stdout="one", label="x"))
    store.flush()
    with pytest.raises(KeyError):
        store.add("t", task())
    other.add("t", task(stdout="two"))
    for number in range(100):  # so many that COPY is tried
        other.add(str(number), task())
    other.flush()

    assert make_store().get("t")["stdout"] == "two"
    assert make_store().get("t")["label"] is None
    assert len(make_store().list_ids()) == 101


WATCH = """
    CREATE TABLE public.seen (statement text);
    CREATE FUNCTION public.see() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
        'BEGIN INSERT INTO public.seen VALUES (current_query()); RETURN NULL; END';
    CREATE TRIGGER see AFTER INSERT ON platform.task_record EXECUTE FUNCTION public.see()
"""


def statements_of(engine: sa.Engine) -> list[str]:
    with engine.connect() as connection:
        return [text.split()[0] for text in connection.exec_driver_sql("SELECT * FROM public.seen").scalars()]


def test_new_records_are_copied_where_row_security_lets_it(
    engine: sa.Engine, make_store: MakeStore, postgres_server_uri: str
) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(WATCH)
    owning = make_store()
    for number in range(100):
        owning.add(str(number), task())
    owning.flush()
    assert statements_of(engine) == ["COPY"]

    prepare_roles(engine)
    service = login_engine(engine, "task_service", Role.service)
    limited = make_store(service)
    for number in range(100, 200):
        limited.add(str(number), task())
    limited.update("1", {"stdout": "x"})
    assert len(limited.find({})) == 200
    assert statements_of(engine) == ["COPY", "SELECT"]  # The text locks the totals, and then inserts.


def test_a_tenants_store_sees_the_tenants_records_alone(
    engine: sa.Engine, make_store: MakeStore, session: Session, owner: User
) -> None:
    prepare_roles(engine)
    other = make_user(session)
    make_store(owner=other.id_).add("theirs", task())
    login = login_engine(engine, "task_tenant", Role.tenant)
    store = make_store(login, as_tenant=True)
    store.add("mine", task())
    store.update("theirs", {"stdout": "seen"})

    assert store.list_ids() == ["mine"]
    with pytest.raises(KeyError):
        store.get("theirs")
    assert make_store(login, owner=other.id_).list_ids() == []  # It sees nothing by itself.


# What goes wrong


def test_a_bad_record_is_put_aside_and_named_and_its_batch_is_stored(
    make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    store = make_store(commit_delay=LATER)
    too_long = random.Random(1).randbytes(9000).hex()  # for an entry of the index of labels
    for number in range(100):
        store.add(str(number), task(number, label=too_long if number == 17 else "x"))
    store.flush()
    store.update("20", {"label": too_long})
    store.update("21", {"stdout": "changed"})

    with caplog.at_level(logging.ERROR):
        assert len(store.find({"label": "x"})) == 99
    assert make_store().get("21")["stdout"] == "changed"
    with pytest.raises(KeyError):
        store.get("17")
    assert store.get("20")["label"] == "x"
    assert any("task record 20 was put aside" in record.message for record in caplog.records)
    assert "index row" in caplog.text


@pytest.mark.parametrize("delay", [0, 0.01, LATER])
def test_records_beyond_the_database_storage_are_put_aside_and_named(
    make_store: MakeStore, session: Session, owner: User, caplog: pytest.LogCaptureFixture, delay: float
) -> None:
    """And the scheduler goes on: all that finds room is stored, and what is stored is read and dropped."""
    store = make_store(commit_delay=delay)
    store.add("stored", task(stdout="x" * 100))
    store.flush()
    quota.set_limit(session, owner.id_, "database", stored_bytes(session, owner) + 350)
    session.commit()

    with caplog.at_level(logging.ERROR):
        for number in range(200):
            store.add(f"new {number}", task(number, stdout="x" * 1000))
        store.add("small", task(stdout="y" * 100))
        store.update("stored", {"stderr": "z" * 1000, "completed": NOW})
        store.flush()

    assert {record["msg_id"] for record in store.find({})} == {"stored", "small"}
    assert store.find({"completed": NOW}, ["stderr"]) == [{"msg_id": "stored", "stderr": None}]
    put_aside = [record.message for record in caplog.records if "was put aside" in record.message]
    assert any("task record new 7 " in message and "database storage" in message for message in put_aside)
    assert any("task record stored " in message for message in put_aside)
    with pytest.raises(KeyError):
        store.get("new 7")
    assert store.drop_matching({"msg_id": "stored"}) == 1
    store.add("again", task(stdout="x" * 100))
    assert len(store.find({})) == 2


def test_a_record_that_no_statement_can_hold_is_put_aside(
    make_store: MakeStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ends the connection at such a statement, so that trying again would never succeed."""
    monkeypatch.setattr(writer, "LARGEST_BYTES", 10_000)
    store = make_store(commit_delay=LATER)
    for number in range(20):
        store.add(str(number), task(number, buffers=[bytes(20_000 if number == 7 else 2000)]))

    with caplog.at_level(logging.ERROR):
        assert len(store.find({})) == 19
    assert "task record 7 was put aside" in caplog.text


def close_database(engine: sa.Engine, name: str, open_: bool = False) -> None:
    """Refuse new connections to a database and end the others, or let them in again."""
    maintenance = engine.url.set(database="postgres")
    with sa.create_engine(maintenance, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS {open_}')
        if not open_:
            connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
            )


def test_batches_outlive_a_servers_restart(engine: sa.Engine, make_store: MakeStore) -> None:
    store = make_store(commit_delay=0.05)
    store.add("before", task())
    store.flush()
    name = engine.url.database
    close_database(engine, name)
    try:
        for number in range(200):
            store.add(str(number), task(number))
        store.update("before", {"stdout": "changed"})
        assert store.get("150")["stdout"] == ""
        with pytest.raises(errors.Unreachable):
            store.find({})
    finally:
        close_database(engine, name, open_=True)

    assert len(store.find({})) == 201
    assert make_store().get("before")["stdout"] == "changed"


def test_an_id_beyond_a_clients_highest_is_not_looked_for(engine: sa.Engine, make_store: MakeStore) -> None:
    earlier = make_store(ids_count_up=True)
    earlier.add("client_7_9", task())
    earlier.add("client_7_10", task())
    earlier.flush()
    store = make_store(ids_count_up=True, memory_limit=0, commit_delay=LATER)
    with pytest.raises(KeyError):
        store.get("client_7_12")
    store.add("client_7_13", task())
    assert store.get("client_7_10")
    name = engine.url.database
    close_database(engine, name)
    try:
        with pytest.raises(KeyError):
            store.get("client_7_14")
        for asked in ("client_7_9", "client_7_12", "client_8_1", "other"):
            with pytest.raises(errors.Unreachable):
                store.get(asked)
    finally:
        close_database(engine, name, open_=True)


def test_a_call_waits_when_the_buffer_is_full(engine: sa.Engine, make_store: MakeStore) -> None:
    store = make_store(commit_delay=0.01, buffer_limit=100_000)
    added = []

    def add() -> None:
        for number in range(30):
            store.add(str(number), task(stdout="x" * 10_000))
            added.append(number)

    name = engine.url.database
    close_database(engine, name)
    thread = threading.Thread(target=add)
    try:
        thread.start()
        thread.join(1)
        assert thread.is_alive()
        assert len(added) == 10
    finally:
        close_database(engine, name, open_=True)
    thread.join(60)

    assert len(store.find({})) == 30


def test_a_store_that_could_not_be_closed_goes_on_with_a_full_buffer(
    engine: sa.Engine, make_store: MakeStore
) -> None:
    store = make_store(commit_delay=0.01, buffer_limit=1000)
    name = engine.url.database
    close_database(engine, name)
    try:
        store.add("a", task(stdout="x" * 1000))
        with pytest.raises(errors.Unreachable):
            store.close()
    finally:
        close_database(engine, name, open_=True)
    adding = threading.Thread(target=store.add, args=("b", task()), daemon=True)
    adding.start()
    adding.join(20)

    assert not adding.is_alive()
    assert store.list_ids() == ["a", "b"]


def test_what_no_record_has_caused_spoils_none(engine: sa.Engine, make_store: MakeStore) -> None:
    store = make_store()
    store.add("a", task())
    store._writer._connection._enter = "SET LOCAL ROLE nowhere;"
    with pytest.raises(errors.RolesMissing, match="role of platform-db is missing"):
        store.flush()
    store._writer._connection._enter = "SET LOCAL transaction_read_only = on;"
    with pytest.raises(errors.NotWritable, match="read-only"):
        store.flush()
    store._writer._connection._enter = ""

    assert store.list_ids() == ["a"]


def test_four_stores_write_one_history_at_once(make_store: MakeStore, session: Session) -> None:
    stores = [make_store(commit_delay=0.01) for _ in range(4)]

    def work(number: int) -> None:
        store = stores[number]
        for msg_id in (f"{number}-{place}" for place in range(300)):
            store.add(msg_id, task())
            store.update(msg_id, {"engine_uuid": "e"})
            store.update(f"{(number + 1) % 4}-{msg_id[2:]}", {"stdout": "all write this"})
            store.update(msg_id, {"completed": NOW})
        store.flush()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(stores[0].find({"completed": NOW, "engine_uuid": "e"}, ["msg_id"])) == 1200


def test_what_another_store_changes_is_seen_at_once_by_a_query_and_soon_by_id(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, other = make_store(), make_store()
    for msg_id in ("changed", "dropped"):
        mine.add(msg_id, task())
    mine.flush()
    other.update("changed", {"completed": NOW})
    other.drop("dropped")
    other.flush()

    assert [record["msg_id"] for record in mine.find({"completed": NOW})] == ["changed"]
    with monkeypatch.context() as patch:
        patch.setattr(recent, "LONGEST", 0)
        assert mine.get("changed")["completed"] == NOW
        with pytest.raises(KeyError):
            mine.get("dropped")

    # A change of its own does not make a record younger.
    clock = time.monotonic()
    for seconds, stdout in ((6, "a"), (12, "b")):
        other.update("changed", {"stderr": stdout})
        other.flush()
        monkeypatch.setattr(recent.time, "monotonic", lambda seconds=seconds: clock + seconds)
        mine.update("changed", {"stdout": stdout})
    assert mine.get("changed")["stderr"] == "b"


def test_an_old_record_is_read_while_the_server_does_not_answer(
    engine: sa.Engine, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(commit_delay=LATER)
    store.add("t", task(stdout="a"))
    store.flush()
    monkeypatch.setattr(recent, "LONGEST", 0)
    store.update("t", {"stdout": "ab"})
    name = engine.url.database
    close_database(engine, name)
    try:
        assert store.get("t")["stdout"] == "ab"
        with pytest.raises(errors.Unreachable):
            store.get("other")
    finally:
        close_database(engine, name, open_=True)


def test_a_forked_child_writes_by_a_store_of_its_own(make_store: MakeStore, session: Session) -> None:
    store = make_store(commit_delay=LATER)
    store.add("t", task())
    child = os.fork()
    if not child:
        try:
            store.add("u", task())
        except errors.Refused:
            store.close()
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert count_rows(session) == 0
    store.flush()
    assert count_rows(session) == 1


def test_records_of_a_deleted_owner_go_with_the_owner(
    make_store: MakeStore, session: Session, owner: User
) -> None:
    make_store(commit_delay=0).add("t", task())
    delete_user(session, session.get_one(User, owner.id_))
    session.commit()

    assert count_rows(session) == 0


# Limits


def test_the_oldest_completed_records_are_culled(make_store: MakeStore) -> None:
    store = make_store(commit_delay=0, record_limit=20, cull_fraction=0.2)
    for number in range(60):
        store.add(str(number), task(number, completed=None if number < 3 else NOW))
        assert len(store.list_ids()) <= 20

    assert store.list_ids()[:3] == ["0", "1", "2"]
    assert len(store.list_ids()) >= 15
    with pytest.raises(KeyError):
        store.get("5")


def test_a_history_keeps_within_its_bytes(make_store: MakeStore, session: Session, owner: User) -> None:
    store = make_store(commit_delay=0, size_limit=100_000)
    for number in range(50):
        store.add(str(number), task(number, completed=NOW, buffers=[bytes(5000)]))

    assert 80_000 < stored_bytes(session, owner) < 110_000


def test_sizes_are_those_of_the_values_however_they_came(
    make_store: MakeStore, session: Session, owner: User
) -> None:
    store, at_once = make_store(commit_delay=0), make_store(commit_delay=LATER, cluster="other")
    first = task(stdout="ü" * 10, buffers=[b"x" * 10], header={"a": 1}, own="1")
    changes = {"stdout": "shorter", "buffers": None, "header": {"b": "x" * 3000}, "own": "ü", "other": 1}
    store.add("a", first)
    store.update("a", changes)
    at_once.add("b", first)
    at_once.update("b", changes)
    at_once.flush()

    sizes = session.scalars(sa.select(TaskRecord.size).order_by(TaskRecord.msg_id)).all()
    assert sizes[0] == sizes[1] > 3000
    assert stored_bytes(session, owner) == sum(sizes)


# Filters


RECORDS = {
    "a": task(0, label="group_a", engine_uuid="e1", completed=NOW, header={"n": 3, "tags": ["x", "y"]}),
    "b": task(1, label="group_a/sub_a", engine_uuid="e2", header={"n": 6}),
    "c": task(2, label="Group_b", engine_uuid=None, completed=NOW + timedelta(hours=1), own=5),
    "d": task(3, label=None, queue=7, header={}),
    "e": task(4, label="label*task\n", queue="q", error={"ename": "E"}, buffers=[b""]),
    "f": task(5, label="ü\0", submitted=None),
}

FILTERS: list[tuple[dict[str, Any], str]] = [
    ({}, "abcdef"),
    ({"msg_id": "b"}, "b"),
    ({"msg_id": None}, ""),
    ({"msg_id": {"$ne": None}}, "abcdef"),
    ({"msg_id": {"$in": ["a", "c", 5, None]}}, "ac"),
    ({"msg_id": {"$in": []}}, ""),
    ({"msg_id": {"$nin": ["a", "c"]}}, "bdef"),
    ({"msg_id": {"$in": [str(n) for n in range(40_000)] + ["e"]}}, "e"),
    ({"msg_id": {"$gt": "b", "$lte": "d"}}, "cd"),
    ({"completed": None}, "bdef"),
    ({"completed": {"$ne": None}}, "ac"),
    ({"completed": {"$exists": True}, "label": {"$glob": "g*"}}, "a"),
    ({"submitted": {"$lt": NOW + timedelta(seconds=2)}}, "ab"),
    ({"submitted": {"$ge": "2026-11-21T08:30:03+01:00"}}, "de"),
    ({"submitted": NOW}, "a"),
    ({"submitted": {"$in": [NOW, None]}}, "af"),
    ({"submitted": {"$not": {"$gt": NOW}}}, "af"),
    ({"engine_uuid": {"$ne": "e1"}}, "bcdef"),
    ({"engine_uuid": {"$nin": ["e1", None]}}, "b"),
    ({"engine_uuid": {"$gt": "e1"}}, "b"),
    ({"engine_uuid": {"$lt": None}}, ""),
    ({"label": {"$glob": "group_a*"}}, "ab"),
    ({"label": {"$glob": "group_[!b]*"}}, "ab"),
    ({"label": {"$glob": "[f-h]roup_?"}}, "a"),
    ({"label": {"$glob": "[z-a]roup_?"}}, ""),
    ({"label": {"$glob": "*[*]*"}}, "e"),
    ({"label": {"$glob": "label[*]task?"}}, "e"),
    ({"label": {"$glob": "*/sub_[a-a]"}}, "b"),
    ({"label": {"$glob": "ü?"}}, "f"),
    ({"label": {"$glob": "[^g]*"}}, "a" * 0 + "ab"),
    ({"label": {"$in": ["group_a", "ü\0"]}}, "af"),
    ({"queue": 7}, "d"),
    ({"queue": {"$ne": 7}}, "abcef"),
    ({"queue": {"$exists": True}}, "de"),
    ({"queue": None}, "abcf"),
    ({"queue": {"$in": ["q", 7]}}, "de"),
    ({"queue": {"$mod": [4, 3]}}, "d"),
    ({"header": {"$exists": False}}, "cef"),
    ({"header": {"n": 6}}, "b"),
    ({"header.n": {"$gte": 3}}, "ab"),
    ({"header.tags": {"$all": ["y", "x"]}}, "a"),
    ({"header.n": {"$mod": [3, 0]}}, "ab"),
    ({"error.ename": "E"}, "e"),
    ({"own": 5}, "c"),
    ({"own": {"$exists": False}}, "abdef"),
    ({"buffers": {"$ne": None}}, "e"),
    ({"$or": [{"own": 5}, {"msg_id": "a"}]}, "ac"),
    ({"$and": [{"label": {"$ne": None}}, {"$or": [{"header.n": 3}, {"completed": None}]}]}, "abef"),
    ({"$not": {"header.n": 6}}, "acdef"),
]


@pytest.fixture
def filled(make_store: MakeStore) -> TaskStore:
    store = make_store()
    make_store(cluster="other").add("z", task())
    for msg_id, record in RECORDS.items():
        store.add(msg_id, record)
    return store


def test_a_filter_finds_what_meets_it(filled: TaskStore) -> None:
    for filter_, expected in FILTERS:
        found = "".join(sorted(record["msg_id"] for record in filled.find(filter_)))
        assert found == expected, filter_


def test_dropping_takes_what_meets_a_filter(filled: TaskStore, make_store: MakeStore) -> None:
    for filter_, expected in FILTERS:
        if expected and len(filter_.get("msg_id", {}) or {}) < 2:
            other = make_store(cluster=str(filter_)[:100])
            for msg_id, record in RECORDS.items():
                other.add(f"{filter_}{msg_id}"[-500:], {**record, "stderr": msg_id})
            kept = {r["stderr"] for r in other.find({"$not": filter_})}
            if "msg_id" not in str(filter_):
                assert other.drop_matching(filter_) == len(expected), filter_
                assert {r["stderr"] for r in other.find({})} == kept


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text("ab[]!-*?^.c\\", max_size=8))
def test_a_pattern_matches_what_fnmatch_matches(filled: TaskStore, pattern: str) -> None:
    texts = ["", "a", "ab", "abc", "a-c", "b]", "[a", "!a", "^b", "a.c", "\\", "ca*", "b?"]
    if not filled.find({"client_uuid": "patterns"}, ["msg_id"]):
        for number, text in enumerate(texts):
            filled.add(f"p{number}", task(label=text, client_uuid="patterns"))

    found = filled.find({"label": {"$glob": pattern}, "client_uuid": "patterns"}, ["label"])

    expected = {text for text in texts if fnmatch.fnmatchcase(text, pattern)}
    assert {record["label"] for record in found} == expected


def test_keys_are_chosen_and_the_callers_list_is_left_alone(filled: TaskStore) -> None:
    keys = ["label", "submitted"]
    (record,) = filled.find({"msg_id": "a"}, keys)
    assert list(record) == ["msg_id", "label", "submitted"]
    assert keys == ["label", "submitted"]
    assert filled.find({"own": 5}, ["own"]) == [{"msg_id": "c", "own": 5}]
    with pytest.raises(KeyError, match="own"):
        filled.find({"msg_id": "a"}, ["own"])


@pytest.mark.parametrize("filter_", [{"label": {"$like": "x"}}, {"submitted": "soon"}, {"$nor": []}, []])
def test_a_wrong_filter_is_one_line(filled: TaskStore, filter_: Any) -> None:
    with pytest.raises(errors.InvalidFilter) as raised:
        filled.find(filter_)
    assert "\n" not in str(raised.value)


def test_the_history_is_in_the_order_of_submission(filled: TaskStore) -> None:
    assert filled.list_ids() == ["a", "b", "c", "d", "e"]


def test_dropping_a_record(filled: TaskStore) -> None:
    filled.drop("a")
    with pytest.raises(KeyError):
        filled.get("a")
    with pytest.raises(KeyError):
        filled.drop("a")


def test_a_look_up_reads_one_row_of_an_owner_whom_statistics_do_not_know(
    make_store: MakeStore, session: Session, owner: User
) -> None:
    others = make_store(owner=make_user(session).id_)
    for number in range(3000):
        others.add(f"o{number}", task(number))
    others.flush()
    session.execute(sa.text("ANALYZE platform.task_record"))
    session.commit()
    store = make_store()
    for number in range(3000):
        store.add(str(number), task(number))
    store.flush()

    plan = session.connection().exec_driver_sql(
        f"EXPLAIN SELECT stdout FROM platform.task_record WHERE {BY_ID} AND msg_id = %s",
        (str(owner.id_), "c", "5"),
    )
    assert "pk_task_record" in plan.scalars().first()


# Lists and pruning


def test_a_list_pages_from_the_newest_to_the_oldest(filled: TaskStore, session: Session, owner: User) -> None:
    filled.flush()
    seen, cursor = [], None
    while True:
        page = list_tasks(session, owner, cluster="c", limit=2, cursor=cursor)
        seen += [row.msg_id for row in page.rows]
        cursor = page.cursor
        if cursor is None:
            break

    assert seen == ["f", "e", "d", "c", "b", "a"]
    found = list_tasks(session, owner, filter_={"completed": {"$ne": None}}).rows
    assert [row.msg_id for row in found] == ["c", "a"]
    with pytest.raises(errors.InvalidFilter):
        list_tasks(session, owner, filter_={"header.n": 3})
    with pytest.raises(errors.InvalidIdentifier):
        list_tasks(session, owner, cluster="other", cursor=list_tasks(session, owner, limit=1).cursor)


def test_a_forged_cursor_never_reaches_the_server(filled: TaskStore, session: Session, owner: User) -> None:
    filled.flush()
    genuine = list_tasks(session, owner, limit=1).cursor
    assert genuine is not None
    *content, _ = json.loads(base64.urlsafe_b64decode(genuine + "=" * (-len(genuine) % 4)))
    for msg_id in ("\0", "\ud800", 7, None):
        forged = base64.urlsafe_b64encode(json.dumps([*content, msg_id]).encode()).decode()
        with pytest.raises(errors.InvalidIdentifier):
            list_tasks(session, owner, limit=1, cursor=forged)


def test_a_record_is_read_with_a_session(filled: TaskStore, session: Session, owner: User) -> None:
    filled.flush()
    record = get_task(session, owner, "a")
    assert (record["cluster"], record["header"], record["completed"]) == ("c", RECORDS["a"]["header"], NOW)
    with pytest.raises(errors.NotFound):
        get_task(session, make_user(session), "a")


@pytest.fixture
def aged(make_store: MakeStore, session: Session) -> TaskStore:
    """Store ten completed tasks of a thousand bytes and more, a day apart, and an old one that goes on."""
    store = make_store()
    today = datetime.now(timezone.utc)
    for days in range(10):
        values = {"submitted": today - timedelta(days=days), "completed": today, "buffers": [bytes(1000)]}
        store.add(str(days), task(**values))
    store.add("going on", task(submitted=today - timedelta(days=99)))
    store.flush()
    return store


def test_completed_tasks_are_pruned_by_age(
    aged: TaskStore, session_factory: sessionmaker[Session], session: Session
) -> None:
    old = timedelta(days=4, hours=12)
    assert prune_tasks(session_factory, older_than=old, dry_run=True) == 5
    assert prune_tasks(session_factory, older_than=old, batch=2) == 5
    assert aged.list_ids() == ["going on", "4", "3", "2", "1", "0"]
    row = session.scalars(sa.select(AuditLog).where(AuditLog.action == "apply_retention")).one()
    assert (row.details["table"], row.details["rows"]) == ("task_record", 5)


def test_the_newest_bytes_of_each_owner_stay(
    aged: TaskStore, session_factory: sessionmaker[Session], session: Session, owner: User
) -> None:
    assert prune_tasks(session_factory, keep_bytes=3500, owner=make_user(session)) == 0
    both = {"older_than": timedelta(days=1, hours=12), "keep_bytes": 3500, "dry_run": True}
    assert prune_tasks(session_factory, **both) == 8
    assert prune_tasks(session_factory, keep_bytes=3500, dry_run=True) == 7
    assert prune_tasks(session_factory, keep_bytes=3500, batch=3) == 7
    assert aged.list_ids() == ["going on", "2", "1", "0"]
    with pytest.raises(errors.InvalidArgument):
        prune_tasks(session_factory)


def test_pruning_leaves_what_others_have_locked(
    aged: TaskStore, session_factory: sessionmaker[Session], session: Session
) -> None:
    session.execute(sa.select(TaskRecord.msg_id).where(TaskRecord.msg_id == "9").with_for_update())
    assert prune_tasks(session_factory, older_than=timedelta(days=5, hours=12)) == 3
    session.rollback()
    assert prune_tasks(session_factory, older_than=timedelta(days=5, hours=12)) == 1


def test_pruning_does_not_deadlock_with_who_stores_and_then_changes_an_old_task(
    aged: TaskStore, session_factory: sessionmaker[Session], owner: User
) -> None:
    pruned: list[int] = []

    def prune_old() -> None:
        pruned.append(prune_tasks(session_factory, older_than=timedelta(days=4, hours=12)))

    pruning = threading.Thread(target=prune_old)
    with session_factory() as session, session.begin():
        session.add(TaskRecord(owner_id=owner.id_, cluster="c", msg_id="new", size=1))
        session.flush()
        pruning.start()
        wait_for_a_lock(session_factory)
        session.execute(sa.update(TaskRecord).where(TaskRecord.msg_id == "9").values(stdout="seen"))
    pruning.join()

    assert pruned == [5]


@pytest.mark.parametrize("act", ["drop", "update", "cull"])
def test_a_store_does_not_deadlock_with_who_adds_a_record_and_then_changes_another(
    make_store: MakeStore, session_factory: sessionmaker[Session], owner: User, act: str
) -> None:
    store = make_store(commit_delay=0, record_limit=1 if act == "cull" else 0)
    store.add("old", task(completed=NOW, stdout="x" * 100))
    acts = {
        "drop": lambda: store.drop("old"),
        "update": lambda: store.update("old", {"stdout": "y"}),
        "cull": lambda: store.add("newest", task(9, completed=NOW)),
    }
    acting = threading.Thread(target=acts[act])
    with session_factory() as session, session.begin():
        session.add(TaskRecord(owner_id=owner.id_, cluster="c", msg_id="new", size=1))
        session.flush()
        acting.start()
        wait_for_a_lock(session_factory)
        session.execute(sa.text("SET LOCAL lock_timeout = '500ms'"))
        session.execute(sa.update(TaskRecord).where(TaskRecord.msg_id == "old").values(stderr="seen"))
    acting.join(60)
    assert not acting.is_alive()


def test_tasks_have_a_rule_among_all_others(aged: TaskStore, session_factory: sessionmaker[Session]) -> None:
    rules = choose_rules(["task_record"], older_than=timedelta(days=4, hours=12), batch=2)
    assert [result.rows for result in prune(session_factory, rules, dry_run=True)] == [5]
    (result,) = prune(session_factory, rules)
    assert (result.rows, result.left) == (5, 0)
    assert len(aged.list_ids()) == 6


def test_tasks_on_the_command_line(filled: TaskStore, database_uri: str, owner: User) -> None:
    filled.flush()
    listed = run(database_uri, "task", "list", owner.email, "--cluster", "c", "--incomplete", "--json")
    assert '"msg_id": "b"' in listed.output
    assert '"msg_id": "a"' not in listed.output
    globbed = run(database_uri, "task", "list", owner.email, "--filter", '{"label": {"$glob": "group*"}}')
    assert globbed.output.splitlines()[1].startswith("b ")
    more = run(database_uri, "task", "list", owner.email, "--limit", "1")
    assert "--cursor" in more.stderr
    shown = run(database_uri, "task", "show", owner.email, "e")
    assert '["0 bytes"]' in shown.output
    assert run(database_uri, "task", "show", owner.email, "no").exit_code == errors.NotFound.exit_code
    pruned = run(database_uri, "task", "prune", "--older-than", "0d", "--user", owner.email, "--dry-run")
    assert pruned.output.strip() == "2 tasks would go"
    assert "give an age" in one_line(run(database_uri, "task", "prune").stderr)
