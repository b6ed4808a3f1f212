"""Migrations on a real database: there and back with data, many at once, and killed half-way."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory
from sqlalchemy.dialects import postgresql

from platform_db import database, errors, schema
from platform_db.crypto.column import Sealed
from platform_db.database.id_column import Id
from platform_db.models import Base
from platform_db.models.audit import ReadableTime
from platform_db.models.types import Json
from tests.command_line import one_line, run, start
from tests.forked_programs import forked_command

ONE, OTHER = uuid.UUID(int=1), uuid.UUID(int=2)

TABLES = {table.name: table for table in Base.metadata.sorted_tables}


def fill_every_table(connection: sa.Connection) -> None:
    """Write a row into each table. All of them have the same id, so each foreign key finds its row."""
    for name, table in TABLES.items():
        rows = [_row(table)]
        if name == "user_":
            other = {column: "other" if value == "/1" else value for column, value in rows[0].items()}
            rows.append({**other, "id_": OTHER})
        if name == "job":
            rows.append({**rows[0], "id_": OTHER})
        if name == "job_dependency":
            rows[0]["child_id"] = OTHER
        if name == "workflow_result":
            rows[0]["file"] = ONE
        if name == "user_workflow":
            rows[0]["user_id"] = OTHER
        if name == "entity_tag":
            rows[0]["entity_type"] = "Value"
        if name == "value":
            rows[0]["size"] = len(rows[0]["value"])
        if name == "extra_transition":
            rows[0]["entity"] = "workflow"
        connection.execute(postgresql.insert(table).on_conflict_do_nothing(), rows)


def _row(table: sa.Table) -> dict[str, Any]:
    return {
        column.name: _value(column)
        for column in table.columns
        if column.name == "owner_id"
        or (
            (not column.nullable or isinstance(column.type, sa.Text))
            and not (column.server_default or column.identity or column.computed)
        )
    }


def _value(column: sa.Column[Any]) -> Any:
    if isinstance(column.type, sa.Enum):
        return next(iter(column.type.enum_class or column.type.enums))
    if isinstance(column.type, Id):
        return ONE
    if isinstance(column.type, sa.DateTime | ReadableTime):
        return datetime.now(timezone.utc)
    if column.name == "kind":
        return "created"
    values = {sa.Text: "/1", sa.Integer: 1, sa.BigInteger: 1, sa.Double: 1.0, Json: {}}
    return {**values, sa.LargeBinary: bytes(32), Sealed: bytes(32)}[type(column.type)]


def count_rows(connection: sa.Connection) -> dict[str, int]:
    """Return how many rows each table has."""
    return {
        name: connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0
        for name, table in TABLES.items()
    }


def read_catalogue(uri: str) -> list[Any]:
    """Return what tells whether anything in the schema was touched: each object with its last transaction."""
    with schema.connect(uri) as connection:
        return list(
            connection.execute(
                sa.text(
                    "SELECT relname, xmin::text, ctid::text FROM pg_class"
                    " WHERE relnamespace = 'platform'::regnamespace"
                    " UNION ALL SELECT proname, xmin::text, ctid::text FROM pg_proc"
                    " WHERE pronamespace = 'platform'::regnamespace"
                    " UNION ALL SELECT version_num, xmin::text, ctid::text FROM platform.alembic_version"
                    " ORDER BY 1, 2"
                )
            )
        )


def wait_until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Wait until ``condition`` holds."""
    give_up_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up_at, "it never came to that"
        time.sleep(0.05)


def test_there_and_back_and_there_again_with_data_in_every_table(empty_database_uri: str) -> None:
    schema.upgrade(empty_database_uri)
    with schema.connect(empty_database_uri) as connection, connection.begin():
        fill_every_table(connection)
        assert min(count_rows(connection).values()) > 0

    schema.downgrade(empty_database_uri, "base")

    with schema.connect(empty_database_uri) as connection:
        assert schema.status(connection).state is schema.SchemaState.never_migrated
        assert sa.inspect(connection).get_table_names(schema="platform") == ["alembic_version"]
        left = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'platform'::regnamespace"
        assert connection.scalar(sa.text(left)) == 0

    schema.upgrade(empty_database_uri)

    schema.require_agreement(empty_database_uri)
    with schema.connect(empty_database_uri) as connection, connection.begin():
        fill_every_table(connection)


def test_eight_processes_at_once_all_succeed(empty_database_uri: str, tmp_path: Path) -> None:
    environment = {"PATH": "/usr/bin:/bin", "PLATFORM_DB_URI": empty_database_uri}
    with forked_command(tmp_path) as command:
        processes = [
            subprocess.Popen(
                [command, "alembic", "upgrade"], env=environment, stdout=-1, stderr=-1, text=True
            )
            for _ in range(8)
        ]
        outputs = [process.communicate(timeout=120) for process in processes]

    assert [process.returncode for process in processes] == [0] * 8, outputs
    lines = [line for stdout, _ in outputs for line in stdout.splitlines()]
    assert len(lines) == len(set(lines)) > 0, "each revision is run by one process alone"
    schema.require_agreement(empty_database_uri)


@contextmanager
def blocking_a_migration(uri: str) -> Iterator[sa.Connection]:
    """Hold a name that the first revision needs, in a transaction that is not committed."""
    with schema.connect(uri) as blocking:
        blocking.execute(sa.text("CREATE SCHEMA platform"))
        blocking.commit()
        blocking.execute(sa.text("CREATE TABLE platform.workflow ()"))
        yield blocking


def test_a_migration_killed_half_way_is_made_up_for(empty_database_uri: str) -> None:
    watching = sa.create_engine(database.normalise_url(empty_database_uri), isolation_level="AUTOCOMMIT")
    waits_for_lock = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND wait_event_type = 'Lock' AND starts_with(query, 'CREATE TABLE platform.workflow (')"
    )
    with blocking_a_migration(empty_database_uri) as blocking, watching.connect() as watcher:
        patient = {"PLATFORM_DB_MIGRATION_LOCK_TIMEOUT": "60000", "PLATFORM_DB_MIGRATION_WAIT": "60"}
        with start(empty_database_uri, "alembic", "upgrade", **patient) as migrating:
            wait_until(lambda: watcher.scalar(waits_for_lock))
            migrating.kill()
        assert migrating.returncode < 0
        assert run(empty_database_uri, "db", "check").exit_code == errors.NeverMigrated.exit_code
        blocking.rollback()
    watching.dispose()

    made_up = run(empty_database_uri, "alembic", "upgrade")

    assert (made_up.exit_code, made_up.stderr) == (0, "")
    schema.require_agreement(empty_database_uri)


def test_a_second_migration_waits_by_asking_again_and_then_goes_on(empty_database_uri: str) -> None:
    asks = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND query = 'ROLLBACK' AND state = 'idle'"
    )
    blocked = sa.text(
        "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database"
        " WHERE datname = current_database() AND NOT granted"
    )
    watching = sa.create_engine(database.normalise_url(empty_database_uri), isolation_level="AUTOCOMMIT")
    with schema.connect(empty_database_uri) as first, watching.connect() as watcher:
        schema.lock_for_migration(first, 1)
        second = start(empty_database_uri, "alembic", "upgrade")
        # Between two questions its connection is idle, with no transaction open, and blocks nobody.
        wait_until(lambda: watcher.scalar(asks))
        assert watcher.scalar(blocked) == 0
        assert second.poll() is None
    watching.dispose()

    _, stderr = second.communicate(timeout=60)
    assert (second.returncode, stderr) == (0, "")


def test_a_second_migration_does_not_wait_for_ever(empty_database_uri: str) -> None:
    with schema.connect(empty_database_uri) as first:
        schema.lock_for_migration(first, 1)

        result = run(empty_database_uri, "alembic", "upgrade", PLATFORM_DB_MIGRATION_WAIT="0.2")

    assert result.exit_code == errors.AlreadyRunning.exit_code
    assert "migrating for 0.2 s" in one_line(result.stderr)


@pytest.mark.parametrize(
    "command",
    [
        ("init",),
        ("alembic", "upgrade"),
        ("alembic", "downgrade", "-1"),
        ("alembic", "stamp", "head"),
        ("alembic", "stamp", "--purge", "head"),
        ("alembic", "init"),
    ],
)
def test_a_newer_database_is_left_as_it_is(database_uri: str, command: tuple[str, ...]) -> None:
    with schema.connect(database_uri) as connection, connection.begin():
        connection.execute(sa.text("UPDATE platform.alembic_version SET version_num = '9999'"))
    before = read_catalogue(database_uri)

    result = run(database_uri, *command)

    assert result.exit_code == errors.SchemaAhead.exit_code
    assert "9999" in one_line(result.stderr)
    assert read_catalogue(database_uri) == before


def test_a_database_that_was_taken_back_is_not_current(database_uri: str) -> None:
    schema.downgrade(database_uri)

    with (
        schema.connect(database_uri) as connection,
        pytest.raises((errors.SchemaBehind, errors.NeverMigrated)),
    ):
        schema.status(connection).require_current()


@pytest.mark.skipif(shutil.which("psql") is None, reason="there is no psql to run it with")
def test_the_printed_sql_runs_in_psql(empty_database_uri: str) -> None:
    def psql(sql: str) -> None:
        url = database.normalise_url(empty_database_uri).set(drivername="postgresql")
        subprocess.run(
            ["psql", "-qX", "-v", "ON_ERROR_STOP=1", url.render_as_string(hide_password=False)],
            input=sql,
            text=True,
            check=True,
            capture_output=True,
        )

    head = run(None, "alembic", "heads").stdout.split()[0]

    psql(run(None, "alembic", "upgrade", "--sql").stdout)
    schema.require_agreement(empty_database_uri)

    psql(run(None, "alembic", "downgrade", f"{head}:base", "--sql").stdout)
    with schema.connect(empty_database_uri) as connection:
        assert schema.status(connection).state is schema.SchemaState.never_migrated


@pytest.mark.parametrize("setting", ["statement_timeout", "transaction_timeout"])
def test_the_timeouts_of_role_and_database_end_no_migration(empty_database_uri: str, setting: str) -> None:
    with blocking_a_migration(empty_database_uri) as blocking:
        known = sa.text("SELECT count(*) FROM pg_settings WHERE name = :name")
        if not blocking.scalar(known, {"name": setting}):
            pytest.skip("this server has no such setting")
        name = database.normalise_url(empty_database_uri).database
        with schema.connect(empty_database_uri) as other, other.begin():
            other.exec_driver_sql(f"ALTER DATABASE {name} SET {setting} = '500ms'")
        unblock = threading.Timer(1.5, blocking.rollback)
        unblock.start()

        schema.upgrade(empty_database_uri)

        unblock.join()
        blocking.exec_driver_sql(f"ALTER DATABASE {name} RESET {setting}")
        blocking.commit()
    schema.require_agreement(empty_database_uri)


def test_a_timeout_in_the_uri_counts_for_migrations(empty_database_uri: str) -> None:
    hurried = database.normalise_url(empty_database_uri).update_query_dict(
        {"options": "-c statement_timeout=500"}
    )
    with (
        blocking_a_migration(empty_database_uri),
        pytest.raises(sa.exc.OperationalError, match="statement timeout"),
    ):
        schema.upgrade(hurried)


def test_the_printed_sql_begins_with_the_timeouts_of_migrations() -> None:
    printed = run(None, "alembic", "upgrade", "--sql", PLATFORM_DB_MIGRATION_LOCK_TIMEOUT="1234").stdout

    begin = printed.partition("CREATE SCHEMA")[0]
    assert "('lock_timeout', '1234')" in begin
    assert "'statement_timeout'" in begin


def test_there_is_one_line_of_revisions_and_files_are_named_after_them() -> None:
    script = ScriptDirectory.from_config(schema.alembic_config())
    line = [revision.revision for revision in script.walk_revisions()]
    assert line[::-1] == schema.revisions()
    assert script.get_heads() == line[:1]
    assert not any(
        revision.is_merge_point or revision.is_branch_point for revision in script.walk_revisions()
    )


def as_role(uri: str, role: str) -> str:
    """Return the URI with which a connection acts as the role."""
    return with_option(uri, f"role={role}")


def with_option(uri: str, option: str) -> str:
    """Return the URI with an option for the server."""
    url = sa.make_url(uri).update_query_dict({"options": f"-c {option}"})
    return url.render_as_string(hide_password=False)


@pytest.fixture
def owner(empty_database_uri: str) -> Iterator[str]:
    """Give the owner of two empty schemas in a database of another."""
    name = f"owner_{uuid.uuid4().hex[:8]}"
    with schema.connect(empty_database_uri) as connection, connection.begin():
        connection.execute(sa.text(f"CREATE ROLE {name}"))
        connection.execute(sa.text(f"CREATE SCHEMA platform AUTHORIZATION {name}"))
        connection.execute(sa.text(f"CREATE SCHEMA redun AUTHORIZATION {name}"))
        connection.execute(sa.text(f"CREATE SCHEMA platform_partitions AUTHORIZATION {name}"))
    yield name
    with schema.connect(empty_database_uri) as connection, connection.begin():
        connection.execute(sa.text(f"DROP OWNED BY {name} CASCADE"))
        connection.execute(sa.text(f"DROP ROLE {name}"))


def test_who_owns_the_schema_need_not_own_the_database(empty_database_uri: str, owner: str) -> None:
    for _ in range(2):
        result = run(as_role(empty_database_uri, owner), "init")
        assert result.exit_code == 0, result.output
    assert result.stdout.startswith("nothing to do")


LISTED = """
    SELECT replace(tablename, '_before', '') || '.' || attname, cardinality(most_common_freqs) FROM pg_stats
    WHERE (schemaname, tablename) IN (('platform', 'audit_inbox'), ('platform', 'log_chunk'),
                                      ('platform_partitions', 'log_chunk_before'))
      AND attname IN ('owner_id', 'workflow_id')
"""
OF_FOUR_OWNERS = """
    INSERT INTO platform.audit_inbox (id_, owner_id, action)
    SELECT gen_random_uuid(), md5((n % 4)::text)::uuid, 'tried' FROM generate_series(1, 40) AS n
"""
OF_LOGS = {"log_chunk.owner_id", "log_chunk.workflow_id"}


@pytest.mark.parametrize("is_superuser", [True, False])
def test_statistics_list_one_owner_and_none_of_logs(
    empty_database_uri: str, owner: str, is_superuser: bool
) -> None:
    with schema.connect(empty_database_uri) as connection, connection.begin():
        if is_superuser:
            connection.execute(sa.text(f"ALTER ROLE {owner} SUPERUSER"))
        may_remove = is_superuser or connection.dialect.server_version_info >= (18,)
    uri = as_role(empty_database_uri, owner)
    assert run(uri, "init").exit_code == 0
    assert run(uri, "alembic", "downgrade", "0013").exit_code == 0
    engine = database.create_engine(uri)
    with engine.begin() as connection:
        fill_every_table(connection)
        connection.execute(sa.text(OF_FOUR_OWNERS))
        connection.execute(sa.text("ANALYZE"))
        assert dict(connection.execute(sa.text(LISTED)).all())["audit_inbox.owner_id"] >= 4
    assert run(uri, "alembic", "upgrade").exit_code == 0

    with engine.begin() as connection:
        for _ in range(2):
            found = dict(connection.execute(sa.text(LISTED)).all())
            assert found.pop("audit_inbox.owner_id") in (None, 1)
            assert found.keys() == (set() if may_remove else OF_LOGS)
            connection.execute(sa.text("ANALYZE"))
    engine.dispose()


@pytest.mark.parametrize("command", [("init",), ("alembic", "upgrade")])
def test_a_current_database_is_only_read(database_uri: str, command: tuple[str, ...]) -> None:
    run(database_uri, "init")
    read_only = with_option(database_uri, "default_transaction_read_only=on")

    with schema.connect(database_uri) as other:
        schema.lock_for_migration(other, 0)
        result = run(read_only, *command, PLATFORM_DB_MIGRATION_WAIT="0")

    assert result.exit_code == 0, result.output


def test_a_login_of_services_may_run_init_on_a_current_database(database_uri: str) -> None:
    for command in (("init",), ("roles", "create"), ("roles", "grant")):
        assert run(database_uri, *command).exit_code == 0

    result = run(as_role(database_uri, "platform_service"), "init")

    assert (result.exit_code, result.stderr) == (0, "")
