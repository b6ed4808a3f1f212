"""What the package relies on holds on every server: the encoding, the isolation, and an end to waiting."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import database, errors, schema, settings
from platform_db.database import liveness
from platform_db.models import User, Workflow
from platform_db.testing import databases
from tests.command_line import one_line, run
from tests.factories import make_user

NAME = "Zoë Ωμέγα 数据"


@pytest.fixture
def login(engine: sa.Engine) -> Iterator[str]:
    """Give the URL of this test's database for a superuser of this test's own."""
    name = f"login_{uuid.uuid4().hex}"
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {name} LOGIN SUPERUSER PASSWORD 'x'")
    yield engine.url.set(username=name, password="x").render_as_string(hide_password=False)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"DROP ROLE {name}")


def set_for(engine: sa.Engine, login: str, setting: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER ROLE {sa.make_url(login).username} SET {setting}")


def text_survives(uri: str) -> None:
    engine = database.create_engine(uri)
    with Session(engine) as session:
        user = make_user(session, full_name=NAME)
        session.expire_all()
        assert session.scalar(sa.select(User.full_name).where(User.id_ == user.id_)) == NAME
        assert session.scalar(sa.text("SHOW client_encoding")) == "UTF8"
    engine.dispose()


def test_text_survives_a_role_with_another_encoding(engine: sa.Engine, login: str) -> None:
    set_for(engine, login, "client_encoding = 'LATIN1'")

    text_survives(login)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_text_survives_an_environment_with_another_encoding(
    database_uri: str, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", encoding)

    text_survives(database_uri)


@pytest.mark.parametrize("setting", ["repeatable read", "serializable"])
def test_transactions_are_read_committed_whatever_the_role_has(
    engine: sa.Engine, login: str, setting: str
) -> None:
    set_for(engine, login, f"default_transaction_isolation = '{setting}'")
    theirs = database.create_engine(login)
    with Session(theirs) as session:
        owner_id = make_user(session).id_

    def create(_: int) -> None:
        with Session(theirs) as session, session.begin():
            session.add(Workflow(name="run", owner_id=owner_id, type_="serial", specification={}))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(create, range(40)))
    with theirs.connect() as connection:
        assert connection.scalar(sa.text("SHOW transaction_isolation")) == "read committed"
        connection.rollback()
        stricter = connection.execution_options(isolation_level="SERIALIZABLE")
        assert stricter.scalar(sa.text("SHOW transaction_isolation")) == "serializable"
    theirs.dispose()


def test_pinning_sends_no_statement(engine: sa.Engine) -> None:
    with engine.connect() as watching, engine.connect() as pinned:
        pid = pinned.connection.dbapi_connection.info.backend_pid

        last = watching.scalar(sa.text("SELECT query FROM pg_stat_activity WHERE pid = :pid"), {"pid": pid})

    assert last == "", "the server was asked nothing yet"


@pytest.fixture
def unsuitable(postgres_server_uri: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """Give the URL of a database of another encoding."""
    name = f"encoded_{uuid.uuid4().hex}"
    server = sa.create_engine(database.normalise_url(postgres_server_uri), isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.exec_driver_sql(
            f"CREATE DATABASE {name} TEMPLATE template0"
            f" ENCODING '{request.param}' LOCALE 'C' LOCALE_PROVIDER libc"
        )
    yield databases.with_database(postgres_server_uri, name)
    databases.drop_database(postgres_server_uri, name)
    server.dispose()


@pytest.mark.parametrize("unsuitable", ["LATIN1", "SQL_ASCII"], indirect=True)
@pytest.mark.parametrize("command", ["init", "alembic upgrade"])
def test_a_database_that_cannot_hold_every_text_is_refused(unsuitable: str, command: str) -> None:
    result = run(unsuitable, *command.split())

    assert result.exit_code == errors.Refused.exit_code
    assert "which cannot hold every text (" in one_line(result.stderr)
    assert "platform-db db create" in result.stderr
    with schema.connect(unsuitable) as connection:
        assert schema.status(connection).state is schema.SchemaState.never_migrated
        assert connection.scalar(sa.text("SELECT to_regnamespace('platform')")) is None


@contextlib.contextmanager
def over_tcp(uri: str) -> Iterator[str]:
    """Give a URL that reaches the same server through a TCP connection."""
    url = database.normalise_url(uri)
    with contextlib.closing(database.create_engine(url).raw_connection()) as connection:
        target = os.dup(connection.dbapi_connection.fileno())
    peer = socket.socket(fileno=target)
    address, family = peer.getpeername(), peer.family
    peer.close()

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listening.accept()
                server = socket.socket(family)
                server.connect(address)
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=pump, args=ends, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        host, port = listening.getsockname()[:2]
        yield (
            url.set(host=host, port=port)
            .difference_update_query(["host", "port"])
            .render_as_string(hide_password=False)
        )
        listening.shutdown(socket.SHUT_RDWR)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux has this socket option")
@pytest.mark.parametrize(
    ("query", "setting", "expected"),
    [
        ("", None, (60_000, 1, 30, 10, 3)),
        ("", "12", (12_000, 1, 6, 2, 3)),
        ("?tcp_user_timeout=7000&keepalives_idle=5", None, (7_000, 1, 5, 10, 3)),
    ],
)
def test_a_server_that_went_silent_is_given_up(
    database_uri: str,
    monkeypatch: pytest.MonkeyPatch,
    query: str,
    setting: str | None,
    expected: tuple[int, ...],
) -> None:
    if setting:
        monkeypatch.setenv("PLATFORM_DB_NETWORK_TIMEOUT", setting)
    settings.reset_settings()
    with over_tcp(database_uri) as uri, schema.connect(uri + query) as connection:
        options = socket.socket(fileno=os.dup(connection.connection.dbapi_connection.fileno()))
        with options:
            found = (
                options.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
                options.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                options.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
                options.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
                options.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
            )
    settings.reset_settings()
    assert found == expected


def test_liveness_needs_no_poll(database_uri: str) -> None:
    """As under eventlet, which takes it away."""
    program = """
import select, sys
del select.poll
import sqlalchemy as sa
from platform_db import database
engine = database.create_engine(sys.argv[1])
for _ in range(2):
    with engine.connect() as connection:
        print(connection.scalar(sa.text("SELECT 1")))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, database_uri], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("1\n1\n", "")


def test_liveness_reads_descriptors_beyond_those_of_select(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip("this process may not open so many files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    monkeypatch.setattr(liveness, "IDLE_SECONDS", 60.0)
    engine.dispose()  # The next connection gets a new descriptor.
    null = [os.open(os.devnull, os.O_RDONLY) for _ in range(1030)]
    try:
        for _ in range(2):
            with engine.connect() as connection:
                assert connection.connection.dbapi_connection.fileno() > 1024
                pid = connection.scalar(sa.text("SELECT pg_backend_pid()"))
    finally:
        for descriptor in null:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert pid


class TestCreating:
    """``platform-db db create``."""

    @pytest.fixture
    def missing(self, postgres_server_uri: str) -> Iterator[str]:
        name = f'made "{uuid.uuid4().hex}'
        yield databases.with_database(postgres_server_uri, name)
        databases.drop_database(postgres_server_uri, name)

    def test_a_missing_database_is_made_and_can_be_migrated(self, missing: str) -> None:
        before = run(missing, "db", "check")
        assert "platform-db db create" in one_line(before.stderr)

        results = [run(missing, "db", "create") for _ in range(2)]

        assert [result.exit_code for result in results] == [0, 0]
        assert [result.output.strip() for result in results] == [
            "created the database",
            "nothing to do: the database exists",
        ]
        with schema.connect(missing) as connection:
            assert connection.scalar(sa.text("SHOW server_encoding")) == "UTF8"
        assert run(missing, "init").exit_code == 0

    def test_several_at_once_agree(self, missing: str) -> None:
        with ThreadPoolExecutor(4) as threads:
            created = list(threads.map(lambda _: database.create_database(missing), range(4)))

        assert sum(created) == 1

    def test_the_login_of_migrations_makes_it(self, missing: str) -> None:
        made = run("postgresql://nobody@127.0.0.1:1/x", "db", "create", PLATFORM_DB_MIGRATION_URI=missing)

        assert made.exit_code == 0

    def test_an_unreachable_server_is_one_line(self) -> None:
        result = run("postgresql://ada:s3cr3t@127.0.0.1:1/d", "db", "create")

        assert result.exit_code == errors.Unreachable.exit_code
        assert "is not running" in one_line(result.stderr)
        assert "s3cr3t" not in result.output

    def test_a_login_that_may_not_is_told(self, engine: sa.Engine, login: str, missing: str) -> None:
        with engine.begin() as connection:
            name = sa.make_url(login).username
            connection.exec_driver_sql(f"ALTER ROLE {name} NOSUPERUSER NOCREATEDB")
        uri = sa.make_url(login).set(database=sa.make_url(missing).database)

        result = run(uri.render_as_string(hide_password=False), "db", "create")

        assert result.exit_code == errors.RolesMissing.exit_code
        assert "permission denied to create database (" in one_line(result.stderr)


class TestInitDb:
    """What an engine was made with is what its schema is made with."""

    def test_secrets_that_the_engine_does_not_show(self, empty_database_uri: str) -> None:
        url = database.normalise_url(empty_database_uri).update_query_dict({"sslpassword": "s3cr3t"})
        engine = database.create_engine(url)
        assert "sslpassword" not in str(engine.url)
        seen: list[object] = []

        @sa.event.listens_for(sa.Engine, "do_connect")
        def note(dialect: object, record: object, args: object, parameters: dict[str, object]) -> None:
            seen.append(parameters.get("sslpassword"))

        try:
            schema.init_db(engine)
        finally:
            sa.event.remove(sa.Engine, "do_connect", note)
            engine.dispose()
        assert seen
        assert set(seen) == {"s3cr3t"}

    def test_arguments_of_an_engine_of_ours(self, empty_database_uri: str) -> None:
        options = {"options": "-c search_path=nowhere", "application_name": "mine"}
        engine = database.create_engine(empty_database_uri, connect_args=options)
        seen = self.applications(engine)

        assert seen == {"mine"}

    def test_arguments_of_an_engine_of_somebody_elses(self, empty_database_uri: str) -> None:
        url = database.normalise_url(empty_database_uri)

        assert self.applications(sa.create_engine(url, connect_args={"application_name": "theirs"})) == {
            "theirs"
        }

    def applications(self, engine: sa.Engine) -> set[str]:
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE public.seen (name text)")
            connection.exec_driver_sql(
                "CREATE FUNCTION public.note() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN"
                " INSERT INTO public.seen VALUES (current_setting('application_name')); END$$"
            )
            connection.exec_driver_sql(
                "CREATE EVENT TRIGGER note ON ddl_command_end EXECUTE FUNCTION public.note()"
            )
        schema.init_db(engine)
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP EVENT TRIGGER note")
            names = set(connection.scalars(sa.text("SELECT name FROM public.seen")))
        engine.dispose()
        return names

    def test_the_configured_database_is_migrated_by_its_own_way_in(
        self, empty_database_uri: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        direct = database.normalise_url(empty_database_uri).update_query_dict({"application_name": "direct"})
        monkeypatch.setenv("PLATFORM_DB_URI", empty_database_uri)
        monkeypatch.setenv("PLATFORM_DB_MIGRATION_URI", direct.render_as_string(hide_password=False))
        settings.reset_settings()

        names = self.applications(database.create_engine(database.database_url()))

        settings.reset_settings()
        assert names == {"direct"}


@pytest.mark.parametrize("variable", ["URI=postgresql://db.example.org/d", "HOST=db.example.org"])
def test_an_engine_of_the_configured_database_is_the_configured_one(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    name, _, value = variable.partition("=")
    monkeypatch.delenv("PLATFORM_DB_URI", raising=False)
    monkeypatch.setenv(f"PLATFORM_DB_{name}", value)
    settings.reset_settings()
    assert database.is_configured(database.create_engine(database.database_url()))
    settings.reset_settings()


def test_an_engine_of_another_database_is_not_the_configured_one(
    empty_database_uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    engine = database.create_engine(empty_database_uri)
    for uri in ("", "postgresql://elsewhere/d", f"embedded://{tmp_path}/none"):
        monkeypatch.setenv("PLATFORM_DB_URI", uri)
        settings.reset_settings()
        assert not database.is_configured(engine)
    settings.reset_settings()
    assert not (tmp_path / "none").exists()
