"""A process that records and ends: by itself, by a kill, or as the child of another."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import database
from platform_db.models import User
from platform_db.provenance import Recorder
from tests.provenance_rows import count, make_owner, put_call, put_task, put_value, recorders

MakeRecorder = Callable[..., Recorder]


@pytest.fixture
def owner(session: Session) -> User:
    return make_owner(session)


@pytest.fixture
def make_recorder(engine: sa.Engine, owner: User) -> Iterator[MakeRecorder]:
    with recorders(engine, owner) as make:
        yield make


def test_what_a_closed_recorder_could_not_write_is_written_at_exit(
    engine: sa.Engine, database_uri: str, owner: User
) -> None:
    program = """if True:
        import sys
        from platform_db import database, errors
        from platform_db.provenance import Recorder
        from tests.provenance_rows import put_value
        from tests.test_tasks import close_database
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


def killed_after(seconds: float, uri: str, owner: User) -> None:
    """Record calls in another process, and kill that after so many seconds."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            one = Recorder(database.create_engine(uri), owner.id_, delay=0.02)
            put_task(one)
            put_value(one, "argument")
            one.flush()
            os.write(writing, b"begun")
            for number in itertools.count():
                put_call(one, f"call {number}")
        finally:
            os._exit(1)
    os.close(writing)
    assert os.read(reading, 5) == b"begun"
    os.close(reading)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


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
        killed_after(0.3 + number * 0.11, database_uri, owner)
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
    program = """if True:
        import sys
        from platform_db import database
        from platform_db.provenance import Recorder
        from tests.provenance_rows import put_call, put_task, put_value
        one = Recorder(database.create_engine(sys.argv[1]), sys.argv[2], delay=60)
        put_task(one)
        put_value(one, "argument")
        for number in range(10):
            put_call(one, f"call {number}")
    """
    subprocess.run([sys.executable, "-c", program, database_uri, str(owner.id_)], check=True)

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
