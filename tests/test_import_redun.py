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

from platform_db.integrations.redun_import.tables import TABLES
from platform_db.testing import databases
from platform_db.transfer.one_at_a_time import only_one
from tests import command_line
from tests.factories import make_user
from tests.redun_source import RedunDatabase, hash_of
from tests.redun_target import Target, counted, reported


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


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RedunDatabase:
    """Make a small database in a file of SQLite."""
    return RedunDatabase.at(tmp_path_factory.mktemp("redun") / "redun.db", 3)


@pytest.fixture
def in_file(made: RedunDatabase, tmp_path: Path) -> RedunDatabase:
    """Give a copy of it."""
    return made.copy(tmp_path / "redun.db")


@pytest.fixture(params=["sqlite", "postgresql"])
def redun(request: pytest.FixtureRequest) -> RedunDatabase:
    """Give a database of 3 executions."""
    if request.param == "sqlite":
        return request.getfixturevalue("in_file")
    return RedunDatabase(request.getfixturevalue("empty_database_uri"), 3)


def test_all_of_a_database_moves(redun: RedunDatabase, target: Target) -> None:
    moved = target.run(redun.uri)

    assert moved.exit_code == 0, moved.output
    stored = {table.name: redun.execute(f"SELECT count(*) FROM {table.name}")[0][0] for table in TABLES}
    assert stored["job"] == 30
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
    redun.execute("UPDATE job SET end_time = NULL, call_hash = NULL WHERE id = :id", id=hash_of("job", 2, 0))
    assert target.run(redun.uri).exit_code == 0

    redun.fill(range(3, 4))
    redun.execute(
        "UPDATE job SET end_time = '2024-04-01 00:00:00.000000', call_hash = :call WHERE id = :id",
        id=hash_of("job", 2, 0),
        call=hash_of("call", 2, 0),
    )
    redun.execute(
        "UPDATE execution SET updated_time = '2024-04-01 00:00:00.000000' WHERE id = :id",
        id=hash_of("execution", 2),
    )
    redun.execute("UPDATE tag SET is_current = false WHERE tag_hash = :id", id=hash_of("tag", 2, 1))
    redun.execute("UPDATE handle SET is_valid = false WHERE hash = :id", id=hash_of("handle", 2, 1))
    value = redun.add_value("newer", b"newer")
    redun.add(
        "call_node",
        call_hash=hash_of("newer"),
        task_name="part",
        task_hash=hash_of("task", "part"),
        args_hash=hash_of("args", 2, 3),
        value_hash=value,
        timestamp="2024-04-01 00:00:00.000000",
    )
    redun.execute(
        "UPDATE evaluation SET value_hash = :value WHERE eval_hash = :id",
        value=value,
        id=hash_of("eval", 2, 3),
    )

    again = target.run(redun.uri)
    assert again.exit_code == 0, again.output
    assert counted(again, "written") | {
        "job": 11,
        "execution": 2,
        "tag": 3,
        "handle": 3,
        "evaluation": 11,
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


def test_another_user_has_none_of_it(in_file: RedunDatabase, target: Target, session: orm.Session) -> None:
    assert target.run(in_file.uri).exit_code == 0
    other = Target(target.uri, make_user(session, email="eve@example.org"))
    assert {name for name, rows in other.contents().items() if rows} == set()

    assert counted(other.run(in_file.uri), "written") == counted(
        target.run(in_file.uri), "rows"
    )  # And moves the same for itself.


def test_a_new_users_rows_are_found_by_their_keys(
    target: Target, session: orm.Session, tmp_path: Path
) -> None:
    """Statistics know no new user: an index by the owner alone looks as good, and reads all rows."""
    redun = RedunDatabase.at(tmp_path / "redun.db", 15)
    read = """
        SELECT sum(idx_tup_read)::int FROM pg_stat_user_indexes
        WHERE schemaname = 'platform' AND indexrelname LIKE 'ix%'
    """
    assert target.run(redun.uri).exit_code == 0  # Which ends with ANALYZE.
    ((before,),) = target.rows(read)
    other = Target(target.uri, make_user(session, email="eve@example.org"))
    assert other.run(redun.uri).exit_code == 0
    ((after,),) = target.rows(read)
    assert after - before < 150 * 150


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


def test_one_import_runs_at_a_time(in_file: RedunDatabase, target: Target, engine: sa.Engine) -> None:
    with only_one(orm.sessionmaker(engine)):
        assert target.run(in_file.uri).exit_code == 8


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
