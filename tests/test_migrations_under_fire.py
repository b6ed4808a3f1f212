"""Migrations while a platform is at work: many at once, killed at any point, past readers, by no pooler."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory
from sqlalchemy.orm import Session

from platform_db import errors, schema, settings
from platform_db.schema import compare
from platform_db.testing.pooler import Pooler
from tests.command_line import one_line, run
from tests.processes import FORKING, in_processes, upgrade

ADVISORY = sa.text(
    "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database"
    " WHERE datname = current_database() AND locktype = 'advisory'"
)


@pytest.mark.parametrize("processes", [10, pytest.param(100, marks=pytest.mark.soak)])
def test_processes_at_the_newest_revision_look_once_and_ask_for_no_lock(
    database_uri: str, processes: int
) -> None:
    sessions = sa.text("SELECT sessions FROM pg_stat_database WHERE datname = current_database()")
    with schema.connect(database_uri) as looking, schema.connect(database_uri) as migrating:
        # Who asks for the lock finds that it is taken, and fails at once.
        schema.lock_for_migration(migrating, 1)
        looking = looking.execution_options(isolation_level="AUTOCOMMIT")
        before = looking.scalar(sessions)

        in_processes(processes, upgrade, database_uri, "0")

        after = looking.scalar(sessions)
        assert 0 < after - before <= processes
        assert looking.scalar(ADVISORY) == 1


def objects_at_each_revision(uri: str) -> dict[str | None, dict[str, str]]:
    """Migrate step by step, and return what is there after each."""
    found: dict[str | None, dict[str, str]] = {None: {}}
    for revision in schema.revisions():
        schema.upgrade(uri, revision)
        with schema.connect(uri) as connection:
            found[revision] = compare.read_catalogue(connection)
    return found


def empty(uri: str) -> None:
    with schema.connect(uri) as connection, connection.begin():
        connection.execute(sa.text("DROP SCHEMA IF EXISTS platform, redun CASCADE"))


@pytest.mark.parametrize("points", [2, pytest.param(30, marks=pytest.mark.soak)])
def test_a_migration_killed_at_any_point_leaves_a_revision_and_the_next_one_completes(
    empty_database_uri: str, points: int
) -> None:
    expected = objects_at_each_revision(empty_database_uri)
    others = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    reached: Counter[str | None] = Counter()
    longest = 60.0
    with schema.connect(empty_database_uri) as looking:

        def is_at_work() -> bool:
            looking.rollback()
            return bool(looking.scalar(others))

        for point in range(-1, points):
            empty(empty_database_uri)
            process = FORKING.Process(target=upgrade, args=(empty_database_uri, "60"))
            process.start()
            while not is_at_work() and process.is_alive():
                time.sleep(0.001)
            connected = time.monotonic()
            if point < 0:
                process.join()
                longest = time.monotonic() - connected
                continue
            # One in each part of the time that it takes.
            process.join((point + random.random()) * longest / points)
            process.kill()
            process.join()
            while is_at_work():
                time.sleep(0.02)
            revision = schema.status(looking).revision
            reached[revision] += 1
            stored = compare.read_catalogue(looking)
            looking.rollback()
            # What revisions do outside of transactions, the next run finds half done.
            differing = {name for name, _ in stored.items() ^ expected[revision].items()}
            assert all(name.startswith(("index ", "constraint ck_")) for name in differing), differing

            schema.upgrade(empty_database_uri)
            schema.require_agreement(empty_database_uri)
    print(f"killed at {points} points in {longest:.1f} s, at revisions {dict(reached)}")  # noqa: T201


def test_a_migration_through_a_pooler_is_refused_and_leaves_nothing_in_it(
    empty_database_uri: str, pooler: Pooler
) -> None:
    pooled = pooler.before(empty_database_uri)

    for command in (("alembic", "upgrade"), ("alembic", "stamp", "head"), ("init",)):
        result = run(pooled, *command)
        assert result.exit_code == errors.NotDirect.exit_code
        assert "PLATFORM_DB_MIGRATION_URI" in one_line(result.stderr)

    with schema.connect(empty_database_uri) as looking:
        assert schema.status(looking).state is schema.SchemaState.never_migrated
        assert looking.scalar(sa.text("SELECT to_regnamespace('platform')")) is None
        assert looking.scalar(ADVISORY) == 0
    with schema.connect(pooled) as first, schema.connect(pooled) as second, schema.connect(pooled) as third:
        for connection in (first, second, third):
            assert connection.scalar(sa.text("SHOW lock_timeout")) == "0"


def test_a_current_database_needs_no_direct_connection(pooled_database_uri: str) -> None:
    result = run(pooled_database_uri, "alembic", "upgrade")
    assert (result.exit_code, result.output) == (0, "")
    assert run(pooled_database_uri, "alembic", "upgrade", "--dry-run").stdout == "nothing to do\n"


@pytest.mark.parametrize("failing", [False, True])
def test_a_migration_leaves_its_connection_as_it_was(database_uri: str, failing: bool) -> None:
    settings = sa.text("SELECT name, setting FROM pg_settings WHERE name ~ 'timeout|check_interval'")
    with schema.connect(database_uri) as connection:
        before = connection.execute(settings).all()
        connection.commit()

        with contextlib.suppress(sa.exc.ProgrammingError), schema.migrating(connection):
            assert connection.scalar(sa.text("SHOW lock_timeout")) == "500ms"
            connection.commit()
            connection.execution_options(isolation_level="AUTOCOMMIT")
            # Outside a transaction no other session waits behind it.
            assert connection.scalar(sa.text("SHOW lock_timeout")) == "10min"
            assert connection.scalar(ADVISORY) == 1
            connection.commit()
            connection.execution_options(isolation_level="READ COMMITTED")
            if failing:
                connection.execute(sa.text("SELECT FROM nothing"))

        assert connection.execute(settings).all() == before
        assert connection.scalar(ADVISORY) == 0


@contextlib.contextmanager
def reading(uri: str, table: str) -> Iterator[sa.Connection]:
    """Keep a table in a transaction that goes on."""
    with schema.connect(uri) as connection:
        connection.execute(sa.text(f"SELECT FROM platform.{table}"))
        yield connection


def test_a_migration_that_waits_for_a_table_lets_readers_pass(
    database_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema.downgrade(database_uri, "0006")
    monkeypatch.setenv("PLATFORM_DB_MIGRATION_LOCK_TIMEOUT", "100")
    with reading(database_uri, "job") as busy:
        migrating = threading.Thread(target=schema.upgrade, args=(database_uri, "0007"))
        migrating.start()
        until = time.monotonic() + 4
        # A reader that waited for longer would fail.
        with schema.connect(database_uri, options="-c lock_timeout=2000") as reader:
            while time.monotonic() < until:
                reader.execute(sa.text("SELECT count(*) FROM platform.job"))
                reader.commit()
                time.sleep(0.01)
            assert schema.status(reader).revision == "0006"
        assert migrating.is_alive()
        busy.rollback()
        migrating.join()
    with schema.connect(database_uri) as connection:
        assert schema.status(connection).revision == "0007"


def test_what_ran_before_is_no_time_that_a_table_was_waited_for(
    database_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLATFORM_DB_MIGRATION_WAIT", "3")
    settings.reset_settings()
    attempts: list[float] = []
    with schema.connect(database_uri) as connection, reading(database_uri, "job") as busy:

        def run_revisions() -> None:
            if not attempts:
                time.sleep(3)  # as the pass over a large table before
                threading.Timer(0.5, busy.rollback).start()
            attempts.append(time.monotonic())
            connection.execute(sa.text("SET LOCAL lock_timeout = 50"))
            connection.execute(sa.text("LOCK TABLE platform.job"))

        schema.retry_while_blocked(connection, run_revisions)

    assert len(attempts) > 1


def test_a_migration_that_never_gets_its_table_says_so_and_keeps_what_ran(database_uri: str) -> None:
    schema.downgrade(database_uri, "0005")
    hurried = {"PLATFORM_DB_MIGRATION_LOCK_TIMEOUT": "50", "PLATFORM_DB_MIGRATION_WAIT": "0.5"}
    with reading(database_uri, "job"):
        result = run(database_uri, "alembic", "upgrade", "+2", **hurried)

    assert result.exit_code == errors.MigrationBlocked.exit_code
    assert "--dry-run" in result.stderr.splitlines()[-1]
    assert result.stdout.startswith("ran 0006")
    with schema.connect(database_uri) as connection:
        assert schema.status(connection).revision == "0006"
    # A number of steps is counted from where the first attempt began.
    with reading(database_uri, "job") as busy:
        threading.Timer(1, busy.rollback).start()
        assert (
            run(database_uri, "alembic", "downgrade", "-2", PLATFORM_DB_MIGRATION_LOCK_TIMEOUT="50").exit_code
            == 0
        )
    with schema.connect(database_uri) as connection:
        assert schema.status(connection).revision == "0004"


def test_there_is_a_phase_for_each_revision() -> None:
    for script in ScriptDirectory.from_config(schema.alembic_config()).walk_revisions():
        assert script.module.phase in schema.PHASES


def test_an_index_of_the_newest_revision_that_was_finished_is_kept(database_uri: str) -> None:
    schema.downgrade(database_uri, "0011")
    number = sa.text("SELECT to_regclass('platform.ix_workflow_waiting')::oid::bigint")
    with schema.connect(database_uri) as connection, connection.begin():
        connection.execute(
            sa.text(
                "CREATE INDEX ix_workflow_waiting ON platform.workflow (greatest(created, start_after))"
                " WHERE (status = 'queued') IS TRUE"
            )
        )
        before = connection.scalar(number)

    schema.upgrade(database_uri)

    schema.require_agreement(database_uri)
    with schema.connect(database_uri) as connection:
        assert connection.scalar(number) == before


def test_a_migration_gives_way_before_the_server_ends_a_writer(session: Session) -> None:
    deadlock_timeout = "SELECT boot_val::int FROM pg_settings WHERE name = 'deadlock_timeout'"
    assert settings.get_settings().migration_lock_timeout < session.scalar(sa.text(deadlock_timeout))
