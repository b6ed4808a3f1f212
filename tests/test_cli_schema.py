"""Every command that needs the tables refuses a schema that is not the code's, and changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import click
import pytest
import sqlalchemy as sa
from click.testing import Result

from platform_db import crypto, errors, schema
from platform_db.cli import main
from platform_db.models import Base
from tests.command_line import one_line, run

ID = "0190f0c4-0000-7000-8000-000000000000"

ARGUMENTS = {
    "audit prune": ["--older-than", "1"],
    "db get": ["workflow", ID],
    "db keys": ["workflow"],
    "events forget": ["mailer"],
    "guard allow": ["workflow", "stopped", "running", "--reason", "as before"],
    "guard forbid": ["workflow", "stopped", "running"],
    "import reana": ["--from", "postgresql://reana@127.0.0.1:9/reana", "--old-key-file", __file__],
    "db copy": ["--to", "postgresql://localhost:1/none"],
    "import redun": ["--from", "sqlite:///none", "--user", "ada@example.org"],
    "job list": [ID],
    "job show": [ID],
    "provenance explain": ["ada@example.org", ID],
    "provenance lineage": ["ada@example.org", ID],
    "provenance log": ["ada@example.org"],
    "provenance show": ["ada@example.org", ID],
    "queue explain": [ID],
    "queue limit": ["ada@example.org", "--concurrent", "3"],
    "quota set-limit": ["ada@example.org", "cpu", "1h"],
    "task list": ["ada@example.org"],
    "task show": ["ada@example.org", "task-1"],
    "token grant": ["ada@example.org"],
    "token issue": ["ada@example.org"],
    "token list": ["ada@example.org"],
    "token request": ["ada@example.org"],
    "token revoke": [ID],
    "user create": ["eve@example.org"],
    "user delete": ["ada@example.org"],
    "user show": ["ada@example.org"],
    "workflow delete": [ID],
    "workflow graph": [ID],
    "workflow history": [ID],
    "workflow logs": [ID],
    "workflow overview": ["--user", "ada@example.org"],
    "workflow result": [ID],
    "workflow set-status": [ID, "failed"],
    "workflow show": [ID],
    "workflow specification": [ID],
    "workflow stop": [ID],
    "workflow versions": [ID],
}

# They need no table, or are there for schemas of every age.
OTHERS = {
    "audit public-key",
    "db compact",
    "db create",
    "db reset",
    "db url",
    "db version",
    "db wait",
    "demo",
    "init",
    "metrics serve",
    "roles create",
    "secret generate",
}


def commands(group: click.Group, *names: str) -> Iterator[str]:
    """Give the words of every command, ``alembic`` aside."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, *names, name)
        else:
            yield " ".join([*names, name])


NEED_TABLES = sorted({name for name in commands(main) if not name.startswith("alembic ")} - OTHERS)
GROUPS = [(group, [*names]) for group, names in groupby(NEED_TABLES, lambda name: name.split()[0])]


def read_rows(uri: str) -> set[tuple[str, str]]:
    """Return every row's table and version."""
    with schema.connect(uri) as connection:
        return {
            (table.name, version)
            for table in Base.metadata.sorted_tables
            for version in connection.execute(
                sa.text(f"SELECT xmin::text || ctid::text FROM {table.fullname}")
            ).scalars()
        }


def refusal(uri: str, command: str) -> Result:
    """Run a command that the database is not ready for."""
    arguments = [*command.split(), *ARGUMENTS.get(command, ())]
    return run(uri, *arguments, PLATFORM_DB_SECRET_KEY=crypto.generate_key())


@pytest.mark.parametrize(("group", "names"), GROUPS, ids=dict(GROUPS))
def test_a_newer_schema_is_left_as_it_is(database_uri: str, group: str, names: list[str]) -> None:
    with schema.connect(database_uri) as connection, connection.begin():
        connection.execute(
            sa.text("INSERT INTO platform.user_ (id_, email) VALUES (gen_random_uuid(), 'ada@example.org')")
        )
        connection.execute(sa.text("UPDATE platform.alembic_version SET version_num = '9999'"))
    before = read_rows(database_uri)

    for command in names:
        result = refusal(database_uri, command)

        assert result.exit_code == errors.SchemaAhead.exit_code, (command, result.output)
        assert "9999" in one_line(result.stderr), command
        assert read_rows(database_uri) == before, command


@pytest.mark.parametrize(("group", "names"), GROUPS, ids=dict(GROUPS))
def test_a_database_without_a_schema_is_named(empty_database_uri: str, group: str, names: list[str]) -> None:
    for command in names:
        result = refusal(empty_database_uri, command)

        assert result.exit_code == errors.NeverMigrated.exit_code, (command, result.output)
        assert "platform-db alembic upgrade" in one_line(result.stderr), command


@pytest.mark.parametrize("first", ["db wait --migrated --timeout 30", "audit prune --older-than 1"])
def test_an_embedded_database_gets_its_schema_from_whoever_needs_it(place: Path, first: str) -> None:
    uri = f"embedded://{place / 'database'}"
    assert run(uri, "db", "check").exit_code == errors.NeverMigrated.exit_code
    assert "never migrated" in run(uri, "db", "wait").stdout

    result = run(uri, *first.split())

    assert result.exit_code == 0, result.output
    assert run(uri, "db", "check").exit_code == 0
