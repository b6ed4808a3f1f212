"""``platform-db db``, ``init`` and ``secret``."""

from __future__ import annotations

import json
import threading
import time

import pytest
import sqlalchemy as sa

import platform_db
from platform_db import crypto, database, errors, schema
from platform_db.errors import SECRET_OPTIONS
from tests.command_line import one_line, run


def set_revision(uri: str, revision: str) -> None:
    """Store ``revision`` as the database's, as another release would."""
    with schema.connect(uri) as connection, connection.begin():
        connection.execute(
            sa.text("UPDATE platform.alembic_version SET version_num = :revision"), {"revision": revision}
        )


def test_check_is_content_with_a_current_database(database_uri: str) -> None:
    result = run(database_uri, "db", "check")

    assert (result.exit_code, result.stderr) == (0, "")
    assert len(result.stdout.splitlines()) == 1


def test_check_tells_a_database_that_was_never_migrated(empty_database_uri: str) -> None:
    result = run(empty_database_uri, "db", "check")

    assert result.exit_code == errors.NeverMigrated.exit_code
    assert "platform-db alembic upgrade" in one_line(result.stderr)


def test_check_tells_a_newer_database(database_uri: str) -> None:
    set_revision(database_uri, "9999")

    result = run(database_uri, "db", "check")

    assert result.exit_code == errors.SchemaAhead.exit_code
    assert "9999" in one_line(result.stderr)


def test_check_tells_an_older_database(database_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    behind = schema.SchemaStatus(schema.SchemaState.behind, "0001", "0002")
    monkeypatch.setattr(schema, "status", lambda connection: behind)

    result = run(database_uri, "db", "check")

    assert result.exit_code == errors.SchemaBehind.exit_code
    assert "at revision 0001, the code needs 0002" in one_line(result.stderr)


@pytest.mark.parametrize(
    ("revision", "state", "exit_code"),
    [(None, "current", 0), ("9999", "schema_ahead", errors.SchemaAhead.exit_code)],
)
def test_check_speaks_json(database_uri: str, revision: str | None, state: str, exit_code: int) -> None:
    if revision:
        set_revision(database_uri, revision)

    result = run(database_uri, "db", "check", "--json")

    assert result.exit_code == exit_code
    assert json.loads(result.stdout)["state"] == state
    assert result.stderr == ""


def test_check_speaks_json_of_an_unreachable_server() -> None:
    result = run("postgresql://127.0.0.1:1/d", "db", "check", "--json")

    assert result.exit_code == errors.Unreachable.exit_code
    assert json.loads(result.stdout)["state"] == "unreachable"


@pytest.mark.parametrize("place", [0, 1])
def test_check_refuses_a_secret_key_that_is_none(database_uri: str, place: int) -> None:
    keys = [crypto.generate_key()]
    keys.insert(place, "hunter2")

    result = run(database_uri, "db", "check", PLATFORM_DB_SECRET_KEY=",".join(keys))

    assert result.exit_code == errors.SecretKeyError.exit_code
    assert f"secret key number {place + 1} is not 32 bytes" in one_line(result.stderr)
    assert not any(key in result.output for key in keys)


def test_wait_ends_at_once_when_the_database_is_there(empty_database_uri: str) -> None:
    result = run(empty_database_uri, "db", "wait", "--timeout", "0")

    assert (result.exit_code, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("uri", "options", "exit_code"),
    [
        ("postgresql://127.0.0.1:1/d", [], errors.Unreachable.exit_code),
        (None, [], errors.NotConfigured.exit_code),
    ],
)
def test_wait_gives_up_with_the_last_reason(uri: str | None, options: list[str], exit_code: int) -> None:
    result = run(uri, "db", "wait", "--timeout", "0.1", *options)

    assert result.exit_code == exit_code
    one_line(result.stderr)


def test_wait_gives_up_on_a_database_that_nobody_migrates(empty_database_uri: str) -> None:
    result = run(empty_database_uri, "db", "wait", "--migrated", "--timeout", "0.1")

    assert result.exit_code == errors.NeverMigrated.exit_code


def test_wait_does_not_wait_for_a_newer_database_to_age(database_uri: str) -> None:
    set_revision(database_uri, "9999")
    begun = time.monotonic()

    result = run(database_uri, "db", "wait", "--migrated", "--timeout", "60")

    assert result.exit_code == errors.SchemaAhead.exit_code
    assert time.monotonic() - begun < 30


def test_wait_sees_the_migration_of_somebody_else(
    empty_database_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform_db.schema.waiting.READY_POLL_SECONDS", 0.05)
    migrating = threading.Timer(0.2, schema.upgrade, args=[empty_database_uri])
    migrating.start()

    found = schema.wait_until_ready(empty_database_uri, timeout=60, migrated=True)

    migrating.join()
    assert found.state is schema.SchemaState.current


@pytest.mark.parametrize("uri", ["postgresql://ada:s3cr3t@host/d", "postgresql://ada@host/d?password=s3cr3t"])
def test_url_shows_the_password_only_when_asked(uri: str) -> None:
    hidden = run(uri, "db", "url").stdout
    shown = run(uri, "db", "url", "--show-password").stdout

    assert hidden == "postgresql://ada:***@host/d\n"
    assert shown == "postgresql://ada:s3cr3t@host/d\n"


@pytest.mark.parametrize("option", SECRET_OPTIONS)
def test_url_shows_no_secret_option(option: str) -> None:
    uri = f"postgresql://ada@host/d?{option}=s3cr3t&passfile=/etc/passfile"

    shown = run(uri, "db", "url").stdout

    assert f"{option}=..." in shown
    assert "passfile=%2Fetc%2Fpassfile" in shown
    assert "s3cr3t" not in shown
    assert f"{option}=s3cr3t" in run(uri, "db", "url", "--show-password").stdout
    assert "s3cr3t" not in repr(database.create_engine(uri))


def test_version_names_server_schema_and_package(database_uri: str) -> None:
    versions = json.loads(run(database_uri, "db", "version", "--json").stdout)
    lines = run(database_uri, "db", "version").stdout.splitlines()

    assert versions["revision"] == versions["head"]
    assert versions["state"] == "current"
    assert versions["platform_db"] == platform_db.__version__
    assert int(versions["server"].partition(".")[0]) >= 15
    assert len(lines) == len(versions)


def test_init_makes_an_empty_database_usable_and_does_nothing_twice(empty_database_uri: str) -> None:
    first = run(empty_database_uri, "init")
    second = run(empty_database_uri, "init")

    assert (first.exit_code, second.exit_code) == (0, 0)
    assert "ran 0001: Create the schema." in first.stdout.splitlines()
    assert "created the resource processing time" in first.stdout.splitlines()
    assert second.stdout.startswith("nothing to do")
    assert run(empty_database_uri, "db", "check").exit_code == 0


def test_init_creates_only_what_is_missing(database_uri: str) -> None:
    run(database_uri, "init")
    with schema.connect(database_uri) as connection, connection.begin():
        connection.execute(sa.text("DELETE FROM platform.resource WHERE name = 'shared storage'"))

    assert run(database_uri, "init").stdout == "created the resource shared storage\n"


def test_generate_prints_a_new_usable_key() -> None:
    first, second = (run(None, "secret", "generate").stdout.strip() for _ in range(2))

    assert first != second
    assert crypto.KeyRing.parse(f"{first},{second}").newest


def test_a_port_may_be_configured_without_a_uri(database_uri: str) -> None:
    url = database.normalise_url(database_uri)
    server = url.query.get("host") or url.host
    port = url.query.get("port") or url.port
    password = {"PLATFORM_DB_PASSWORD": url.password} if url.password else {}

    result = run(
        None,
        "db",
        "check",
        PLATFORM_DB_HOST=str(server),
        PLATFORM_DB_PORT=str(port),
        PLATFORM_DB_NAME=str(url.database),
        PLATFORM_DB_USERNAME=str(url.username),
        **password,
    )

    assert result.exit_code == 0
