"""A redun database that cannot be read, or is none: one line says what to do, and what has moved stays."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from platform_db.integrations.redun_import import source
from tests import command_line
from tests.factories import make_user
from tests.redun_source import RedunDatabase
from tests.redun_target import Target


@pytest.fixture
def target(database_uri: str, session: orm.Session) -> Target:
    return Target(database_uri, make_user(session, email="ada@example.org"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RedunDatabase:
    """Make a small database in a file of SQLite."""
    return RedunDatabase.at(tmp_path_factory.mktemp("redun") / "redun.db", 3)


@pytest.fixture
def in_file(made: RedunDatabase, tmp_path: Path) -> RedunDatabase:
    """Give a copy of it."""
    return made.copy(tmp_path / "redun.db")


@pytest.fixture(params=["sqlite", "postgresql"])
def redun(request: pytest.FixtureRequest) -> RedunDatabase:
    """Give a database of 3 executions."""
    if request.param == "sqlite":
        return request.getfixturevalue("in_file")
    return RedunDatabase(request.getfixturevalue("empty_database_uri"), 3)


@pytest.fixture
def login(postgres_server: Any) -> Iterator[str]:
    """Give a login of the server that may do nothing."""
    name = f"reader_{random.randrange(10**9)}"
    server = sa.create_engine(postgres_server.uri, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {name} LOGIN")
    yield name
    with server.connect() as connection:
        connection.exec_driver_sql(f"DROP ROLE {name}")
    server.dispose()


@pytest.mark.parametrize(
    ("change", "exit_code", "says"),
    [
        ("UPDATE alembic_version SET version_num = '3b0a6e67cc58'", 6, "redun db upgrade"),
        ("UPDATE alembic_version SET version_num = 'ffffffffffff'", 7, "0.44.1"),
        ("UPDATE redun_version SET version = 4", 7, "0.44.1"),
        ("DELETE FROM alembic_version", 6, "redun db upgrade"),
        ("DROP TABLE redun_version", 11, "no redun database"),
        ("DROP TABLE tag", 4, "no such table: tag"),
        ("ALTER TABLE job RENAME COLUMN cached TO was_cached", 4, "no such column: t.cached"),
    ],
)
def test_a_database_of_another_version_is_refused(
    in_file: RedunDatabase, target: Target, change: str, exit_code: int, says: str
) -> None:
    in_file.execute(change)
    refused = target.run(in_file.uri)
    assert (refused.exit_code, refused.stdout) == (exit_code, "")
    assert says in command_line.one_line(refused.stderr)


def test_what_a_server_refuses_is_said_of_the_redun_database(
    empty_database_uri: str, target: Target, login: str
) -> None:
    """And not of the one that is moved to, whose settings its hint would be about."""
    redun = RedunDatabase(empty_database_uri)
    uri = sa.make_url(redun.uri).set(username=login).render_as_string(hide_password=False)
    refused = command_line.one_line(target.run(uri).stderr)
    assert refused == (
        "platform-db: the redun database cannot be read: permission denied for table redun_version "
        "(its login needs SELECT on all of its tables; where some are missing, restore them)"
    )
    redun.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {login}")
    assert target.run(uri).exit_code == 0
    redun.execute("DROP TABLE tag")
    assert 'read: relation "tag" does not exist' in command_line.one_line(target.run(uri).stderr)
    redun.execute("DROP TABLE redun_version")
    assert target.run(redun.uri).exit_code == 11
    redun.execute(f"DROP OWNED BY {login}")


def test_a_server_whose_texts_have_no_encoding_is_read(postgres_server: Any, target: Target) -> None:
    name = f"{postgres_server.prefix}ascii_{random.randrange(10**9)}"
    server = sa.create_engine(postgres_server.uri, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.exec_driver_sql(
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING SQL_ASCII LOCALE 'C' LOCALE_PROVIDER libc"
        )
    try:
        uri = sa.make_url(postgres_server.uri).set(database=name).render_as_string(hide_password=False)
        redun = RedunDatabase(uri)
        redun.add("file", value_hash=redun.add_value("value", b"x"), path="")
        assert target.run(uri).exit_code == 0
        redun.execute(r"UPDATE file SET path = E'\xff'")
        refused = target.run(uri)
        assert refused.exit_code == 4
        assert "where it has text that is not UTF-8, dump it" in command_line.one_line(refused.stderr)
        redun.engine.dispose()
    finally:
        with server.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
        server.dispose()


def killed_while_it_wrote(redun: RedunDatabase, directory: Path, journal: str) -> str:
    """Return the URI of a copy as a killed writer leaves it, with its journal beside it."""
    path = Path(str(redun.engine.url.database))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute(f"PRAGMA journal_mode = {'wal' if journal == 'wal' else 'delete'}")
        writer.execute("PRAGMA cache_size = 1")
        writer.execute("BEGIN")
        writer.execute("UPDATE value SET format = 'changed'")
        writer.execute("UPDATE job SET cached = NOT cached")
        for file in (path, Path(f"{path}-{journal}")):
            shutil.copy(file, directory / file.name)
        writer.execute("ROLLBACK")
    return f"sqlite:///{directory / path.name}"


def test_what_a_killed_workflow_left_says_what_to_do(
    in_file: RedunDatabase, target: Target, tmp_path: Path
) -> None:
    (tmp_path / "left").mkdir()
    uri = killed_while_it_wrote(in_file, tmp_path / "left", "journal")
    refused = target.run(uri)
    assert (refused.exit_code, refused.stdout) == (4, "")
    assert "a workflow was killed while it wrote: redun log" in command_line.one_line(refused.stderr)
    with contextlib.closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as other:
        assert other.execute("SELECT count(*) FROM job").fetchone() == (30,)
    assert target.run(uri).exit_code == 0


def test_what_a_killed_workflow_left_in_a_write_ahead_log_is_read(
    in_file: RedunDatabase, target: Target, tmp_path: Path
) -> None:
    (tmp_path / "left").mkdir()
    assert target.run(killed_while_it_wrote(in_file, tmp_path / "left", "wal")).exit_code == 0


def test_a_database_that_is_written_is_refused(
    in_file: RedunDatabase, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "SECONDS_TO_WAIT", 0)
    with contextlib.closing(
        sqlite3.connect(str(in_file.engine.url.database), isolation_level=None)
    ) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        refused = target.run(in_file.uri)
    assert refused.exit_code == 4
    assert "locked (end the workflow that writes to it, then" in command_line.one_line(refused.stderr)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_says_so(in_file: RedunDatabase, target: Target) -> None:
    Path(str(in_file.engine.url.database)).chmod(0)
    refused = target.run(in_file.uri)
    assert (refused.exit_code, "a login that may read it" in refused.stderr) == (4, True)


def test_a_source_that_is_lost_in_the_middle_ends_the_pass_in_one_line(
    redun: RedunDatabase, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what has moved by then stays, so that the next pass does the rest."""
    server = redun.engine.dialect.name == "postgresql"
    path = Path(str(redun.engine.url.database))
    whole = b"" if server else path.read_bytes()

    def lose(reads: source.Source, hashes: Sequence[str]) -> dict[str, bytes]:
        monkeypatch.undo()
        if isinstance(reads, source.PostgresSource):
            redun.execute("SELECT pg_terminate_backend(:pid, 5000)", pid=reads.dbapi.info.backend_pid)
        else:
            path.write_bytes(b"\0" * len(whole))
            reads.connection.execute("PRAGMA cache_size = 0")
        return reads.bytes_of(hashes)

    monkeypatch.setattr(
        source.PostgresSource if server else source.SqliteSource, "bytes_of", lose, raising=False
    )
    lost = target.run(redun.uri)
    assert lost.exit_code == 4, lost.output
    line = command_line.one_line(lost.stderr)
    assert ("the redun database: the server ended the connection" if server else str(path)) in line
    assert "run this again: it does the rest" in line
    if not server:
        path.write_bytes(whole)
    again = target.run(redun.uri)
    assert (again.exit_code, len(target.contents()["job"])) == (0, 30), again.output


def test_what_cannot_be_read_is_named(target: Target, tmp_path: Path) -> None:
    none = target.run(f"sqlite:///{tmp_path}/none.db")
    assert (none.exit_code, none.stdout) == (4, "")
    (tmp_path / ".redun").mkdir()
    (tmp_path / ".redun" / "redun.db").touch()
    beside = target.run(f"sqlite:///{tmp_path}/redun.db")  # as db_uri in redun.ini names it
    assert f"--from sqlite:///{tmp_path}/.redun/redun.db" in command_line.one_line(beside.stderr)
    (tmp_path / "text").write_text("no database" * 100)
    broken = target.run(f"sqlite:///{tmp_path}/text")
    assert (broken.exit_code, "not a database" in broken.stderr) == (4, True)
    assert target.run("sqlite://").exit_code == 3
    away = target.run("postgresql://127.0.0.1:1/redun")
    assert (away.exit_code, "the redun database: the server at 127.0.0.1:1" in away.stderr) == (4, True)
    assert "correct --from" in away.stderr
    assert (
        command_line.run(
            target.uri, "import", "redun", "--from", "sqlite:///x", "--user", "no@example.org"
        ).exit_code
        == 10
    )


def test_a_password_among_the_arguments_is_refused(target: Target) -> None:
    for uri in ("postgresql://u:secret@127.0.0.1:1/d", "postgresql://127.0.0.1:1/d?password=secret"):
        refused = target.run(uri)
        assert (refused.exit_code, "secret" in refused.output) == (2, False)
        arguments = ("import", "redun", "--user", str(target.user_id))
        by_variable = command_line.run(target.uri, *arguments, REDUN_DB_URI=uri)
        assert (by_variable.exit_code, "secret" in by_variable.output) == (4, False)


def test_reduns_own_variables_name_the_login(redun: RedunDatabase, target: Target) -> None:
    if redun.engine.dialect.name == "sqlite":
        assert target.run(redun.uri, REDUN_DB_USERNAME="nobody").exit_code == 0
    else:
        refused = target.run(redun.uri, REDUN_DB_USERNAME="no_such_login", REDUN_DB_PASSWORD="secret")
        assert (refused.exit_code, "no_such_login" in refused.stderr) == (4, True)
        assert "secret" not in refused.output


def test_the_source_is_only_read(in_file: RedunDatabase, target: Target) -> None:
    path = Path(str(sa.make_url(in_file.uri).database))
    in_file.engine.dispose()
    before, files = path.read_bytes(), set(path.parent.iterdir())
    path.chmod(0o400)
    assert target.run(in_file.uri).exit_code == 0
    assert path.read_bytes() == before
    assert set(path.parent.iterdir()) == files


def test_a_report_takes_the_place_of_reports_alone(in_file: RedunDatabase, target: Target) -> None:
    path = Path(str(sa.make_url(in_file.uri).database))
    in_file.engine.dispose()
    before = path.read_bytes()
    refused = target.run(in_file.uri, "--report", str(path))
    assert (refused.exit_code, path.read_bytes() == before) == (2, True)
    assert "is no report" in refused.stderr
