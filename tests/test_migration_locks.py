"""What revisions say of their locks, what the dry run says, and what ``pg_locks`` shows when they run."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg2
import pytest
import sqlalchemy as sa
from alembic.script import Script, ScriptDirectory

from platform_db import database, errors, schema
from platform_db.schema.locks import MODES, SHARE_UPDATE_EXCLUSIVE, effects_of
from platform_db.schema.preview import Statement, statements_of
from tests.command_line import one_line, run

Locks = dict[str, str]


def scripts() -> list[Script]:
    """Return all revisions, the oldest first."""
    return list(ScriptDirectory.from_config(schema.alembic_config()).walk_revisions())[::-1]


def strongest(*many: Locks) -> Locks:
    """Return the strongest mode for each table."""
    found: Locks = {}
    for locks in many:
        for table, mode in locks.items():
            found[table] = max(found.get(table, mode), mode, key=MODES.index)
    return found


def stand_in_the_way(pairs: Iterator[tuple[str, str]], tables: set[str]) -> Locks:
    """Return the locks on these tables that change more than rows."""
    weakest = MODES.index(SHARE_UPDATE_EXCLUSIVE)
    return strongest(
        *({table: mode} for table, mode in pairs if table in tables and MODES.index(mode) >= weakest)
    )


class Database:
    """A database that statements are run on, and looked at from a second connection."""

    def __init__(self, uri: str) -> None:
        parameters = dict(
            database.normalise_url(uri).get_dialect()().create_connect_args(sa.make_url(uri))[1]
        )
        self.working, self.blocking, self.looking = (psycopg2.connect(**parameters) for _ in range(3))
        self.looking.autocommit = True

    def close(self) -> None:
        for connection in (self.working, self.blocking, self.looking):
            connection.close()

    def look(self, query: str, *values: object) -> list[Any]:
        with self.looking.cursor() as cursor:
            cursor.execute(query, values or None)
            return cursor.fetchall()

    def tables(self) -> set[str]:
        """Return the tables that are there, in the eyes of others."""
        return {
            name
            for (name,) in self.look(
                "SELECT relname FROM pg_class"
                " WHERE relnamespace = to_regnamespace('platform') AND relkind = 'r'"
            )
        }

    def indexes(self) -> dict[str, str]:
        """Return the table of each index."""
        return dict(
            self.look(
                "SELECT indexname, tablename FROM pg_indexes WHERE schemaname = 'platform'",
            )
        )

    def held(self, tables: set[str]) -> tuple[Locks, bool]:
        """Return the locks of the connection that works, and whether it waits."""
        rows = self.look(
            "SELECT relname, mode, granted FROM pg_locks LEFT JOIN pg_class ON pg_class.oid = relation"
            " WHERE pid = %s AND (NOT granted OR relname IS NOT NULL)",
            self.working.info.backend_pid,
        )
        pairs = (
            (name, re.sub("(?<!^)(?=[A-Z])", " ", mode.removesuffix("Lock")).upper())
            for name, mode, _ in rows
        )
        return stand_in_the_way(pairs, tables), any(not granted for _, _, granted in rows)

    def run(self, statement: Statement, tables: set[str]) -> Locks:
        """Run a statement, and return what is locked with it."""
        if "CONCURRENTLY" in statement.text:
            return self._run_concurrently(statement.text, tables)
        with self.working.cursor() as cursor:
            cursor.execute(statement.text)
        held, _ = self.held(tables)
        if not statement.in_transaction:
            self.working.commit()
        return held

    def _run_concurrently(self, text: str, tables: set[str]) -> Locks:
        """Run it against a transaction that writes: it takes its lock, then waits for that."""
        with self.blocking.cursor() as cursor:
            cursor.execute(
                "LOCK TABLE " + ", ".join(f"platform.{name}" for name in tables) + " IN ROW EXCLUSIVE MODE"
            )

        def execute() -> None:
            self.working.autocommit = True
            with self.working.cursor() as cursor:
                cursor.execute(text)
            self.working.autocommit = False

        self.working.commit()
        thread = threading.Thread(target=execute)
        thread.start()
        found, waits = self.held(tables)
        while thread.is_alive() and not waits:
            time.sleep(0.005)
            found, waits = self.held(tables)
        self.blocking.rollback()
        thread.join()
        return found


def expected(statement: Statement, tables: set[str], indexes: dict[str, str]) -> Locks:
    """Return what the dry run says of a statement."""
    effects = effects_of(statement.text)
    assert all(effect.work != "unknown" for effect in effects), statement.text
    names = ((effect.table.removeprefix("platform."), effect.lock) for effect in effects)
    return stand_in_the_way(((indexes.get(name, name), lock) for name, lock in names), tables)


def test_each_revision_locks_what_it_says_and_what_the_dry_run_says(empty_database_uri: str) -> None:
    with closing(Database(empty_database_uri)) as place:
        with place.working.cursor() as cursor:
            cursor.execute("CREATE SCHEMA platform")
        place.working.commit()
        for script in scripts():
            tables = place.tables()
            told, seen = {}, {}
            for statement in statements_of(script):
                said = expected(statement, tables, place.indexes())
                told, seen = strongest(told, said), strongest(seen, place.run(statement, tables))
                assert seen == told, f"{script.revision}: {statement.text[:200]}"
            place.working.commit()
            assert seen == script.module.locks, script.revision


@pytest.mark.parametrize(
    ("statement", "lock", "work"),
    [
        ("ALTER TABLE platform.job ADD COLUMN a integer DEFAULT 3 NOT NULL", "ACCESS EXCLUSIVE", "catalogue"),
        (
            "ALTER TABLE platform.job ADD COLUMN a uuid DEFAULT gen_random_uuid()",
            "ACCESS EXCLUSIVE",
            "rewrite",
        ),
        ("ALTER TABLE platform.job ALTER COLUMN phase TYPE varchar(9)", "ACCESS EXCLUSIVE", "rewrite"),
        ("ALTER TABLE platform.job ALTER phase SET NOT NULL", "ACCESS EXCLUSIVE", "scan"),
        (
            "ALTER TABLE platform.job ADD CONSTRAINT a CHECK (phase <> ',') NOT VALID",
            "ACCESS EXCLUSIVE",
            "catalogue",
        ),
        ("ALTER TABLE platform.job ADD CONSTRAINT a UNIQUE (owner_id, phase)", "ACCESS EXCLUSIVE", "index"),
        (
            "ALTER TABLE platform.job VALIDATE CONSTRAINT a, SET (fillfactor = 50)",
            "SHARE UPDATE EXCLUSIVE",
            "scan",
        ),
        ("CREATE INDEX a ON platform.job (phase)", "SHARE", "index"),
        ("UPDATE platform.job SET phase = 'it''s'", "ROW EXCLUSIVE", "write"),
        ("DROP TABLE platform.job", "ACCESS EXCLUSIVE", "catalogue"),
        ("CLUSTER platform.job", "ACCESS EXCLUSIVE", "unknown"),
    ],
)
def test_a_statement_is_known_by_its_form(statement: str, lock: str, work: str) -> None:
    (effect,) = effects_of(f"-- It isn't much.\n{statement}")
    assert (effect.table, effect.lock, effect.work) == ("platform.job", lock, work)


@contextmanager
def reader_of(uri: str) -> Iterator[str]:
    """Give the URL of a login that may SELECT, and nothing else."""
    name = f"reader_{time.time_ns()}"
    with schema.connect(uri) as connection, connection.begin():
        connection.execute(sa.text(f"CREATE ROLE {name}"))
        connection.execute(sa.text(f"GRANT USAGE ON SCHEMA platform TO {name}"))
        connection.execute(sa.text(f"GRANT SELECT ON ALL TABLES IN SCHEMA platform TO {name}"))
    url = sa.make_url(uri).update_query_dict({"options": f"-c role={name}"})
    yield url.render_as_string(hide_password=False)
    with schema.connect(uri) as connection, connection.begin():
        connection.execute(sa.text(f"DROP OWNED BY {name}"))
        connection.execute(sa.text(f"DROP ROLE {name}"))


def test_a_dry_run_says_what_each_statement_would_do_and_who_is_in_its_way(database_uri: str) -> None:
    schema.downgrade(database_uri, "0006")
    with schema.connect(database_uri) as busy, reader_of(database_uri) as reader:
        busy.execute(sa.text("SELECT FROM platform.job"))
        process = busy.scalar(sa.text("SELECT pg_backend_pid()"))

        told = run(reader, "alembic", "upgrade", "0007", "--dry-run")
        found = json.loads(run(reader, "alembic", "upgrade", "0007", "--dry-run", "--json").stdout)

    assert (told.exit_code, told.stderr) == (0, "")
    lines = told.stdout.splitlines()
    assert lines[0] == "0007: pre; after it the release before still runs"
    at = next(number for number, line in enumerate(lines) if line.startswith("  ALTER TABLE platform.job "))
    assert lines[at + 1].strip() == (
        "ACCESS EXCLUSIVE on platform.job until the revision ends: readers and writers wait"
    )
    assert lines[at + 2].strip() == "changes the catalogue only (0 rows, 0 Bytes): milliseconds"
    assert f"process {process} (" in lines[at + 3]
    (alter,) = (row for row in found if row["statement"].startswith("ALTER TABLE platform.job "))
    assert (alter["phase"], alter["lock"], alter["work"]) == ("pre", "ACCESS EXCLUSIVE", "catalogue")
    assert alter["release_before_runs"]
    assert len(alter["sessions"]) == 1
    # Who reads keeps no writer's lock waiting.
    assert all(not row["sessions"] for row in found if row["lock"] == "SHARE ROW EXCLUSIVE")
    with schema.connect(database_uri) as connection:
        assert schema.status(connection).revision == "0006"


def test_a_dry_run_has_nothing_to_say_of_a_current_database(database_uri: str) -> None:
    assert run(database_uri, "alembic", "upgrade", "--dry-run").stdout == "nothing to do\n"
    assert json.loads(run(database_uri, "alembic", "upgrade", "--dry-run", "--json").stdout) == []


def test_a_dry_run_needs_a_database_and_json_needs_a_dry_run(database_uri: str) -> None:
    assert run(database_uri, "alembic", "upgrade", "--json").exit_code == 2
    assert run(database_uri, "alembic", "upgrade", "--dry-run", "--sql").exit_code == 2
    unreachable = run("postgresql://127.0.0.1:1/d", "alembic", "upgrade", "--dry-run")
    assert unreachable.exit_code == errors.Unreachable.exit_code
    assert one_line(unreachable.stderr)


# Narrow rows without an order, as fast as they can be written.
MANY_ROWS = """
    ALTER TABLE platform.status_change SET UNLOGGED;
    ALTER TABLE platform.status_change DROP CONSTRAINT pk_status_change;
    SET session_replication_role = replica;
    INSERT INTO platform.status_change (owner_id, entity_id, revision, entity, number, from_status, to_status,
                                        at, transaction_id)
    SELECT '00000000-0000-0000-0000-000000000001', gen_random_uuid(), 1, 'workflow',
           (n * 7919::bigint) % 10000019, 'created', 'queued', now(), n / 3
    FROM generate_series(1, 10000000) AS n;
    RESET session_replication_role;
    ANALYZE platform.status_change
    """


@pytest.mark.soak
def test_a_dry_run_on_ten_million_rows_tells_the_locks_and_the_order_of_magnitude(
    empty_database_uri: str,
) -> None:
    schema.upgrade(empty_database_uri, "0006")
    with schema.connect(empty_database_uri) as connection, connection.begin():
        for statement in MANY_ROWS.split(";"):
            connection.execute(sa.text(statement))
    with reader_of(empty_database_uri) as reader:
        told = run(reader, "alembic", "upgrade", "0009", "--dry-run", "--json")
    rows = [row for row in json.loads(told.stdout) if row["table"] == "platform.status_change"]
    assert rows
    assert all(0.9e7 < row["rows"] < 1.1e7 for row in rows)

    with closing(Database(empty_database_uri)) as place:
        for script in scripts():
            if not "0006" < script.revision <= "0009":
                continue
            tables, seen = place.tables(), {}
            for statement in statements_of(script):
                begun = time.monotonic()
                seen = strongest(seen, place.run(statement, tables))
                took = time.monotonic() - begun
                for row in rows:
                    if statement.beginning == row["statement"]:
                        print(f"{row['statement'][:60]}: told {row['seconds']} s, took {took:.2f} s")  # noqa: T201
                        assert (
                            took < 1
                            if row["duration"] == "milliseconds"
                            else 0.1 < took / row["seconds"] < 10
                        )
            place.working.commit()
            assert seen == script.module.locks
            assert {
                (row["table"].removeprefix("platform."), row["lock"])
                for row in rows
                if row["revision"] == script.revision
            } <= set(seen.items())
