"""Values of a redun database whose bytes lie in its value store: their files are copied below the owner."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sqlalchemy import orm

from tests.factories import make_user
from tests.redun_source import RedunDatabase
from tests.redun_target import Target, reported


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


def test_values_of_a_value_store_are_copied_below_the_owner(
    in_file: RedunDatabase, target: Target, tmp_path: Path
) -> None:
    store = tmp_path / "values"
    large = in_file.add_value("large", b"")
    lost = in_file.add_value("lost", b"")
    (store / large[:2]).mkdir(parents=True)
    (store / large[:2] / large[2:]).write_bytes(b"large" * 1000)

    refused = target.run(in_file.uri)
    assert refused.exit_code == 11
    assert "2 values are empty" in refused.stderr
    assert "--value-store" in refused.stderr

    report = tmp_path / "report"
    for _ in range(2):  # Once copied, it is found again.
        moved = target.run(in_file.uri, "--value-store", str(store), "--report", str(report))
        assert moved.exit_code == 0, moved.output
        assert list(reported(report, "left out")) == [f"value {lost}"]
        assert (store / str(target.user_id) / large[:2] / large[2:]).read_bytes() == b"large" * 1000
        stored = "SELECT octet_length(value), size FROM platform.value WHERE value_hash = :id"
        assert target.rows(stored, id=large) == [(0, 5000)]
    assert sorted(path.name for path in store.iterdir()) == sorted([large[:2], str(target.user_id)])


def test_values_that_were_moved_without_their_store_get_their_files_later(
    in_file: RedunDatabase, target: Target, tmp_path: Path
) -> None:
    large = in_file.add_value("large", b"")
    (tmp_path / large[:2]).mkdir()
    (tmp_path / large[:2] / large[2:]).write_bytes(b"large")
    assert target.run(in_file.uri, "--no-value-store").exit_code == 0
    assert target.rows("SELECT size FROM platform.value WHERE value_hash = :id", id=large) == [(0,)]

    assert target.run(in_file.uri, "--value-store", str(tmp_path)).exit_code == 0
    assert target.rows("SELECT size FROM platform.value WHERE value_hash = :id", id=large) == [(5,)]


def test_only_files_of_the_value_store_are_copied(
    in_file: RedunDatabase, target: Target, tmp_path: Path
) -> None:
    """Who ran the workflows wrote the store, and who imports may read more than they."""
    store, secret = tmp_path / "values", tmp_path / "secret"
    (store / "ab" / "directory").mkdir(parents=True)
    secret.write_text("secret")
    (store / "ab" / "link").symlink_to(secret)
    (store / "cd").symlink_to(tmp_path)
    os.mkfifo(store / "ab" / "pipe")
    hashes = {"ab", "abdirectory", "ablink", "abpipe", "cdsecret", "../secret", "ab" + "a" * 300}
    for hash_ in [*hashes, "abfile"]:
        in_file.add("value", value_hash=hash_, type="t", format="f", value=b"")
    (store / "ab" / "file").write_text("whole")
    own = store / str(target.user_id) / "ab"
    own.mkdir(parents=True)
    (own / "file.part").symlink_to(secret)

    moved = target.run(in_file.uri, "--value-store", str(store), "--report", str(tmp_path / "report"))
    assert moved.exit_code == 0, moved.output
    assert set(reported(tmp_path / "report", "left out")) == {f"value {hash_}" for hash_ in hashes}
    assert [(path.name, path.read_text()) for path in own.iterdir()] == [("file", "whole")]
    assert secret.read_text() == "secret"


def test_a_store_that_is_no_directory_says_what_to_do(in_file: RedunDatabase, target: Target) -> None:
    remote = target.run(in_file.uri, "--value-store", "s3://bucket/values")
    assert remote.exit_code == 2
    assert f"s3://bucket/values/{target.user_id}/" in remote.stderr
    assert target.run(in_file.uri, "--value-store", "/no/such/directory").exit_code == 2
