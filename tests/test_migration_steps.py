"""What revisions do to large tables beside readers and writers, and again where they were stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from platform_db import schema
from platform_db.schema.status import FOLDERS
from tests.command_line import run
from tests.revisions import code_with, write_revision

INDEX = 'steps.create_index("ix_user_name", "user_ (full_name)")'

BACKFILL = 'steps.backfill("user_", "full_name = \'none\'", "full_name IS NULL", key=("id_",), batch=10)'


@pytest.fixture
def newer(tmp_path: Path) -> Iterator[Path]:
    """Give a folder for revisions of the release after this one."""
    with code_with(*FOLDERS, tmp_path):
        yield tmp_path


@pytest.fixture
def connection(database_uri: str) -> Iterator[sa.Connection]:
    """Give a connection on which each statement is a transaction."""
    with schema.connect(database_uri) as connection:
        yield connection.execution_options(isolation_level="AUTOCOMMIT")


def index(connection: sa.Connection) -> tuple[int, bool]:
    """Return the number of the index, and whether it is valid."""
    query = "SELECT indexrelid::bigint, indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)"
    number, valid = connection.execute(sa.text(query), {"name": "platform.ix_user_name"}).one()
    return number, valid


def test_an_index_that_was_stopped_half_way_is_made_again(
    database_uri: str, connection: sa.Connection, newer: Path
) -> None:
    write_revision(newer, 1, "pre", INDEX)
    connection.execute(sa.text("CREATE INDEX ix_user_name ON platform.user_ (full_name)"))
    connection.execute(
        sa.text("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'platform.ix_user_name'::regclass")
    )
    before, _ = index(connection)

    schema.upgrade(database_uri)

    after, valid = index(connection)
    assert valid
    assert after != before


def test_an_index_that_is_there_is_not_made_again(
    database_uri: str, connection: sa.Connection, newer: Path
) -> None:
    write_revision(newer, 1, "pre", INDEX)
    connection.execute(sa.text("CREATE INDEX ix_user_name ON platform.user_ (full_name)"))
    before = index(connection)

    schema.upgrade(database_uri)

    assert index(connection) == before


def test_rows_are_changed_in_batches_and_a_second_run_does_the_rest(
    database_uri: str, connection: sa.Connection, newer: Path
) -> None:
    revision = write_revision(newer, 1, "pre", BACKFILL)
    connection.execute(
        sa.text(
            "INSERT INTO platform.user_ (id_, email)"
            " SELECT lpad(n::text, 32, '0')::uuid, n || '@example.org' FROM generate_series(1, 25) AS n"
        )
    )
    check = "CHECK (full_name IS NULL OR email <> '24@example.org')"
    connection.execute(sa.text(f"ALTER TABLE platform.user_ ADD CONSTRAINT stop {check}"))
    done = sa.text(
        "SELECT xmin::text, count(*) FROM platform.user_ WHERE full_name = 'none' GROUP BY 1 ORDER BY 1"
    )

    with pytest.raises(sa.exc.IntegrityError):
        schema.upgrade(database_uri)
    first = connection.execute(done).all()
    connection.execute(sa.text("ALTER TABLE platform.user_ DROP CONSTRAINT stop"))
    schema.upgrade(database_uri)

    assert sorted(count for _, count in first) == [10, 10]
    after = connection.execute(done).all()
    assert set(first) < set(after)
    assert sum(count for _, count in after) == 25
    assert schema.status(connection).revision == revision


def test_each_row_is_changed_once_whatever_the_condition_is(
    database_uri: str, connection: sa.Connection, newer: Path
) -> None:
    where = "full_name LIKE 'n%' OR full_name IS NULL"
    values = "full_name = 'n' || coalesce(full_name, '')"
    write_revision(newer, 1, "pre", f'steps.backfill("user_", "{values}", "{where}", key=("id_",), batch=2)')
    connection.execute(
        sa.text(
            "INSERT INTO platform.user_ (id_, email)"
            " SELECT lpad(n::text, 32, '0')::uuid, n || '@example.org' FROM generate_series(1, 5) AS n"
        )
    )
    # A row that came up again and again would fail here, instead of going on for ever.
    check = "CHECK (length(full_name) < 9)"
    connection.execute(sa.text(f"ALTER TABLE platform.user_ ADD CONSTRAINT stop {check}"))

    schema.upgrade(database_uri)

    names = connection.execute(sa.text("SELECT full_name FROM platform.user_")).scalars().all()
    assert names == ["n"] * 5


def test_a_dry_run_and_printed_sql_show_the_steps(database_uri: str, newer: Path) -> None:
    write_revision(newer, 1, "pre", f"{BACKFILL}; {INDEX}; steps.drop_index('ix_user_name')")

    rows = json.loads(run(database_uri, "alembic", "upgrade", "--dry-run", "--json").stdout)

    assert [(row["table"], row["lock"], row["work"], row["held"]) for row in rows] == [
        ("platform.user_", "ROW EXCLUSIVE", "write", "statement"),
        ("platform.user_", "SHARE UPDATE EXCLUSIVE", "catalogue", "statement"),
        ("platform.user_", "SHARE UPDATE EXCLUSIVE", "index", "statement"),
        ("platform.user_", "SHARE UPDATE EXCLUSIVE", "catalogue", "statement"),
    ]
    printed = run(None, "alembic", "upgrade", f"{schema.revisions()[-2]}:head", "--sql").stdout
    assert "UPDATE platform.user_ SET full_name = 'none' WHERE full_name IS NULL;" in printed
