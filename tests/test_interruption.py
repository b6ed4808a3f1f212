"""A signal ends a job between two batches: its lease is free, and the exit code says what ended it."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import database, errors
from platform_db.schema.migrating import MIGRATION_LOCK
from tests.command_line import one_line, start
from tests.factories import make_run, make_user

UNSHARE = ["unshare", *(() if os.geteuid() == 0 else ("-Ur",)), "-pf", "--kill-child"]
JOB = ("quota", "cpu-usage-update", "--override-policy")


# What the child does first, before it could know that it is one, takes a while.
SLOW_CHILD = """
import os, signal, sys, threading, time
os.register_at_fork(after_in_child=lambda: time.sleep(1))
from platform_db import database
with database.interruptible(), database.create_engine(sys.argv[1]).connect() as connection:
    child = os.fork()
    if child == 0:
        time.sleep(30)
        os._exit(0)
    threading.Timer(0.3, os.kill, (child, signal.SIGTERM)).start()
    connection.exec_driver_sql("SELECT pg_sleep(2)")
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.fixture
def as_first_process() -> list[str]:
    """Give the command that runs another one as process 1 of a name space of process ids."""
    try:
        tried = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no unshare here")
    if tried.returncode:
        pytest.skip(f"name spaces of process ids are not allowed here: {tried.stderr.strip()}")
    return UNSHARE


@contextlib.contextmanager
def held_up(engine: sa.Engine) -> Iterator[None]:
    """Let the job wait for a lock in the middle of its first batch."""
    with Session(engine) as session:
        make_run(session, make_user(session), status="running")
    with engine.connect() as connection:
        connection.exec_driver_sql("LOCK TABLE platform.user_resource, platform.workflow_resource")
        yield
        connection.rollback()


def wait_until_held_up(engine: sa.Engine) -> None:
    waiting = sa.text(
        "SELECT EXISTS (SELECT FROM platform.task_lease) AND EXISTS (SELECT FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock')"
    )
    give_up_at = time.monotonic() + 20
    with engine.connect() as connection:
        while not connection.scalar(waiting):
            connection.rollback()
            assert time.monotonic() < give_up_at, "the job is not held up"
            time.sleep(0.02)


def leases(engine: sa.Engine) -> int | None:
    with engine.connect() as connection:
        return connection.scalar(sa.text("SELECT count(*) FROM platform.task_lease"))


def child_of(process: subprocess.Popen[str]) -> int:
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])


def test_process_one_ends_its_job_on_sigterm(
    engine: sa.Engine, database_uri: str, as_first_process: list[str]
) -> None:
    with held_up(engine):
        job = start(database_uri, *JOB, before=as_first_process)
        wait_until_held_up(engine)
        began = time.monotonic()
        os.kill(child_of(job), signal.SIGTERM)
        _, stderr = job.communicate(timeout=20)

        assert time.monotonic() - began < 5
        assert job.returncode == 143
        assert "running it again does the rest" in one_line(stderr)
        assert leases(engine) == 0


def test_process_one_ends_on_sigterm_while_it_still_imports(
    as_first_process: list[str], tmp_path: Path
) -> None:
    (tmp_path / "click.py").write_text("import time; print('importing', flush=True); time.sleep(60)")
    starting = start(None, "--help", before=as_first_process, PYTHONPATH=f"{tmp_path}:{Path.cwd()}")
    assert starting.stdout is not None
    assert starting.stdout.readline() == "importing\n"
    os.kill(child_of(starting), signal.SIGTERM)

    assert starting.wait(timeout=20) == 143


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_job_ends_on_a_signal(
    engine: sa.Engine, database_uri: str, number: signal.Signals, exit_code: int
) -> None:
    with held_up(engine):
        job = start(database_uri, *JOB)
        wait_until_held_up(engine)
        job.send_signal(number)
        _, stderr = job.communicate(timeout=20)

        assert job.returncode == exit_code
        assert "what is committed stays" in one_line(stderr)
        assert leases(engine) == 0


@pytest.mark.parametrize("command", ["alembic upgrade head", "db wait --migrated"])
def test_a_command_that_waits_ends_on_sigterm(empty_database_uri: str, command: str) -> None:
    engine = database.create_engine(empty_database_uri)
    with engine.connect() as connection:
        connection.execute(sa.select(sa.func.pg_advisory_lock(MIGRATION_LOCK)))  # upgrade waits for it
        waiting = start(empty_database_uri, *command.split(), PLATFORM_DB_APPLICATION_NAME="waiting")
        give_up_at = time.monotonic() + 60
        seen = sa.text("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'waiting')")
        while not connection.scalar(seen):
            connection.rollback()
            assert time.monotonic() < give_up_at, "it does not connect"
            time.sleep(0.05)
        time.sleep(1)
        waiting.send_signal(signal.SIGTERM)
        _, stderr = waiting.communicate(timeout=20)

    engine.dispose()
    assert waiting.returncode == 143
    assert "was interrupted" in one_line(stderr)


def test_a_prompt_ends_on_a_signal(database_uri: str) -> None:
    terminal, stdin = pty.openpty()
    asking = start(database_uri, "token", "issue", "ada@example.org", "--own-value", stdin=stdin)
    assert asking.stderr is not None
    assert asking.stderr.read(len("Value: ")) == "Value: "
    asking.send_signal(signal.SIGINT)
    _, stderr = asking.communicate(timeout=20)
    os.close(stdin)
    os.close(terminal)

    assert asking.returncode == 130
    assert "was interrupted" in stderr


class TestInALibrary:
    def test_a_statement_that_runs_is_cancelled(self, engine: sa.Engine) -> None:
        began = time.monotonic()
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()

        with (
            pytest.raises(errors.Interrupted) as interrupted,
            database.interruptible(),
            engine.connect() as connection,
        ):
            connection.execute(sa.text("SELECT pg_sleep(30)"))

        assert interrupted.value.signal == signal.SIGTERM
        assert time.monotonic() - began < 5

    def test_the_handlers_of_before_come_back(self) -> None:
        before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
        with database.interruptible():
            assert signal.getsignal(signal.SIGTERM) not in before
        with contextlib.suppress(errors.Interrupted), database.interruptible():
            signal.raise_signal(signal.SIGINT)

        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
        assert signal.set_wakeup_fd(-1) == -1
        assert not [thread for thread in threading.enumerate() if thread.name == "interruption"]

    def test_what_is_ignored_stays_so(self) -> None:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with database.interruptible():
                signal.raise_signal(signal.SIGINT)
        finally:
            signal.signal(signal.SIGINT, before)

    def test_another_thread_changes_nothing(self) -> None:
        before = signal.getsignal(signal.SIGTERM)
        found = []

        def work() -> None:
            with database.interruptible():
                found.append(signal.getsignal(signal.SIGTERM))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert found == [before]

    def test_a_child_that_is_ended_leaves_its_parents_statements_alone(self, engine: sa.Engine) -> None:
        with database.interruptible(), engine.connect() as connection:
            child = os.fork()
            if child == 0:
                time.sleep(30)
                os._exit(0)
            threading.Timer(0.3, os.kill, (child, signal.SIGTERM)).start()
            connection.execute(sa.text("SELECT pg_sleep(1)"))
            _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM

    def test_a_child_that_is_ended_as_it_begins_leaves_them_alone_too(self, database_uri: str) -> None:
        done = subprocess.run(
            [sys.executable, "-c", SLOW_CHILD, database_uri], capture_output=True, text=True
        )
        assert (done.stdout, done.stderr) == ("-15\n", "")
