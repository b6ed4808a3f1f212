"""``platform-db db reset``, and an embedded database that is gone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import sqlalchemy as sa

from platform_db import embedded, errors
from tests.command_line import one_line, run, start


def add_user(uri: str) -> None:
    assert run(uri, "user", "create", "ada@example.org").exit_code == 0


def count_users(uri: str) -> int:
    result = run(uri, "user", "list")
    assert result.exit_code == 0, result.output
    return result.stdout.count("@")


@pytest.fixture
def uri(place: Path) -> str:
    """Give the URI of an embedded database that has a user."""
    uri = f"embedded://{place / 'database'}"
    add_user(uri)
    return uri


def test_reset_empties_an_embedded_database_that_is_in_use(uri: str, place: Path) -> None:
    other = sa.create_engine(embedded.ensure_running(place / "database"))
    with other.connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM platform.user_")) == 1

        result = run(uri, "db", "reset", "--yes")

        assert (result.exit_code, result.stdout) == (0, f"emptied the database in {place / 'database'}\n")
        with pytest.raises(sa.exc.OperationalError):
            connection.scalar(sa.text("SELECT 1"))
    assert count_users(uri) == 0
    assert run(uri, "db", "check").exit_code == 0
    add_user(uri)


def test_reset_asks_first(uri: str, place: Path) -> None:
    refused = run(uri, "db", "reset")  # at the end of the input

    assert refused.exit_code == 1
    assert str(place / "database") in refused.stderr
    assert count_users(uri) == 1


def test_reset_refuses_any_other_database(database_uri: str) -> None:
    result = run(database_uri, "db", "reset", "--yes")

    assert result.exit_code == errors.Refused.exit_code
    assert "only an embedded database" in one_line(result.stderr)
    assert run(database_uri, "db", "check").exit_code == 0
    secret = run("postgresql://ada:hidden@127.0.0.1:1/x", "db", "reset", "--yes")
    assert "hidden" not in one_line(secret.stderr)
    assert run(None, "db", "reset", "--yes").exit_code == errors.NotConfigured.exit_code


def test_reset_makes_no_database_where_there_is_none(place: Path) -> None:
    result = run(f"embedded://{place / 'database'}", "db", "reset", "--yes")

    assert (result.exit_code, result.stdout) == (
        0,
        f"nothing to do: there is no database in {place / 'database'}\n",
    )
    assert not (place / "database" / "data").exists()


def test_a_database_that_is_gone_is_made_again_which_stderr_says(uri: str, place: Path) -> None:
    embedded.release(place / "database")
    embedded.stop(place / "database")
    shutil.rmtree(place / "database")

    output, problems = start(uri, "user", "list").communicate(timeout=90)
    again, nothing = start(uri, "user", "list").communicate(timeout=90)

    assert output.count("@") == again.count("@") == 0
    assert problems == f"there is no database in {place / 'database'}: a new one is made\n"
    assert nothing == ""
