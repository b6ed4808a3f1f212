"""Upgrades in two phases: the release before runs after pre revisions, the new one before post revisions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from platform_db import errors, schema
from platform_db.health.probes import Probes
from platform_db.schema.status import FOLDERS
from tests.command_line import one_line, run
from tests.revisions import code_with, copy_up_to, write_revision


@pytest.fixture
def newer(tmp_path: Path) -> Iterator[Path]:
    """Give a folder for revisions of the release after this one."""
    with code_with(*FOLDERS, tmp_path):
        yield tmp_path


def phase(uri: str, name: str) -> tuple[int, str]:
    """Run the revisions of a phase, and return the exit code and what was printed."""
    result = run(uri, "alembic", "upgrade", "--phase", name)
    return result.exit_code, result.stdout


def test_both_releases_run_between_the_phases(database_uri: str, newer: Path) -> None:
    pre = write_revision(newer, 1, "pre", 'op.execute("CREATE TABLE platform.extra ()")')
    post = write_revision(newer, 2, "post", 'op.execute("DROP TABLE platform.extra")')

    behind = run(database_uri, "db", "check")
    assert behind.exit_code == errors.SchemaBehind.exit_code
    assert f"the code needs {post}" in one_line(behind.stderr)
    assert phase(database_uri, "post")[0] == errors.Refused.exit_code
    assert phase(database_uri, "pre") == (0, f"ran {pre}: Step 1.\n")
    assert phase(database_uri, "pre") == (0, "")

    new = run(database_uri, "db", "check")
    assert (new.exit_code, new.stdout.partition(":")[0]) == (0, "behind")
    assert run(database_uri, "db", "wait", "--migrated").exit_code == 0
    assert Probes(database_uri).answer("/readyz")[1]["needs"] == pre
    with code_with(FOLDERS[0]):
        old = run(database_uri, "db", "check")
        assert (old.exit_code, old.stdout.partition(":")[0]) == (0, "ahead")
        assert run(database_uri, "user", "list").exit_code == 0
        # An old process that is started again finds nothing to do, and takes nothing back.
        assert run(database_uri, "init").stdout.startswith("nothing to do")
        assert run(database_uri, "alembic", "downgrade").exit_code == errors.SchemaAhead.exit_code

    assert phase(database_uri, "post") == (0, f"ran {post}: Step 2.\n")
    with code_with(FOLDERS[0]):
        old = run(database_uri, "db", "check")
        assert old.exit_code == errors.SchemaAhead.exit_code
        assert post in one_line(old.stderr)


def test_a_pre_revision_behind_a_post_one_waits_for_it(database_uri: str, newer: Path) -> None:
    post = write_revision(newer, 1, "post", 'op.execute("SELECT 1")')
    pre = write_revision(newer, 2, "pre", 'op.execute("SELECT 2")')

    skipped = run(database_uri, "alembic", "upgrade", "--phase", "pre")

    assert skipped.exit_code == errors.Refused.exit_code
    assert f"needs revision {pre}, which follows {post}" in one_line(skipped.stderr)
    assert phase(database_uri, "post") == (0, f"ran {post}: Step 1.\n")
    assert phase(database_uri, "pre") == (0, f"ran {pre}: Step 2.\n")


def test_where_no_release_runs_yet_pre_runs_everything(empty_database_uri: str) -> None:
    assert phase(empty_database_uri, "post")[0] == errors.Refused.exit_code
    assert phase(empty_database_uri, "pre")[0] == 0
    schema.require_agreement(empty_database_uri)


@pytest.mark.parametrize(("revision", "exit_code"), [("0010", 0), ("0003", errors.SchemaAhead.exit_code)])
def test_the_database_says_which_code_it_serves(
    database_uri: str, tmp_path: Path, revision: str, exit_code: int
) -> None:
    # Code that ends at 0003 lacks 0004, which is post.
    with code_with(copy_up_to(revision, tmp_path)):
        assert run(database_uri, "db", "check").exit_code == exit_code


def test_code_says_in_one_line_what_an_older_database_lacks(database_uri: str) -> None:
    head = schema.revisions()[-1]
    schema.downgrade(database_uri)

    result = run(database_uri, "db", "check")

    assert result.exit_code == errors.SchemaBehind.exit_code
    assert f"at revision {schema.revisions()[-2]}, the code needs {head}" in one_line(result.stderr)


def test_printed_sql_has_no_phase() -> None:
    assert run(None, "alembic", "upgrade", "--phase", "pre", "--sql").exit_code == 2
    assert run(None, "alembic", "upgrade", "--phase", "later").exit_code == 2
