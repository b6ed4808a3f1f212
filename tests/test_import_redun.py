"""Moving a redun database: all of it arrives as it is with one owner, and nothing that was there goes."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from platform_db import quota
from platform_db.integrations.redun_import import reading
from platform_db.integrations.redun_import.tables import TABLES
from platform_db.models import User
from platform_db.testing import databases
from platform_db.transfer.one_at_a_time import only_one
from tests import command_line
from tests.factories import make_user
from tests.redun_source import RedunDatabase, hash_of


class Target:
    """The database that is moved to, one user of it, and the command."""

    def __init__(self, uri: str, user: User) -> None:
        self.uri, self.user_id = uri, user.id_

    def run(self, source: str, *options: str, **variables: str) -> Any:
        return command_line.run(self.uri, *self.arguments(source, *options), **variables)

    def arguments(self, source: str, *options: str) -> tuple[str, ...]:
        return ("import", "redun", "--json", "--from", source, "--user", str(self.user_id), *options)

    def contents(self) -> dict[str, list[str]]:
        """Return what the user has in every table."""
        engine = sa.create_engine(self.uri)
        with engine.connect() as connection:
            rows = {
                table.name: connection.scalars(
                    sa.text(
                        f"SELECT (to_jsonb(t) - ARRAY['owner_id', 'seen_at'])::text AS row"
                        f" FROM platform.{table.target} AS t WHERE owner_id = :owner ORDER BY 1"
                    ),
                    {"owner": self.user_id},
                ).all()
                for table in TABLES
            }
        engine.dispose()
        return {name: list(found) for name, found in rows.items()}

    def rows(self, query: str, **values: Any) -> list[Any]:
        engine = sa.create_engine(self.uri)
        with engine.begin() as connection:
            result = connection.execute(sa.text(query), {"owner": self.user_id, **values})
            found = list(result.all()) if result.returns_rows else []
        engine.dispose()
        return found


@pytest.fixture
def target(database_uri: str, session: orm.Session) -> Target:
    return Target(database_uri, make_user(session, email="ada@example.org"))


@pytest.fixture
def make_target(postgres_server: Any, template_database: str) -> Iterator[Callable[[], Target]]:
    """Give ``make_target()``, another database to move to."""
    names: list[str] = []

    def make() -> Target:
        names.append(f"{postgres_server.prefix}redun_{random.randrange(10**9)}")
        uri = databases.create_database(postgres_server.uri, names[-1], template=template_database)
        engine = sa.create_engine(uri)
        with orm.Session(engine, expire_on_commit=False) as session:
            user = make_user(session, email="ada@example.org")
        engine.dispose()
        return Target(uri, user)

    yield make
    for name in names:
        databases.drop_database(postgres_server.uri, name)


@pytest.fixture(params=["sqlite", "postgresql"])
def redun(request: pytest.FixtureRequest, tmp_path: Path) -> RedunDatabase:
    """Give a database of 8 executions."""
    if request.param == "sqlite":
        return RedunDatabase.at(tmp_path / "redun.db", 8)
    return RedunDatabase(request.getfixturevalue("empty_database_uri"), 8)


@pytest.fixture
def in_file(tmp_path: Path) -> RedunDatabase:
    """Give a small database in a file of SQLite."""
    return RedunDatabase.at(tmp_path / "redun.db", 3)


def counted(result: Any, name: str) -> dict[str, int]:
    """Return the tables that have a number other than 0 in a column of the summary."""
    return {row["table"]: row[name] for row in json.loads(result.stdout) if row[name]}


def reported(file: Path, outcome: str) -> dict[str, str]:
    """Return the reasons that a report has for rows of an outcome, by table and id."""
    lines = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return {
        f"{line['table']} {line['id']}": line.get("reason", "")
        for line in lines
        if line["outcome"] == outcome
    }


def test_all_of_a_database_moves(redun: RedunDatabase, target: Target) -> None:
    moved = target.run(redun.uri)

    assert moved.exit_code == 0, moved.output
    stored = {table.name: redun.execute(f"SELECT count(*) FROM {table.name}")[0][0] for table in TABLES}
    assert stored["job"] == 80
    assert counted(moved, "rows") == counted(moved, "written") == stored
    assert {name: len(rows) for name, rows in target.contents().items()} == stored
    assert counted(target.run(redun.uri), "written") == {}
    checked = command_line.run(target.uri, "db", "check", "--deep")
    assert checked.exit_code == 0, checked.output


def test_rows_arrive_as_they_were(redun: RedunDatabase, target: Target) -> None:
    assert target.run(redun.uri).exit_code == 0

    ((start, end, cached, parent),) = target.rows(
        "SELECT start_time, end_time, cached, parent_id FROM platform.call_job WHERE id = :id",
        id=hash_of("job", 1, 3),
    )
    assert (start.isoformat(), end.isoformat()[:22]) == (
        "2024-03-02T00:00:03+00:00",
        "2024-03-02T00:00:13.50",
    )
    assert (cached, parent) == (True, hash_of("job", 1, 0))
    assert target.rows(
        "SELECT encode(value, 'hex'), size FROM platform.value WHERE value_hash = :hash",
        hash=hash_of("value", (1, 9)),
    ) == [("09005cff" * 10, 40)]
    assert target.rows("SELECT source FROM platform.call_task WHERE name = 'part'") == [
        ("def part():\n\treturn '\\é'\n",)
    ]
    assert target.rows(
        "SELECT value FROM platform.entity_tag WHERE tag_hash = :hash", hash=hash_of("tag", 2, 1)
    ) == [({"b": [1, 1.5, None, "\\u0000 é"], "a": 2},)]
    ((args,),) = target.rows(
        "SELECT args FROM platform.call_execution WHERE id = :id", id=hash_of("execution", 0)
    )
    assert json.loads(args)[2] == "wörk\tflow.py"


def test_both_kinds_of_database_arrive_alike(
    in_file: RedunDatabase, empty_database_uri: str, target: Target, make_target: Callable[[], Target]
) -> None:
    other = make_target()
    assert target.run(in_file.uri).exit_code == 0
    assert other.run(RedunDatabase(empty_database_uri, 3).uri).exit_code == 0

    assert target.contents() == other.contents()


def test_another_pass_brings_what_has_come_since(
    redun: RedunDatabase, target: Target, make_target: Callable[[], Target]
) -> None:
    redun.execute("UPDATE job SET end_time = NULL, call_hash = NULL WHERE id = :id", id=hash_of("job", 7, 0))
    assert target.run(redun.uri).exit_code == 0

    redun.fill(range(8, 10))
    redun.execute(
        "UPDATE job SET end_time = '2024-04-01 00:00:00.000000', call_hash = :call WHERE id = :id",
        id=hash_of("job", 7, 0),
        call=hash_of("call", 7, 0),
    )
    redun.execute(
        "UPDATE execution SET updated_time = '2024-04-01 00:00:00.000000' WHERE id = :id",
        id=hash_of("execution", 7),
    )
    redun.execute("UPDATE tag SET is_current = false WHERE tag_hash = :id", id=hash_of("tag", 7, 1))
    redun.execute("UPDATE handle SET is_valid = false WHERE hash = :id", id=hash_of("handle", 7, 1))
    value = redun.add_value("newer", b"newer")
    redun.add(
        "call_node",
        call_hash=hash_of("newer"),
        task_name="part",
        task_hash=hash_of("task", "part"),
        args_hash=hash_of("args", 7, 3),
        value_hash=value,
        timestamp="2024-04-01 00:00:00.000000",
    )
    redun.execute(
        "UPDATE evaluation SET value_hash = :value WHERE eval_hash = :id",
        value=value,
        id=hash_of("eval", 7, 3),
    )

    again = target.run(redun.uri)
    assert again.exit_code == 0, again.output
    assert counted(again, "written") | {
        "job": 21,
        "execution": 3,
        "tag": 5,
        "handle": 5,
        "evaluation": 21,
    } == (counted(again, "written"))
    assert counted(again, "left_out") == {}
    fresh = make_target()
    assert fresh.run(redun.uri).exit_code == 0
    assert target.contents() == fresh.contents()


def test_what_the_user_has_stays(redun: RedunDatabase, target: Target, tmp_path: Path) -> None:
    """A later pass takes back nothing that was done here, and several databases move to one user."""
    assert target.run(redun.uri).exit_code == 0
    other = RedunDatabase.at(tmp_path / "other.db", 1)
    other.fill(range(50, 52))
    target.rows(
        "UPDATE platform.entity_tag SET is_current = false WHERE tag_hash = :id", id=hash_of("tag", 1, 1)
    )
    target.rows(
        "INSERT INTO platform.value (owner_id, value_hash, type, format, value, size)"
        " VALUES (:owner, 'here', 't', 'f', 'x', 1)"
    )
    target.rows(
        "INSERT INTO platform.call_node"
        " SELECT owner_id, 'here', task_name, task_hash, args_hash, 'here', now()"
        " FROM platform.call_node WHERE call_hash = :id",
        id=hash_of("call", 1, 1),
    )
    target.rows(
        "UPDATE platform.evaluation SET value_hash = 'here' WHERE eval_hash = :id", id=hash_of("eval", 1, 1)
    )
    here = target.contents()

    again = target.run(redun.uri, "--report", str(tmp_path / "report"))
    assert again.exit_code == 0, again.output
    assert counted(again, "written") == {}
    assert counted(again, "left_out") == {"tag": 1, "evaluation": 1}
    assert set(reported(tmp_path / "report", "left out")) == {
        f"tag {hash_of('tag', 1, 1)}",
        f"evaluation {hash_of('eval', 1, 1)}",
    }
    assert target.contents() == here
    assert counted(target.run(other.uri), "written")["job"] == 20
    assert {name for name, rows in target.contents().items() if not set(here[name]) <= set(rows)} == set()


def test_another_user_has_none_of_it(in_file: RedunDatabase, target: Target, session: orm.Session) -> None:
    assert target.run(in_file.uri).exit_code == 0
    other = Target(target.uri, make_user(session, email="eve@example.org"))
    assert {name for name, rows in other.contents().items() if rows} == set()

    assert counted(other.run(in_file.uri), "written") == counted(
        target.run(in_file.uri), "rows"
    )  # And moves the same for itself.


def killed_and_resumed(source: RedunDatabase, target: Target, times: int, seconds: float) -> Any:
    """Kill the command so often, after a random part of so many seconds, and then let it end."""
    arguments = target.arguments(source.uri, "--batch", "20")
    for _ in range(times):
        process = command_line.start(target.uri, *arguments)
        time.sleep(random.uniform(seconds / 4, seconds))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    return command_line.run(target.uri, *arguments)


def test_killed_and_resumed_it_is_the_same(
    tmp_path: Path, target: Target, make_target: Callable[[], Target]
) -> None:
    redun = RedunDatabase.at(tmp_path / "redun.db", 40)
    resumed = killed_and_resumed(redun, target, 2, 4.0)
    assert resumed.exit_code == 0, resumed.output
    whole = make_target()
    assert whole.run(redun.uri).exit_code == 0
    assert target.contents() == whole.contents()


@pytest.mark.soak
def test_killed_at_ten_moments_it_is_the_same(
    tmp_path: Path, target: Target, make_target: Callable[[], Target]
) -> None:
    redun = RedunDatabase.at(tmp_path / "redun.db", 200)
    whole = make_target()
    started = time.monotonic()
    assert whole.run(redun.uri, "--batch", "20").exit_code == 0
    resumed = killed_and_resumed(redun, target, 10, time.monotonic() - started + 2)
    assert resumed.exit_code == 0, resumed.output
    assert target.contents() == whole.contents()


def test_what_arrives_as_another_is_not_kept(in_file: RedunDatabase, target: Target) -> None:
    target.rows("""
        CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN NEW.path := upper(NEW.path); RETURN NEW; END $$;
        CREATE TRIGGER spoil BEFORE INSERT ON platform.value_file FOR EACH ROW EXECUTE FUNCTION spoil()
    """)
    spoiled = target.run(in_file.uri)
    assert (spoiled.exit_code, "value_file is not what was sent" in spoiled.stderr) == (11, True)
    assert (len(target.contents()["value"]), target.contents()["file"]) == (30, [])


def test_a_dry_run_says_what_would_be_and_writes_nothing(redun: RedunDatabase, target: Target) -> None:
    redun.execute("DELETE FROM task WHERE name = 'part'")
    tried = target.run(redun.uri, "--dry-run")
    assert tried.exit_code == 9
    assert counted(tried, "written") == {}
    assert {name for name, rows in target.contents().items() if rows} == set()

    moved = target.run(redun.uri)
    assert (counted(moved, "rows"), counted(moved, "refused")) == (
        counted(tried, "rows"),
        counted(tried, "refused"),
    )
    assert counted(moved, "refused")["call_node"] == 72
    assert counted(moved, "written")["value"] == 80


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


def test_an_execution_may_go_on_from_a_job_of_another(in_file: RedunDatabase, target: Target) -> None:
    ids = sorted(in_file.execute("SELECT rowid, id FROM execution"))
    first, last = ids[0][1], ids[-1][1]
    in_file.execute(
        "UPDATE job SET parent_id = (SELECT job_id FROM execution WHERE id = :last)"
        " WHERE id = (SELECT job_id FROM execution WHERE id = :first)",
        first=first,
        last=last,
    )
    moved = target.run(in_file.uri, "--batch", "10")
    assert moved.exit_code == 0, moved.output
    assert counted(moved, "written")["job"] == 30


def test_the_first_row_of_a_key_stays(in_file: RedunDatabase, target: Target, tmp_path: Path) -> None:
    """As with redun: the same call, task or value may have been recorded elsewhere, at another time."""
    assert target.run(in_file.uri).exit_code == 0
    here = target.contents()
    in_file.execute("UPDATE task SET source = 'other' WHERE name = 'part'")
    in_file.execute("UPDATE value SET value = x'0102' WHERE value_hash = :id", id=hash_of("value", (1, 1)))
    in_file.execute(
        "UPDATE call_node SET timestamp = '2023-01-01 00:00:00' WHERE call_hash = :id",
        id=hash_of("call", 1, 1),
    )

    again = target.run(in_file.uri, "--report", str(tmp_path / "report"))
    assert again.exit_code == 0, again.output
    assert (counted(again, "written"), target.contents()) == ({}, here)
    assert reported(tmp_path / "report", "left out") == dict.fromkeys(
        [
            f"value {hash_of('value', (1, 1))}",
            f"task {hash_of('task', 'part')}",
            f"call_node {hash_of('call', 1, 1)}",
        ],
        "another one of this key is here: that one stays",
    )


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


def test_a_report_takes_the_place_of_reports_alone(in_file: RedunDatabase, target: Target) -> None:
    path = Path(str(sa.make_url(in_file.uri).database))
    in_file.engine.dispose()
    before = path.read_bytes()
    refused = target.run(in_file.uri, "--report", str(path))
    assert (refused.exit_code, path.read_bytes() == before) == (2, True)
    assert "is no report" in refused.stderr


def test_a_store_that_is_no_directory_says_what_to_do(in_file: RedunDatabase, target: Target) -> None:
    remote = target.run(in_file.uri, "--value-store", "s3://bucket/values")
    assert remote.exit_code == 2
    assert f"s3://bucket/values/{target.user_id}/" in remote.stderr
    assert target.run(in_file.uri, "--value-store", "/no/such/directory").exit_code == 2


def test_a_value_that_no_row_can_hold_is_refused(
    in_file: RedunDatabase, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "LARGEST_BYTES", 100)
    large = in_file.add_value("large", bytes(101))
    moved = target.run(in_file.uri, "--report", str(tmp_path / "report"))
    assert (moved.exit_code, counted(moved, "refused")) == (9, {"value": 1})
    assert "larger than 100 bytes" in reported(tmp_path / "report", "refused")[f"value {large}"]


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


@pytest.mark.parametrize(
    ("change", "exit_code", "says"),
    [
        ("UPDATE alembic_version SET version_num = '3b0a6e67cc58'", 6, "redun db upgrade"),
        ("UPDATE alembic_version SET version_num = 'ffffffffffff'", 7, "0.44.1"),
        ("UPDATE redun_version SET version = 4", 7, "0.44.1"),
        ("DELETE FROM alembic_version", 6, "redun db upgrade"),
        ("DROP TABLE redun_version", 11, "no redun database"),
    ],
)
def test_a_database_of_another_version_is_refused(
    redun: RedunDatabase, target: Target, change: str, exit_code: int, says: str
) -> None:
    redun.execute(change)
    refused = target.run(redun.uri)
    assert refused.exit_code == exit_code, refused.output
    assert says in refused.stderr


def test_what_cannot_be_read_is_named(target: Target, tmp_path: Path) -> None:
    assert target.run(f"sqlite:///{tmp_path}/none.db").exit_code == 4
    (tmp_path / "text").write_text("no database" * 100)
    broken = target.run(f"sqlite:///{tmp_path}/text")
    assert (broken.exit_code, "not a database" in broken.stderr) == (4, True)
    assert target.run("sqlite://").exit_code == 3
    assert target.run("postgresql://127.0.0.1:1/redun").exit_code == 4
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


def test_one_import_runs_at_a_time(in_file: RedunDatabase, target: Target, engine: sa.Engine) -> None:
    with only_one(orm.sessionmaker(engine)):
        assert target.run(in_file.uri).exit_code == 8


def test_the_source_is_only_read(in_file: RedunDatabase, target: Target) -> None:
    path = Path(str(sa.make_url(in_file.uri).database))
    in_file.engine.dispose()
    before, files = path.read_bytes(), set(path.parent.iterdir())
    path.chmod(0o400)
    assert target.run(in_file.uri).exit_code == 0
    assert path.read_bytes() == before
    assert set(path.parent.iterdir()) == files


def test_the_commands_of_the_page_run(in_file: RedunDatabase, target: Target, tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "moving-from-redun.rst").read_text(encoding="utf-8")
    commands = re.findall(r"^ +\$ platform-db (import .*)$", page, re.MULTILINE)
    assert len(commands) == 3
    (tmp_path / "values").mkdir()
    for command in commands:
        for stands, here in {
            "sqlite:///.redun/redun.db": in_file.uri,
            "report.jsonl": f"{tmp_path}/report",
            "/data/values": f"{tmp_path}/values",
        }.items():
            command = command.replace(stands, here)
        ran = command_line.run(target.uri, *shlex.split(command))
        assert ran.exit_code == 0, ran.output


@pytest.mark.soak
def test_memory_does_not_grow_with_the_number_of_rows(
    tmp_path: Path, make_target: Callable[[], Target]
) -> None:
    peaks = []
    for executions in (50, 500):
        redun = RedunDatabase.at(tmp_path / f"{executions}.db", executions)
        target = make_target()
        command = [sys.executable, "-c", MEASURED, *target.arguments(redun.uri, "--batch", "500")]
        ran = subprocess.run(
            command,
            env={**os.environ, "PLATFORM_DB_URI": target.uri},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        peaks.append(int(ran.stderr.splitlines()[-1]))
    assert peaks[1] < peaks[0] + 8 * 1024  # KiB


MEASURED = """
import resource, sys
from platform_db.cli import main
try:
    main(sys.argv[1:])
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""
