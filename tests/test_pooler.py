"""What holds through a PgBouncer in transaction mode, which refuses options and keeps no session's state."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from datetime import datetime, timezone

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from platform_db import database, errors, settings
from platform_db.database import pooling
from platform_db.database.kept_connection import KeptConnection
from platform_db.models import User, Workflow
from platform_db.tasks import TaskStore
from platform_db.tasks.writer import COPIED_RECORDS
from platform_db.tenancy import roles, tenant_scope
from platform_db.testing.factories import make_run, make_user
from tests.command_line import run

STATE = (
    "statement_timeout",
    "lock_timeout",
    "work_mem",
    "role",
    "application_name",
    "platform.user_id",
)


@pytest.fixture
def pooled(pooled_database_uri: str) -> Iterator[sa.Engine]:
    engine = database.create_engine(pooled_database_uri)
    yield engine
    engine.dispose()


@pytest.fixture
def set_timeouts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PLATFORM_DB_STATEMENT_TIMEOUT", "1234")
    monkeypatch.setenv("PLATFORM_DB_LOCK_TIMEOUT", "345")
    settings.reset_settings()
    yield
    settings.reset_settings()


def state_of(connection: sa.Connection, *names: str) -> list[str]:
    return [
        connection.scalar(sa.text(f"SELECT coalesce(current_setting('{name}', true), '')")) for name in names
    ]


def states_of_server(uri: str) -> set[tuple[str, ...]]:
    """Return what the pooler's connections of the server were left with, each that it has."""
    engine = database.create_engine(uri, poolclass=sa.NullPool, connect_args={"options": ""})
    with engine.connect() as one, engine.connect() as other, engine.connect() as third:
        found = set()
        for connection in itertools.chain.from_iterable(itertools.repeat((one, other, third), 3)):
            found.add(tuple(state_of(connection, *STATE)))
            connection.rollback()
        return found


def test_transactions_of_a_connection_meet_several_of_the_server(pooled: sa.Engine) -> None:
    with pooled.connect() as one, pooled.connect() as other:
        pids = set()
        for _ in range(3):
            for connection in (one, other):
                pids.add(connection.scalar(sa.text("SELECT pg_backend_pid()")))
            one.rollback()
            other.rollback()

    assert len(pids) > 1


@pytest.mark.usefixtures("set_timeouts")
def test_timeouts_hold_in_each_transaction_and_stay_on_no_connection(pooled_database_uri: str) -> None:
    before = states_of_server(pooled_database_uri)
    url = database.normalise_url(pooled_database_uri).update_query_dict({"options": "-c work_mem=7MB"})
    engine = database.create_engine(url)
    with engine.connect() as connection:
        for _ in range(3):
            shown = state_of(connection, "statement_timeout", "lock_timeout", "work_mem")
            assert shown == ["1234ms", "345ms", "7MB"]
            connection.rollback()
        with pytest.raises(sa.exc.OperationalError, match="statement timeout"):
            connection.exec_driver_sql("SELECT pg_sleep(10)")
    engine.dispose()

    assert states_of_server(pooled_database_uri) == before


@pytest.mark.usefixtures("set_timeouts")
@pytest.mark.parametrize("options", ["-d 5", "-c work_mem"])
def test_an_option_that_no_transaction_can_set_is_refused(pooled_database_uri: str, options: str) -> None:
    url = database.normalise_url(pooled_database_uri).update_query_dict({"options": options})
    with pytest.raises(errors.InvalidSetting, match="-c NAME=VALUE"):
        database.create_engine(url, poolclass=sa.NullPool).connect()


def test_a_command_sends_no_options_either(pooled_database_uri: str) -> None:
    done = run(pooled_database_uri, "db", "check", PLATFORM_DB_STATEMENT_TIMEOUT="60000")
    assert done.exit_code == 0, done.output
    done = run(pooled_database_uri, "workflow", "list", "--json", PLATFORM_DB_STATEMENT_TIMEOUT="60000")
    assert done.exit_code == 0, done.output


def test_tenants_that_share_connections_see_their_own_rows(
    pooled: sa.Engine, pooled_database_uri: str
) -> None:
    factory = orm.sessionmaker(pooled)
    roles.create_roles(factory)
    roles.grant_privileges(factory)
    with factory() as session, session.begin():
        owners = make_user(session).id_, make_user(session).id_
        runs = [make_run(session, owner).id_ for owner in owners]
    before = states_of_server(pooled_database_uri)

    with tenant_scope(pooled, owners[0]) as one, tenant_scope(pooled, owners[1]) as other:
        for _ in range(3):
            for session, run_id in zip((one, other), runs, strict=True):
                assert session.scalars(sa.select(Workflow.id_)).all() == [run_id]
                session.commit()

    assert states_of_server(pooled_database_uri) == before


def test_a_kept_connection_needs_no_state(pooled: sa.Engine) -> None:
    kept = KeptConnection(pooled, enter="SET LOCAL platform.user_id = 'me'; ")
    for _ in range(3):
        assert kept.execute("SELECT current_setting('platform.user_id')") == [("me",)]
    with pooled.connect() as connection:
        assert state_of(connection, "platform.user_id") == [""]
    kept.close()


@pytest.mark.usefixtures("set_timeouts")
def test_a_kept_connection_has_the_timeouts_from_its_first_text_on(pooled_database_uri: str) -> None:
    engine = database.create_engine(pooled_database_uri, isolation_level="AUTOCOMMIT")
    kept = KeptConnection(engine, enter="SET LOCAL work_mem = '7MB';")
    for _ in range(2):
        assert kept.send("SELECT current_setting('lock_timeout'), current_setting('work_mem')") == [
            ("345ms", "7MB")
        ]
    with pytest.raises(sa.exc.OperationalError, match="statement timeout"):
        kept.send("SELECT pg_sleep(10)")
    kept.close()
    engine.dispose()


@pytest.mark.usefixtures("set_timeouts")
def test_a_task_store_copies_its_records_within_the_timeouts(pooled: sa.Engine) -> None:
    ids = [f"task {number}" for number in range(COPIED_RECORDS)]
    with orm.Session(pooled) as session, session.begin():
        owner = make_user(session).id_
    store = TaskStore(pooled, owner, commit_delay=60)
    for id_ in ids:
        store.add(id_, {"submitted": datetime.now(timezone.utc)})
    with pooled.connect() as connection:
        connection.execute(sa.text("LOCK TABLE platform.task_record"))
        with pytest.raises(errors.NotWritable, match="lock timeout"):
            store.flush()
    store.flush()
    assert sorted(store.list_ids()) == sorted(ids)
    store.close()


def test_a_server_is_asked_once_whether_it_is_behind_a_pooler(
    direct_database_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = iter(range(9))
    monkeypatch.setattr(pooling, "_pooled", {})
    monkeypatch.setattr(pooling, "is_pooled", lambda connection: next(asked) < 0)
    for _ in range(2):
        engine = database.create_engine(
            direct_database_uri, poolclass=sa.NullPool, connect_args={"options": "-c lock_timeout=345"}
        )
        for _ in range(2):
            with engine.connect() as connection:
                assert state_of(connection, "lock_timeout") == ["345ms"]
    assert next(asked) == 1


def test_a_pool_that_was_cut_off_is_replaced(
    pooled: sa.Engine, engine: sa.Engine, make_user: Callable[..., User]
) -> None:
    make_user()
    with pooled.connect() as connection:
        connection.execute(sa.text("SELECT 1"))
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    with orm.Session(pooled) as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(User)) == 1
