"""Reaching the database: lazily, once per process, with retries, and without showing a password."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import traceback
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from platform_db import crypto, database, errors, schema, sessions, settings
from platform_db.database import liveness
from platform_db.database.pool import MeasuredPool
from platform_db.models import Resource, User


@pytest.fixture
def configured(database_uri: str, monkeypatch: pytest.MonkeyPatch):
    """Let this test's database be the configured one."""
    monkeypatch.setenv("PLATFORM_DB_URI", database_uri)
    settings.reset_settings()
    yield database_uri
    sessions.reset_engine()
    settings.reset_settings()


def test_importing_connects_to_nothing() -> None:
    code = """
import socket, platform_db.models, platform_db.sessions, platform_db.schema, platform_db.lifecycle, sys
from platform_db import sessions
assert sessions._engine is None
heavy = {"pydantic", "cryptography", "alembic", "rich", "click", "tenacity", "platform_db.schema.preview"}
heavy &= set(sys.modules)
assert not heavy, heavy
"""
    environment = {**os.environ, "PLATFORM_DB_URI": "postgresql://nobody:x@192.0.2.1/none"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@pytest.mark.parametrize(
    ("said", "options", "kept", "most"),
    [
        ({"pool": "job"}, {}, 1, 3),
        ({"pool": "init"}, {}, None, None),
        ({"pool": "init", "pool_size": 2}, {}, 2, 2),
        ({"pool": "init", "max_overflow": 3}, {}, 1, 4),
        ({"pool": "init"}, {"max_overflow": 3}, 1, 4),
        ({"pool": "job", "max_overflow": 0}, {"pool_size": 4}, 4, 4),
    ],
)
def test_what_is_said_explicitly_takes_the_place_of_a_preset(
    said: dict[str, Any], options: dict[str, int], kept: int | None, most: int | None
) -> None:
    given = settings.get_settings().model_copy(update=said)
    pool = database.create_engine("postgresql://nowhere/none", given, **options).pool
    if kept is None:
        assert isinstance(pool, sa.NullPool)
    else:
        assert isinstance(pool, MeasuredPool)
        assert (pool.size(), pool.most) == (kept, most)


def test_a_scope_commits_or_rolls_back(configured: str) -> None:
    with sessions.session_scope() as session:
        session.add(User(email="kept@example.org"))
    with pytest.raises(ZeroDivisionError), sessions.session_scope() as session:
        session.add(User(email="lost@example.org"))
        session.flush()
        raise ZeroDivisionError
    with sessions.session_scope() as session:
        assert session.scalars(sa.select(User.email)).all() == ["kept@example.org"]


def test_a_reset_ends_what_the_thread_was_doing(configured: str) -> None:
    sessions.thread_session.add(User(email="lost@example.org"))
    sessions.thread_session.flush()
    sessions.reset_engine()
    assert sessions.thread_session.scalars(sa.select(User)).all() == []


def test_a_forked_child_makes_an_engine_of_its_own(configured: str) -> None:
    sessions.thread_session.execute(sa.text("SELECT 1"))
    parent = sessions.get_engine()
    child = os.fork()
    if child == 0:
        try:
            assert sessions.get_engine() is not parent
            with sessions.session_scope() as session:
                session.execute(sa.text("SELECT 1"))
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert sessions.get_engine() is parent
    assert sessions.thread_session.scalar(sa.text("SELECT 2")) == 2


def test_the_configured_timeouts_and_name_reach_the_server(
    configured: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLATFORM_DB_STATEMENT_TIMEOUT", "1234")
    monkeypatch.setenv("PLATFORM_DB_LOCK_TIMEOUT", "345")
    monkeypatch.setenv("PLATFORM_DB_IDLE_IN_TRANSACTION_TIMEOUT", "5678")
    monkeypatch.setenv("PLATFORM_DB_APPLICATION_NAME", "scheduler")
    settings.reset_settings()
    with sessions.session_scope() as session:
        shown = {
            name: session.scalar(sa.text(f"SHOW {name}"))
            for name in (
                "statement_timeout",
                "lock_timeout",
                "idle_in_transaction_session_timeout",
                "application_name",
            )
        }
    assert list(shown.values()) == ["1234ms", "345ms", "5678ms", "scheduler"]


def test_what_the_uri_says_of_the_connection_counts_beside_the_timeouts(
    configured: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLATFORM_DB_STATEMENT_TIMEOUT", "1234")
    settings.reset_settings()
    options = {"options": "-c work_mem=7MB", "application_name": "reports"}
    url = database.normalise_url(configured).update_query_dict(options)

    with schema.connect(url) as connection:
        assert shown(connection) == ["7MB", "1234ms", "reports"]
    with schema.connect(url, options="") as connection:
        assert shown(connection) == ["7MB", "0", "reports"]


def shown(connection: sa.Connection) -> list[str]:
    names = ("work_mem", "statement_timeout", "application_name")
    return [connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in names]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("search_path", '"$user",Platform,"A ""b"""'),
        ("platform.note", "it's,two"),
        ("work_mem", "7MB"),
    ],
)
def test_each_transaction_sets_what_an_option_would(
    database_uri: str, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    option = f"-c {name}={value}".replace("A ", "A\\ ")
    url = database.normalise_url(database_uri).update_query_dict({"options": option})
    found = []
    for sent in ("true", "false"):
        monkeypatch.setenv("PLATFORM_DB_CONNECTION_OPTIONS", sent)
        settings.reset_settings()
        engine = database.create_engine(url, poolclass=sa.NullPool)
        with engine.connect() as connection:
            text = connection.exec_driver_sql(f"SHOW {name}").scalar_one()
            found.append(text.replace(" ", "").lower())  # as an option it is shown as it was written
    monkeypatch.undo()
    settings.reset_settings()
    assert found[0] == found[1]


def test_migrations_keep_the_options_of_the_uri(empty_database_uri: str) -> None:
    url = database.normalise_url(empty_database_uri)
    url = url.update_query_dict({"options": "-c default_transaction_read_only=on"})

    with pytest.raises(sa.exc.InternalError, match="read-only"):
        schema.upgrade(url.render_as_string(hide_password=False))


def test_a_connection_that_was_cut_is_replaced(configured: str, engine: sa.Engine) -> None:
    with sessions.session_scope() as session:
        pid = session.scalar(sa.text("SELECT pg_backend_pid()"))
    with engine.begin() as connection:
        connection.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
    with sessions.session_scope() as session:
        assert session.scalar(sa.text("SELECT pg_backend_pid()")) != pid


@pytest.mark.parametrize("idle_seconds", [0.0, 60.0])
def test_many_cut_connections_are_replaced(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, idle_seconds: float
) -> None:
    monkeypatch.setattr(liveness, "IDLE_SECONDS", idle_seconds)
    connections = [engine.connect() for _ in range(5)]
    for connection in connections:
        connection.close()
    with engine.connect() as connection:
        connection.execute(
            sa.text(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )
        )
    connections = [engine.connect() for _ in range(5)]
    assert [connection.scalar(sa.text("SELECT 1")) for connection in connections] == [1] * 5
    for connection in connections:
        connection.close()


def test_a_deadlock_is_run_again(session_factory: sessionmaker[Session]) -> None:
    names, runs = ("processing time", "shared storage"), []
    barrier = threading.Barrier(2)

    def work(order: tuple[str, ...]):
        def update_both(session: Session) -> None:
            runs.append(order)
            for name in order:
                session.execute(sa.update(Resource).where(Resource.name == name).values(title=name))
                if len(runs) <= 2 and name == order[0]:
                    barrier.wait(timeout=10)

        return lambda: sessions.run_transaction(update_both, factory=session_factory)

    threads = [threading.Thread(target=work(order)) for order in (names, names[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(runs) == 3


def test_other_errors_are_not_run_again(session_factory: sessionmaker[Session]) -> None:
    runs = []

    def fail(session: Session) -> None:
        runs.append(1)
        session.execute(sa.text("SELECT 1 / 0"))

    with pytest.raises(sa.exc.DataError):
        sessions.run_transaction(fail, factory=session_factory)
    assert len(runs) == 1


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("nonsense-hunter2", "is not a URL"),
        ("mysql://root:hunter2@db/name", "starts with mysql:"),
        ("postgresql://user:hunter2@db:port/name", "is not a URL"),
    ],
)
def test_a_wrong_uri_is_told_without_its_password(uri: str, message: str) -> None:
    with pytest.raises(errors.InvalidSetting, match=message) as error:
        database.normalise_url(uri)
    assert "hunter2" not in str(error.value) + repr(error.value)


def test_a_password_is_in_no_representation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLATFORM_DB_URI", "postgresql://user:hunter2@127.0.0.1:1/name")
    key = crypto.generate_key()
    monkeypatch.setenv("PLATFORM_DB_SECRET_KEY", key)
    settings.reset_settings()
    engine = database.create_engine(database.database_url())
    with pytest.raises(sa.exc.OperationalError) as error:
        engine.connect()
    shown = f"{settings.get_settings()!r} {engine!r} {engine.url} {error.value!r} {error.value}"
    assert "hunter2" not in shown
    assert key not in shown
    settings.reset_settings()


@pytest.mark.parametrize("option", ["sslpassword", "scram_client_key", "scram_server_key"])
def test_a_secret_option_is_in_no_representation(option: str) -> None:
    engine = database.create_engine(f"postgresql://user@127.0.0.1:1/name?{option}=hunter2")
    assert "hunter2" not in f"{engine!r} {engine.url!r} {engine.url}"


def test_parameters_are_in_no_error_and_no_log(engine: sa.Engine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", logger="sqlalchemy.engine")
    with pytest.raises(sa.exc.DBAPIError) as error, engine.connect() as connection:
        connection.execute(sa.text("SELECT CAST(:secret AS text), 1 / 0"), {"secret": "hunter2"})
    assert "hunter2" not in f"{error.value}{error.value!r}"
    assert "hunter2" not in "".join(r.getMessage() for r in caplog.records if "SELECT" not in r.getMessage())


def test_no_database_configured_names_the_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("URI", "HOST", "URI_FILE", "HOST_FILE"):
        monkeypatch.delenv(f"PLATFORM_DB_{name}", raising=False)
    settings.reset_settings()
    with pytest.raises(errors.NotConfigured) as error:
        sessions.get_engine()
    assert "PLATFORM_DB_URI" in (error.value.hint or "")


def test_host_and_friends_make_a_url(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.delenv("PLATFORM_DB_URI", raising=False)
    (tmp_path / "password").write_text("p@ss/word\n")
    for name, value in {
        "HOST": "db.example.org",
        "PORT": "6432",
        "NAME": "jobs",
        "USERNAME": "service",
        "PASSWORD_FILE": str(tmp_path / "password"),
    }.items():
        monkeypatch.setenv(f"PLATFORM_DB_{name}", value)
    settings.reset_settings()
    url = database.database_url()
    assert url.render_as_string(hide_password=False) == (
        "postgresql+psycopg2://service:p%40ss%2Fword@db.example.org:6432/jobs"
    )
    settings.reset_settings()


def test_invalid_settings_are_named_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLATFORM_DB_PORT", "hunter2")
    monkeypatch.setenv("PLATFORM_DB_WORKFLOW_TERMINATION_QUOTA_UPDATE_POLICY", "gpu")
    settings.reset_settings()
    with pytest.raises(errors.InvalidSetting, match=r"PLATFORM_DB_PORT.*unknown quota type gpu") as error:
        settings.get_settings()
    assert "hunter2" not in str(error.value)
    settings.reset_settings()


def test_what_a_child_throws_away_does_not_end_its_parents_transaction(configured: str) -> None:
    for leave in ("remove", "reset", "use", "exit"):
        sessions.thread_session.add(User(email=f"{leave}@example.org"))
        sessions.thread_session.flush()
        child = os.fork()
        if child == 0:
            try:
                if leave == "remove":
                    sessions.thread_session.remove()
                elif leave == "reset":
                    sessions.reset_engine()
                elif leave == "use":
                    assert (
                        sessions.thread_session.scalars(
                            sa.select(User.email).where(User.email == "use@example.org")
                        ).all()
                        == []
                    )
                    sessions.thread_session.remove()
                gc.collect()
            except BaseException:
                os._exit(1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        sessions.thread_session.commit()
    with sessions.session_scope() as session:
        assert len(session.scalars(sa.select(User.email)).all()) == 4


def test_threads_that_come_first_at_once_share_an_engine(configured: str) -> None:
    engines, barrier = [], threading.Barrier(8)

    def first_use() -> None:
        barrier.wait()
        engines.append(sessions.get_engine())

    threads = [threading.Thread(target=first_use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(engines) == 8
    assert len(set(map(id, engines))) == 1


def test_a_refused_row_is_not_shown(engine: sa.Engine) -> None:
    with pytest.raises(sa.exc.IntegrityError) as error, engine.connect() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO platform.user_ (id_, email, full_name) VALUES (gen_random_uuid(), '', :name)"
            ),
            {"name": "hunter" + str(2)},
        )
    assert "hunter2" not in "".join(traceback.format_exception(error.value))


@pytest.mark.parametrize("text", ["a\0b", "half a pair \ud800"])
def test_text_that_cannot_be_stored_is_refused_and_not_shown(engine: sa.Engine, text: str) -> None:
    with pytest.raises(errors.InvalidText) as error, Session(engine) as session:
        session.add(User(email=text))
        session.flush()
    assert text not in str(error.value)


def test_an_empty_variable_gives_way_to_its_file(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    (tmp_path / "uri").write_text("postgresql://host/name\n")
    monkeypatch.setenv("PLATFORM_DB_URI", "")
    monkeypatch.setenv("PLATFORM_DB_URI_FILE", str(tmp_path / "uri"))
    monkeypatch.setenv("PLATFORM_DB_WORKFLOW_TERMINATION_QUOTA_UPDATE_POLICY", "")
    settings.reset_settings()

    read = settings.get_settings()

    assert read.uri is not None
    assert read.uri.get_secret_value() == "postgresql://host/name"
    assert read.workflow_termination_quota_update_policy == ()
    settings.reset_settings()


def test_a_file_that_cannot_be_read_is_told_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PLATFORM_DB_PASSWORD", raising=False)
    monkeypatch.setenv("PLATFORM_DB_PASSWORD_FILE", "hunter2")
    settings.reset_settings()

    with pytest.raises(errors.InvalidSetting, match="PLATFORM_DB_PASSWORD_FILE") as error:
        settings.get_settings()

    assert "hunter2" not in str(error.value)
    settings.reset_settings()
