"""Whatever goes wrong on the command line is one line on stderr, with an exit code of its own."""

from __future__ import annotations

import contextlib
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

import platform_db
from platform_db import crypto, database, errors
from platform_db.cli.errors import as_failure
from platform_db.database import driver_errors
from platform_db.embedded import binaries
from tests.command_line import one_line, run, start
from tests.factories import make_user

SECRET = "s3cr3t"


@contextlib.contextmanager
def server(*answers: bytes) -> Iterator[str]:
    """Give the URL of a server that gives each new connection these answers, and then stays silent."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listening.accept()
                with connection:
                    for answer in answers:
                        connection.recv(4096)
                        connection.sendall(answer)
                    while connection.recv(4096):
                        pass

        thread = threading.Thread(target=serve)
        thread.start()
        port = listening.getsockname()[1]
        yield f"postgresql://ada:{SECRET}@127.0.0.1:{port}/d?sslmode=disable&gssencmode=disable"
    thread.join()


def refusal(sqlstate: str, message: str) -> bytes:
    """Return what a PostgreSQL server sends to refuse a connection."""
    fields = f"SFATAL\0VFATAL\0C{sqlstate}\0M{message}\0\0".encode()
    return b"E" + struct.pack("!i", len(fields) + 4) + fields


def test_nothing_configured_names_the_choices() -> None:
    result = run(None, "db", "check")

    assert result.exit_code == errors.NotConfigured.exit_code
    assert "PLATFORM_DB_URI" in one_line(result.stderr)
    assert "PLATFORM_DB_HOST" in result.stderr


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("nonsense", "is not a URL"),
        (f"mysql://ada:{SECRET}@host/d", "starts with mysql:"),
        (f"postgresql://ada:{SECRET}@host:{SECRET}/d", "is not a URL"),
        (f"postgresql://ada:first@{SECRET}@host/d", "write % as %25, @ as %40"),
        (f"postgresql://ada@127.0.0.1:1/d?{SECRET}={SECRET}", "an option that the driver does not know"),
    ],
)
def test_an_unusable_uri_is_refused_without_showing_it(uri: str, message: str) -> None:
    result = run(uri, "db", "check")

    assert result.exit_code == errors.InvalidSetting.exit_code
    assert message in one_line(result.stderr)
    assert SECRET not in result.output


def test_an_unusable_setting_is_named_without_its_value() -> None:
    result = run("postgresql://127.0.0.1:1/d", "db", "check", PLATFORM_DB_POOL_SIZE=SECRET)

    assert result.exit_code == errors.InvalidSetting.exit_code
    assert "PLATFORM_DB_POOL_SIZE" in one_line(result.stderr)
    assert SECRET not in result.output


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        (f"postgresql://ada:{SECRET}@127.0.0.1:1/d", "the server at 127.0.0.1:1 is not running"),
        (f"postgresql://ada:{SECRET}@name.invalid/d", 'the host name "name.invalid" cannot be resolved'),
        (f"postgresql://ada:{SECRET}@/d?host=/no/such/directory", "is not running"),
    ],
)
@pytest.mark.parametrize(
    "command", [("db", "check"), ("alembic", "upgrade"), ("alembic", "current"), ("init",)]
)
def test_an_unreachable_server_is_named(uri: str, message: str, command: tuple[str, ...]) -> None:
    result = run(uri, *command)

    assert result.exit_code == errors.Unreachable.exit_code
    assert message in one_line(result.stderr)
    assert SECRET not in result.output


def test_a_server_that_does_not_answer_is_given_up() -> None:
    with server() as uri:
        result = run(uri, "db", "check", PLATFORM_DB_CONNECT_TIMEOUT="1")

    assert result.exit_code == errors.Unreachable.exit_code
    assert "did not answer in time" in one_line(result.stderr)


@pytest.mark.parametrize(
    ("sqlstate", "refused", "message", "hint"),
    [
        (
            "28P01",
            'password authentication failed for user "ada"',
            'refuses the password of "ada"',
            "PLATFORM_DB_PASSWORD",
        ),
        ("3D000", 'database "d" does not exist', 'has no database "d"', "platform-db db create"),
        ("28000", 'role "ada" does not exist', 'has no login "ada"', "PLATFORM_DB_USERNAME"),
        ("42501", 'permission denied for database "d"', 'into the database "d"', "GRANT CONNECT"),
        ("28000", 'no pg_hba.conf entry for host "::1", user "ada"', "refuses this login", "pg_hba.conf"),
        ("57P03", "the database system is starting up", "the database system is starting up", "server runs"),
        ("53300", "sorry, too many clients already", "has no connection left", "PLATFORM_DB_POOL_SIZE"),
    ],
)
def test_a_server_that_refuses_says_why_and_what_to_do(
    sqlstate: str, refused: str, message: str, hint: str
) -> None:
    with server(refusal(sqlstate, refused)) as uri:
        result = run(uri, "db", "check")

    assert result.exit_code == errors.Unreachable.exit_code
    said, _, to_do = one_line(result.stderr).partition(" (")
    assert message in said
    assert hint in to_do
    assert SECRET not in result.output


def test_a_login_that_lacks_a_privilege_is_told_who_gives_it(engine: sa.Engine) -> None:
    name = f"login_{uuid.uuid4().hex}"
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {name} LOGIN PASSWORD 'x'")
        connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA platform TO {name}")
    uri = engine.url.set(username=name, password="x").render_as_string(hide_password=False)

    result = run(uri, "db", "check")

    with engine.begin() as connection:
        connection.exec_driver_sql(f"DROP OWNED BY {name}")
        connection.exec_driver_sql(f"DROP ROLE {name}")
    assert result.exit_code == errors.RolesMissing.exit_code
    said, _, to_do = one_line(result.stderr).partition(" (")
    assert said.endswith("permission denied for table alembic_version")
    assert "platform-db roles grant --to LOGIN" in to_do


def test_a_secret_key_that_is_missing_is_to_be_added(session: Session, secret_key: str) -> None:
    make_user(session, access_token="value")
    uri = session.get_bind().url.render_as_string(hide_password=False)

    result = run(uri, "db", "check", PLATFORM_DB_SECRET_KEY=crypto.generate_key())

    assert result.exit_code == errors.SecretKeyError.exit_code
    assert "(add the key with that id to PLATFORM_DB_SECRET_KEY" in one_line(result.stderr)


@pytest.mark.parametrize(
    ("command", "exit_code"),
    [("show -999", 2), ("stamp -5", 1), ("upgrade head-999", 1), ("show nowhere", 1)],
)
def test_a_revision_that_there_is_not_is_one_line(database_uri: str, command: str, exit_code: int) -> None:
    result = run(database_uri, "alembic", *command.split())

    assert result.exit_code == exit_code
    assert "revision" in one_line(result.stderr)


@pytest.mark.parametrize("range_", [":x ::int", "::", "0001:head:", "a b:c", ":-"])
def test_a_range_of_revisions_that_is_none_is_wrong_usage(range_: str) -> None:
    result = run(None, "alembic", "history", "-r", range_)

    assert result.exit_code == 2
    assert "names no revision" in one_line(result.stderr)


@pytest.mark.parametrize("command", ["create", "grant", "grant --to ada", "show", "show --json"])
def test_roles_need_a_database(command: str) -> None:
    for uri, class_ in ((None, errors.NotConfigured), ("postgresql://127.0.0.1:1/d", errors.Unreachable)):
        result = run(uri, "roles", *command.split())

        assert result.exit_code == class_.exit_code
        assert one_line(result.stderr)


def test_a_database_that_does_not_exist_is_named(empty_database_uri: str) -> None:
    uri = database.normalise_url(empty_database_uri).set(database="nowhere")

    result = run(uri.render_as_string(hide_password=False), "db", "check")

    assert result.exit_code == errors.Unreachable.exit_code
    assert 'has no database "nowhere"' in one_line(result.stderr)


def test_a_connection_that_is_lost_makes_the_database_unreachable(empty_database_uri: str) -> None:
    engine = sa.create_engine(database.normalise_url(empty_database_uri), poolclass=sa.NullPool)

    with pytest.raises(errors.Unreachable), driver_errors.own_connection_errors(), engine.connect() as lost:
        lost.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))


def test_an_embedded_database_without_programs_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(binaries, "_installations", lambda: iter(()))

    # Unlike pytest's own directories of root, the server's account can reach this one.
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o711)
        result = run(f"embedded://{directory}/database", "db", "check")

    assert result.exit_code == errors.EmbeddedError.exit_code
    assert "pip install 'platform-db[embedded]'" in one_line(result.stderr)


def test_a_refused_statement_shows_no_values(database_uri: str) -> None:
    engine = sa.create_engine(database.normalise_url(database_uri))
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "CREATE FUNCTION platform.refuse() RETURNS trigger LANGUAGE plpgsql AS"
                " $$BEGIN RAISE 'not now' USING DETAIL = 'Key (token)=(s3cr3t)'; END$$"
            )
        )
        connection.execute(
            sa.text(
                "CREATE TRIGGER refuse BEFORE INSERT ON platform.resource"
                " FOR EACH ROW EXECUTE FUNCTION platform.refuse()"
            )
        )
    engine.dispose()

    result = run(database_uri, "quota", "create-default-resources")

    assert result.exit_code == 1
    assert one_line(result.stderr) == "platform-db: the database refused: not now"


def test_an_unknown_revision_fails_in_one_line(database_uri: str) -> None:
    result = run(database_uri, "alembic", "upgrade", "nowhere")

    assert result.exit_code == 1
    assert "nowhere" in one_line(result.stderr)


def test_wrong_usage_has_its_exit_code() -> None:
    assert run(None, "alembic", "downgrade", "--no-such-option").exit_code == 2
    assert run(None, "no-such-command").exit_code == 2


@pytest.mark.parametrize(
    "command",
    [
        "audit prune --older-than 999999",
        "db wait --timeout nan",
        "quota disk-usage-update --stale-after 999999999d",
        "token issue ada@example.org --expires-in 999999999d",
        "token purge --revoked-for 999999999d",
        "workflow recover --older-than 99999999999999999",
        "workflow recover --older-than nan",
    ],
)
def test_a_number_that_no_time_can_hold_is_wrong_usage(database_uri: str, command: str) -> None:
    result = run(database_uri, *command.split())

    assert result.exit_code == 2
    one_line(result.stderr)


def test_debug_shows_the_traceback_before_the_line() -> None:
    result = run(None, "--debug", "db", "check")

    assert result.exit_code == errors.NotConfigured.exit_code
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("platform-db: No database is configured")


def test_an_interrupted_command_ends_with_130() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        uri = f"postgresql://127.0.0.1:{listening.getsockname()[1]}/d"
        waiting = start(uri, "db", "wait", "--timeout", "60")
        listening.accept()[0].close()
    waiting.send_signal(signal.SIGINT)
    _, stderr = waiting.communicate(timeout=20)

    assert waiting.returncode == 130
    assert "was interrupted" in one_line(stderr)


def test_control_characters_of_a_message_are_escaped() -> None:
    failure = as_failure(errors.PlatformDBError("red \x1b[31m and\nback\u202e", hint="ring \x07"))

    assert failure is not None
    assert failure.format_message() == r"red \x1b[31m and back\u202e (ring \x07)"


def test_a_closed_pipe_is_no_traceback() -> None:
    with start(None, "alembic", "upgrade", "--sql") as printing:
        assert printing.stdout is not None
        printing.stdout.close()
        assert printing.stderr is not None
        assert printing.stderr.read() == ""


def test_a_directory_that_cannot_be_made_is_named_in_one_line() -> None:
    result = run(None, "demo", "--directory", "/proc/nope")

    assert result.exit_code == 1
    assert "/proc/nope: No such file or directory" in one_line(result.stderr)


def test_help_lists_every_exit_code() -> None:
    help_ = run(None, "--help").output

    for code, meaning in errors.exit_codes().items():
        assert any(line.split() == [str(code), *meaning.split()] for line in help_.splitlines())


def test_every_error_has_a_listed_exit_code() -> None:
    def all_below(class_: type[errors.PlatformDBError]) -> Iterator[type[errors.PlatformDBError]]:
        yield class_
        for subclass in class_.__subclasses__():
            yield from all_below(subclass)

    assert {class_.exit_code for class_ in all_below(errors.PlatformDBError)} <= set(errors.exit_codes())


def test_importing_the_package_imports_no_library() -> None:
    libraries = "{'sqlalchemy', 'pydantic', 'alembic', 'click'}"

    done = subprocess.run(
        [sys.executable, "-c", f"import platform_db, sys; print({libraries} & set(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "set()\n"


def test_help_imports_no_command() -> None:
    program = (
        "import sys\nfrom platform_db.cli import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "print({'sqlalchemy', 'pydantic', 'alembic'} & set(sys.modules))"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.endswith("set()\n")


@pytest.mark.parametrize("name", platform_db.__all__)
def test_the_package_offers_its_names(name: str) -> None:
    assert getattr(platform_db, name)
    assert name in dir(platform_db)


def test_the_package_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = platform_db.nothing
