"""Rows of a redun database that cannot be stored: each is named, and all others move."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import orm

from platform_db import quota
from platform_db.integrations.redun_import import reading
from tests import command_line
from tests.factories import make_user
from tests.redun_source import RedunDatabase, hash_of
from tests.redun_target import Target, counted, reported


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


def test_bad_rows_are_named_and_the_rest_moves(
    in_file: RedunDatabase, target: Target, tmp_path: Path
) -> None:
    spoiled = {
        "a text that cannot be stored": (
            "UPDATE file SET path = 'a' || char(0) WHERE value_hash = :id",
            hash_of("value", (0, 9)),
            "file",
            "its path has a NUL character",
        ),
        "bytes that are no text": (
            "UPDATE call_node SET task_name = CAST(x'ff' AS TEXT) WHERE call_hash = :id",
            hash_of("call", 1, 5),
            "call_node",
            "its task_name has a NUL character, or bytes that are not UTF-8",
        ),
        "no time": (
            "UPDATE job SET start_time = '2024-02-30 00:00:00' WHERE id = :id",
            hash_of("job", 2, 4),
            "job",
            "its start_time is no time that the calendar has",
        ),
        "no JSON": (
            """UPDATE tag SET value = '{"a": NaN}' WHERE tag_hash = :id""",
            hash_of("tag", 2, 0),
            "tag",
            "its value is no JSON, or has a number that is none here",
        ),
        "NUL in JSON": (
            """UPDATE tag SET value = '"a\\u0000"' WHERE tag_hash = :id""",
            hash_of("tag", 1, 1),
            "tag",
            "its value has a NUL character",
        ),
        "a time before all": (
            "UPDATE job SET start_time = '0001-01-01 00:00:00+14:00' WHERE id = :id",
            hash_of("job", 0, 4),
            "job",
            "its start_time is no time that the calendar has",
        ),
        "a number beyond all": (
            "UPDATE tag SET value = '1e99999999999999999999999' WHERE tag_hash = :id",
            hash_of("tag", 0, 1),
            "tag",
            "its value is no JSON, or has a number that is none here",
        ),
        "no kind": (
            "UPDATE tag SET entity_type = 'Other' WHERE tag_hash = :id",
            hash_of("tag", 0, 0),
            "tag",
            "known_entity_type",
        ),
        "no parent": (
            "UPDATE evaluation SET value_hash = 'gone' WHERE eval_hash = :id",
            hash_of("eval", 1, 2),
            "evaluation",
            "its value_hash names no value that there is",
        ),
    }
    for statement, id_, _, _ in spoiled.values():
        in_file.execute(statement, id=id_)

    moved = target.run(in_file.uri, "--report", str(tmp_path / "report"))
    assert moved.exit_code == 9
    refused = reported(tmp_path / "report", "refused")
    for why, (_, id_, table, reason) in spoiled.items():
        assert reason in refused.get(f"{table} {id_}", ""), (why, refused)
    # What refers to them is refused, too; all else moves.
    call = hash_of("call", 1, 5)
    assert refused[f"argument {hash_of('arg', 1, 5)}"] == "its call_hash names a call_node that is not moved"
    assert refused[f"job {hash_of('job', 1, 5)}"] == "its call_hash names a call_node that is not moved"
    assert refused[f"call_edge {hash_of('call', 1, 0)} 5 {call}"]
    assert refused[f"tag_edit {hash_of('tag', 2, 0)} {hash_of('tag', 2, 1)}"]
    assert counted(moved, "refused") == {
        "file": 1,
        "call_node": 1,
        "call_subtree_task": 1,
        "argument": 1,
        "call_edge": 1,
        "evaluation": 1,
        "job": 3,
        "tag": 4,
        "tag_edit": 3,
    }
    assert counted(moved, "written")["job"] == 27
    again = target.run(in_file.uri)
    assert (again.exit_code, counted(again, "written")) == (9, {})


def test_jobs_of_what_is_refused_are_refused(in_file: RedunDatabase, target: Target, tmp_path: Path) -> None:
    in_file.execute("UPDATE job SET start_time = 'x' WHERE id = :id", id=hash_of("job", 0, 0))  # a root
    in_file.execute("DELETE FROM execution WHERE id = :id", id=hash_of("execution", 1))
    in_file.execute(
        "UPDATE execution SET id = CAST(x'ff' AS TEXT) WHERE id = :id", id=hash_of("execution", 2)
    )
    in_file.execute(
        "UPDATE job SET execution_id = CAST(x'ff' AS TEXT) WHERE execution_id = :id",
        id=hash_of("execution", 2),
    )

    moved = target.run(in_file.uri, "--report", str(tmp_path / "report"))
    assert moved.exit_code == 9
    assert counted(moved, "refused") == {"execution": 2, "job": 30}
    assert counted(moved, "rows")["tag"] == 6


def test_a_value_that_no_row_can_hold_is_refused(
    in_file: RedunDatabase, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "LARGEST_BYTES", 100)
    large = in_file.add_value("large", bytes(101))
    moved = target.run(in_file.uri, "--report", str(tmp_path / "report"))
    assert (moved.exit_code, counted(moved, "refused")) == (9, {"value": 1})
    assert "larger than 100 bytes" in reported(tmp_path / "report", "refused")[f"value {large}"]


def test_a_dry_run_says_what_would_be_and_writes_nothing(
    in_file: RedunDatabase, target: Target, tmp_path: Path
) -> None:
    """It finds what only the tables' checks and indexes refuse, and what differs from what is here."""
    assert target.run(in_file.uri).exit_code == 0
    here = target.contents()
    in_file.fill(range(3, 4))
    in_file.execute("UPDATE task SET source = 'other' WHERE name = 'part'")
    in_file.execute("DELETE FROM value WHERE value_hash = :id", id=hash_of("value", (3, 5)))
    in_file.execute("UPDATE tag SET entity_type = 'Other' WHERE tag_hash = :id", id=hash_of("tag", 3, 0))
    in_file.execute(
        "UPDATE file SET path = :path WHERE value_hash = :id",
        path=" ".join(map(hash_of, range(500))),  # too much for an index
        id=hash_of("value", (3, 9)),
    )
    tried = target.run(in_file.uri, "--dry-run", "--report", str(tmp_path / "tried"))
    assert target.contents() == here
    moved = target.run(in_file.uri, "--report", str(tmp_path / "moved"))
    assert (tried.exit_code, counted(tried, "written")) == (9, {})
    for outcome in ("refused", "left out"):
        assert reported(tmp_path / "tried", outcome) == reported(tmp_path / "moved", outcome)
    assert {f"tag {hash_of('tag', 3, 0)}", f"file {hash_of('value', (3, 9))}"} < set(
        reported(tmp_path / "tried", "refused")
    )
    assert counted(tried, "left_out") == {"task": 1}
    assert counted(tried, "rows") == counted(moved, "rows")


def test_what_arrives_as_another_is_not_kept(in_file: RedunDatabase, target: Target) -> None:
    target.rows("""
        CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN NEW.path := upper(NEW.path); RETURN NEW; END $$;
        CREATE TRIGGER spoil BEFORE INSERT ON platform.value_file FOR EACH ROW EXECUTE FUNCTION spoil()
    """)
    spoiled = target.run(in_file.uri)
    assert (spoiled.exit_code, "value_file is not what was sent" in spoiled.stderr) == (11, True)
    assert (len(target.contents()["value"]), target.contents()["file"]) == (30, [])


def test_a_quota_that_is_used_up_ends_the_pass(
    in_file: RedunDatabase, target: Target, session: orm.Session
) -> None:
    """No row is at fault: with more room the next pass does the rest."""
    quota.set_limit(session, target.user_id, "database", 100)
    session.commit()
    full = target.run(in_file.uri)
    assert (full.exit_code, counted(full, "refused")) == (11, {})
    assert "database storage" in full.stderr

    quota.set_limit(session, target.user_id, "database", None)
    session.commit()
    assert target.run(in_file.uri).exit_code == 0
    assert target.rows(
        "SELECT quota_used FROM platform.user_resource JOIN platform.resource ON id_ = resource_id"
        " WHERE owner_id = :owner AND name = 'database storage'"
    ) == [(3 * sum(4 * (i + 1) for i in range(10)),)]


def test_rows_without_a_key_of_their_own_are_all_counted(
    in_file: RedunDatabase, target: Target, tmp_path: Path
) -> None:
    """Two keys that are no text are two rows, and none of them is taken for another row."""
    for number in (1, 2):
        in_file.execute(
            f"UPDATE tag SET tag_hash = CAST(x'61f{number}' AS TEXT) WHERE tag_hash = :id",
            id=hash_of("tag", 0, number - 1),
        )
        in_file.execute(
            f"UPDATE handle SET hash = '{number}' || char(0) WHERE hash = :id",
            id=hash_of("handle", 0, number - 1),
        )
    in_file.add("tag", tag_hash="a?", entity_type="Job", entity_id="j", key="k", value="1", is_current=True)
    moved = target.run(in_file.uri, "--report", str(tmp_path / "report"))
    assert moved.exit_code == 9
    assert counted(moved, "refused") == {"tag": 2, "tag_edit": 1, "handle": 2, "handle_edge": 1}
    assert {"tag a\\udcf1", "tag a\\udcf2", "handle 1\\x00", "handle 2\\x00"} < set(
        reported(tmp_path / "report", "refused")
    )
    assert counted(moved, "written")["tag"] == 5


def test_of_rows_with_the_same_key_the_first_moves(
    in_file: RedunDatabase, target: Target, tmp_path: Path
) -> None:
    """As a copy of a database may have them that lacks its keys."""
    doubled = ["value", "file", "call_node", "evaluation", "execution", "job", "tag", "handle"]
    for table in doubled:
        in_file.execute(f"CREATE TABLE copied AS SELECT * FROM {table}")
        in_file.execute(f"DROP TABLE {table}")
        in_file.execute(f"ALTER TABLE copied RENAME TO {table}")
        in_file.execute(f"INSERT INTO {table} SELECT * FROM {table} WHERE rowid = 1")
    in_file.execute(
        "UPDATE evaluation SET value_hash = :value WHERE rowid = 31", value=hash_of("value", (2, 1))
    )
    in_file.execute(
        "INSERT INTO tag SELECT NULL, entity_type, entity_id, key, value, is_current FROM tag LIMIT 2"
    )

    moved = target.run(in_file.uri, "--report", str(tmp_path / "report"))
    assert (moved.exit_code, counted(moved, "refused")) == (9, {"tag": 2}), moved.output
    reasons = set(reported(tmp_path / "report", "left out").values())
    assert (counted(moved, "left_out"), len(reasons)) == (dict.fromkeys(doubled, 1), 1)
    assert len(target.contents()["job"]) == 30
    assert counted(target.run(in_file.uri), "written") == {}


def test_rows_that_are_refused_together_alone_end_the_pass(in_file: RedunDatabase, target: Target) -> None:
    target.rows("""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE check_violation USING MESSAGE = 'not these'; END $$;
        CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON platform.value_file DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION refuse()
    """)
    refused = target.run(in_file.uri)
    assert refused.exit_code == 11
    line = command_line.one_line(refused.stderr)
    assert "rows of file are refused together, and none alone: not these (run this again;" in line


def test_times_that_no_calendar_has_are_refused(
    empty_database_uri: str, target: Target, tmp_path: Path
) -> None:
    """PostgreSQL has times that are infinite, before our era, or beyond the year 9999."""
    redun = RedunDatabase(empty_database_uri, 1)
    spoiled = {
        hash_of("job", 0, 1): "end_time = 'infinity'",
        hash_of("job", 0, 2): "start_time = '-infinity'",
        hash_of("job", 0, 3): "start_time = '2024-03-01 00:00:00 BC'",
        hash_of("job", 0, 4): "end_time = '10000-01-01'",
    }
    for id_, change in spoiled.items():
        redun.execute(f"UPDATE job SET {change} WHERE id = :id", id=id_)
    moved = target.run(redun.uri, "--report", str(tmp_path / "report"))
    assert (moved.exit_code, counted(moved, "written")["job"]) == (9, 6)
    assert reported(tmp_path / "report", "refused") == {
        f"job {id_}": f"its {change.partition(' ')[0]} is no time that the calendar has"
        for id_, change in spoiled.items()
    }
