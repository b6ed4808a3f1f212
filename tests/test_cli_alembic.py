"""``platform-db alembic``: Alembic's commands on this package's migrations."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from platform_db import errors, schema
from tests.command_line import one_line, run


def execute(uri: str, statement: str) -> None:
    """Run one statement and commit it."""
    with schema.connect(uri) as connection, connection.begin():
        connection.execute(sa.text(statement))


def revision(uri: str) -> str | None:
    """Return the database's revision."""
    with schema.connect(uri) as connection:
        return schema.status(connection).revision


def test_upgrade_prints_a_line_for_each_revision(empty_database_uri: str) -> None:
    first = run(empty_database_uri, "alembic", "upgrade")
    second = run(empty_database_uri, "alembic", "upgrade", "head")

    assert (first.exit_code, first.stderr) == (0, "")
    assert first.stdout.splitlines()[0] == "ran 0001: Create the schema."
    assert (second.exit_code, second.output) == (0, "")


@pytest.mark.parametrize("arguments", [[], ["-1"], ["--", "-1"], ["-1", "--tag", "any"]])
def test_downgrade_takes_a_number_of_steps(database_uri: str, arguments: list[str]) -> None:
    before = revision(database_uri)

    result = run(database_uri, "alembic", "downgrade", *arguments)

    assert result.exit_code == 0
    assert result.stdout.startswith(f"took back {before}")
    assert len(result.stdout.splitlines()) == 1
    assert revision(database_uri) != before


def test_upgrade_takes_a_number_of_steps(empty_database_uri: str) -> None:
    result = run(empty_database_uri, "alembic", "upgrade", "+1")

    assert result.stdout == "ran 0001: Create the schema.\n"


def test_current_creates_nothing_in_an_empty_database(empty_database_uri: str) -> None:
    result = run(empty_database_uri, "alembic", "current")

    assert (result.exit_code, result.output) == (0, "")
    with schema.connect(empty_database_uri) as connection:
        assert "platform" not in sa.inspect(connection).get_schema_names()


def test_current_and_history_show_the_revision(database_uri: str) -> None:
    current = run(database_uri, "alembic", "current")
    history = run(database_uri, "alembic", "history", "-i", "-r", "base:current")

    assert current.stdout == f"{revision(database_uri)} (head)\n"
    assert "(current)" in history.stdout


def test_current_waits_for_no_migration(database_uri: str) -> None:
    with schema.connect(database_uri) as migrating:
        schema.lock_for_migration(migrating, 1)

        assert run(database_uri, "alembic", "current").exit_code == 0


@pytest.mark.parametrize("command", [["heads"], ["history"], ["show"], ["branches"], ["heads", "-v"]])
def test_what_asks_no_database_needs_none(command: list[str]) -> None:
    assert run(None, "alembic", *command).exit_code == 0


def test_history_shows_what_a_revision_says_of_itself() -> None:
    assert "Motive: the first revision." in run(None, "alembic", "history", "-v").stdout


CRIPPLINGS = {
    "DROP TRIGGER guard_update ON platform.job": "missing trigger guard_update on job",
    "ALTER TABLE platform.job DISABLE TRIGGER guard_update": "altered trigger guard_update on job",
    """
    CREATE OR REPLACE TRIGGER guard_update BEFORE UPDATE OF status ON platform.job
        FOR EACH ROW EXECUTE FUNCTION platform.guard_status('job', 'job', 'finished>running')
    """: "altered trigger guard_update on job",
    """
    CREATE OR REPLACE TRIGGER record_status AFTER UPDATE OF status ON platform.job
        FOR EACH ROW WHEN (false) EXECUTE FUNCTION platform.record_status('job')
    """: "altered trigger record_status on job",
    """
    CREATE TRIGGER swallow BEFORE INSERT ON platform.note
        FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()
    """: "unknown trigger swallow on note",
    """
    CREATE OR REPLACE FUNCTION platform.record_status() RETURNS trigger LANGUAGE plpgsql
        AS 'BEGIN RETURN NULL; END'
    """: "altered function record_status()",
    """
    CREATE OR REPLACE FUNCTION platform.guard_is_overridden() RETURNS boolean LANGUAGE sql RETURN true
    """: "altered function guard_is_overridden()",
    "ALTER FUNCTION platform.stamp_row() SECURITY DEFINER": "altered function stamp_row()",
    "DROP POLICY tenant ON platform.workflow": "missing policy tenant on workflow",
    "ALTER TABLE platform.job DISABLE ROW LEVEL SECURITY": "altered table job",
}


def test_check_agrees_with_a_migrated_database(database_uri: str) -> None:
    assert run(database_uri, "alembic", "check").exit_code == 0


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ("ALTER TABLE platform.workflow DROP COLUMN git_ref", "missing column workflow.git_ref"),
        ("ALTER TABLE platform.workflow ADD COLUMN extra text", "unknown column workflow.extra"),
        ("CREATE TABLE platform.extra ()", "unknown table extra"),
        ("CREATE INDEX extra ON platform.workflow (name)", "unknown index extra"),
        ("ALTER TABLE platform.workflow ALTER git_ref SET NOT NULL", "altered column workflow.git_ref"),
        *CRIPPLINGS.items(),
    ],
)
def test_check_names_what_differs(database_uri: str, change: str, difference: str) -> None:
    execute(database_uri, change)

    result = run(database_uri, "alembic", "check")

    assert result.exit_code == errors.SchemaDiffers.exit_code
    assert difference in one_line(result.stderr)


def test_check_wants_a_migrated_database(empty_database_uri: str) -> None:
    assert run(empty_database_uri, "alembic", "check").exit_code == errors.NeverMigrated.exit_code


def test_init_marks_a_schema_that_exists(database_uri: str) -> None:
    head = revision(database_uri)
    execute(database_uri, "DROP TABLE platform.alembic_version")

    marked = run(database_uri, "alembic", "init")
    again = run(database_uri, "alembic", "init")

    assert (marked.exit_code, marked.stdout) == (0, f"stamped {head}\n")
    assert (again.exit_code, again.stdout.partition(":")[0]) == (0, "nothing to do")
    assert revision(database_uri) == head


def test_init_refuses_where_there_is_nothing_to_mark(empty_database_uri: str) -> None:
    result = run(empty_database_uri, "alembic", "init")

    assert result.exit_code == errors.NeverMigrated.exit_code
    assert "nothing to mark" in one_line(result.stderr)
    assert revision(empty_database_uri) is None


def test_init_refuses_a_schema_that_lacks_tables(database_uri: str) -> None:
    execute(database_uri, "DROP TABLE platform.alembic_version, platform.note")

    result = run(database_uri, "alembic", "init")

    assert result.exit_code == errors.Refused.exit_code
    assert "missing table note" in one_line(result.stderr)
    assert revision(database_uri) is None


@pytest.mark.parametrize(("change", "difference"), CRIPPLINGS.items())
def test_init_refuses_a_schema_without_its_guards(database_uri: str, change: str, difference: str) -> None:
    execute(database_uri, f"{change}; DROP TABLE platform.alembic_version")

    result = run(database_uri, "alembic", "init")

    assert result.exit_code == errors.Refused.exit_code
    assert difference in one_line(result.stderr)
    assert revision(database_uri) is None


def test_stamp_stores_a_revision_without_running_it(database_uri: str) -> None:
    head = revision(database_uri)

    base = run(database_uri, "alembic", "stamp", "base")

    assert (base.exit_code, base.stdout) == (0, "stamped base\n")
    assert revision(database_uri) is None
    purged = run(database_uri, "alembic", "stamp", "--purge", "head")
    assert (purged.exit_code, purged.stdout) == (0, f"stamped {head}\n")
    with schema.connect(database_uri) as connection:
        assert sa.inspect(connection).has_table("workflow", schema="platform")


def test_only_one_revision_can_be_stored(database_uri: str) -> None:
    head = revision(database_uri)

    result = run(database_uri, "alembic", "stamp", "0001", "0002")

    assert result.exit_code == 2
    assert revision(database_uri) == head
    assert run(database_uri, "db", "check").exit_code == 0


@pytest.mark.parametrize("command", ["upgrade", "downgrade", "stamp", "show"])
@pytest.mark.parametrize("named", ["", " ", ":", "@"])
def test_what_names_no_revision_is_refused(database_uri: str, command: str, named: str) -> None:
    head = revision(database_uri)

    result = run(database_uri, "alembic", command, named)

    assert result.exit_code == 2
    assert f"{named!r} names no revision" in result.stderr
    assert revision(database_uri) == head


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a directory that new revisions can be written to."""
    configure = schema.alembic_config

    def configure_elsewhere(*arguments: object, **options: object) -> object:
        config = configure(*arguments, **options)
        own = config.get_main_option("script_location")
        config.set_main_option("version_locations", f"{own}/versions:{tmp_path}")
        return config

    monkeypatch.setattr(schema, "alembic_config", configure_elsewhere)
    return tmp_path


def test_revision_writes_the_next_number(elsewhere: Path, database_uri: str) -> None:
    result = run(
        database_uri,
        "alembic",
        "revision",
        "-m",
        "Add it",
        "--autogenerate",
        "--version-path",
        str(elsewhere),
    )

    assert result.exit_code == 0, result.stderr
    (written,) = elsewhere.glob("*.py")
    head = run(None, "alembic", "heads").stdout.partition(" ")[0]
    assert f'revision = "{head}"' in written.read_text().replace("'", '"')
    assert int(head) == int(revision(database_uri) or 0) + 1


@pytest.mark.parametrize("number", ["0001", "0000", "10000", "next", ""])
def test_revision_takes_no_number_that_leads_nowhere(elsewhere: Path, database_uri: str, number: str) -> None:
    result = run(database_uri, "alembic", "revision", "--rev-id", number, "--version-path", str(elsewhere))

    assert result.exit_code == 2
    assert list(elsewhere.iterdir()) == []


def test_a_broken_history_is_told_in_one_line(elsewhere: Path) -> None:
    (elsewhere / "again.py").write_text("revision = down_revision = '9999'")

    result = run(None, "alembic", "heads")

    assert result.exit_code == 1
    assert "9999" in one_line(result.stderr)
