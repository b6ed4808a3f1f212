"""redun's workflows on platform-db: fresh and cached, in other processes, for two tenants, and exchanged."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors, sessions, settings
from platform_db.tenancy.privileges import Role, role_name
from platform_db.users import find_user
from tests.factories import make_run, make_user
from tests.tenants import login_engine, prepare_roles

pytest.importorskip("redun", reason="redun is not installed: pip install platform-db[redun]")

from redun import Handle, Scheduler, task
from redun.backends.base import TagEntity
from redun.backends.db import (
    REDUN_DB_VERSIONS,
    CallNode,
    Execution,
    Job,
    RedunBackendDb,
    RedunVersionError,
    Tag,
    Value,
)
from redun.backends.db.serializers import ValueSerializer
from redun.config import Config
from redun.task import CacheCheckValid, CacheResult, CacheScope, hash_args_eval
from redun.value import get_type_registry

from platform_db.database.kept_connection import KeptConnection
from platform_db.integrations.redun import setup_scheduler, upcoming
from platform_db.integrations.redun.backend import PlatformBackend
from platform_db.integrations.redun.serializing import hash_evaluation
from platform_db.provenance import Recorder, calls

ROOT = Path(__file__).parents[1]
redun_namespace = "tests"

ran: list[int] = []


@task()
def square(x: int) -> int:
    ran.append(x)
    return x * x


@task()
def total(values: list[int]) -> int:
    return sum(values)


@task()
def squares(n: int) -> Any:
    return total([square(i) for i in range(n)])


@task(config_args=["note"])
def power(x: int, exponent: int = 2, *, note: str = "") -> int:
    return int(x**exponent)


@task()
def powers(n: int, note: str) -> Any:
    """Call in each way: with defaults, by keys, with what does not count, nested, and with results."""
    calls = {
        i: [power(i), power(x=i, exponent=3), power(i, 4, note=note), total([i, square(i)])] for i in range(n)
    }
    return total([*[one for several in calls.values() for one in several], total([n])])


@task(check_valid=CacheCheckValid.SHALLOW)
def shallow(x: int) -> Any:
    return square(x)


class Connection(Handle):
    def __init__(self, name: str) -> None:
        self.instance = None


@task()
def write(connection: Connection) -> Connection:
    ran.append(0)
    return connection


made: list[PlatformBackend] = []


@pytest.fixture(autouse=True)
def _end_what_ran(configured_database: str) -> Iterator[None]:
    ran.clear()
    yield
    while made:
        made.pop().close()


@pytest.fixture
def owner(configured_database: str, session: Session) -> str:
    return make_user(session, email="ada@example.org").email


@pytest.fixture
def other(configured_database: str, session: Session) -> str:
    return make_user(session, email="grace@example.org").email


def scheduler_of(owner: str, **backend: str) -> Scheduler:
    uri = f"platformdb://configured?owner={owner}"
    scheduler = Scheduler(config=Config({"backend": {"db_uri": uri, **backend}}))
    scheduler.load()
    made.append(scheduler.backend)
    return scheduler


def count(session: Session, table: str) -> int:
    return session.scalar(sa.text(f"SELECT count(*) FROM platform.{table}")) or 0


def test_a_workflow_runs_once_and_is_taken_from_the_cache_then(owner: str, session: Session) -> None:
    assert scheduler_of(owner).run(squares(5)) == 30
    assert sorted(ran) == [0, 1, 2, 3, 4]
    ran.clear()

    assert scheduler_of(owner).run(squares(5)) == 30

    assert ran == []
    assert (count(session, "call_node"), count(session, "call_execution")) == (7, 2)
    assert session.execute(
        sa.text("SELECT cached, count(*) FROM platform.call_job GROUP BY cached ORDER BY cached")
    ).all() == [(False, 7), (True, 7)]


def test_a_job_whose_result_is_cached_is_recorded_once(owner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler_of(owner).run(squares(5))
    recorded = Counter[str]()
    put = Recorder.put

    def count_jobs(recorder: Recorder, table: str, key: Any, row: Any, method: str) -> None:
        recorded[method] += table == "call_job"
        put(recorder, table, key, row, method)

    monkeypatch.setattr(Recorder, "put", count_jobs)

    scheduler_of(owner).run(squares(5))

    # An execution is begun with its first job, which ends last; the other results name no further calls.
    assert +recorded == {"record_job_start": 7, "record_job_end": 1}


def test_a_job_whose_cached_result_is_final_has_ended_when_it_starts(owner: str, session: Session) -> None:
    ended = []

    @task()
    def outer() -> list[int]:
        return [*(square(x) for x in range(3)), now()]

    @task(cache=False)
    def now() -> int:
        made[-1].recorder.flush()
        ended.append(session.scalar(sa.text("SELECT count(*) FROM platform.call_job WHERE cached")))
        return 1

    for _ in range(2):
        assert scheduler_of(owner).run(outer()) == [0, 1, 4, 1]

    assert ended == [0, 3]
    jobs = sa.text("SELECT count(*) FROM platform.call_job WHERE end_time >= start_time GROUP BY call_hash")
    assert session.scalars(jobs).all() == [2] * 5, "of the same calls"


def test_an_evaluation_that_is_replaced_while_it_is_fetched_is_forgotten(owner: str) -> None:
    scheduler_of(owner).run(squares(3))
    upcoming = scheduler_of(owner).backend.upcoming
    _, args_hash = hash_args_eval(get_type_registry(), squares, (3,), {})
    eval_hash, _ = hash_args_eval(get_type_registry(), square, (2,), {})

    upcoming.fetch(squares.hash, args_hash)
    upcoming.forget(eval_hash)
    assert upcoming.find(eval_hash) is None

    upcoming.fetch(squares.hash, args_hash)
    found = upcoming.find(eval_hash)
    assert found
    assert found.call_hash is not None


def test_what_runs_below_calls_that_are_cached_is_recorded_with_them_when_it_starts(
    owner: str, session: Session
) -> None:
    unfinished = []

    @task()
    def outer(depth: int) -> Any:
        return outer(depth - 1) if depth else now()

    @task(cache=False)
    def now() -> int:
        made[-1].recorder.flush()
        unfinished.append(
            session.execute(
                sa.text("SELECT cached, parent_id IS NULL FROM platform.call_job WHERE end_time IS NULL")
            ).all()
        )
        return 1

    for _ in range(2):
        assert scheduler_of(owner).run(outer(3)) == 1

    # Four cached jobs and the one that runs. None has an end, by which the database knows what is cached.
    assert unfinished == [[(False, True), *[(False, False)] * 4]] * 2
    assert count(session, "call_job") == 10


def test_the_calls_that_a_result_names_are_looked_up_together(
    owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    execute = KeptConnection.execute

    def count_reads(connection: KeptConnection, *statement: Any) -> Any:
        reads.append(statement)
        return execute(connection, *statement)

    monkeypatch.setattr(KeptConnection, "execute", count_reads)

    scheduler_of(owner).run(powers(20, "once"))

    # Of 20 sums and the last one the arguments are results; of 61 other calls they are plain.
    assert len(reads) <= 21 + 5
    reads.clear()
    scheduler_of(owner).run(powers(30, "again"))
    assert sorted(ran) == list(range(30)), "ten are new"
    assert len(reads) <= 31 + 5


def test_a_call_that_was_not_stored_before_is_asked_for_again_a_moment_later(
    owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler, later = scheduler_of(owner), scheduler_of(owner)
    expect = upcoming.Upcoming.expect

    def let_another_run(self: upcoming.Upcoming, result: Any) -> None:
        expect(self, result)
        if not ran:
            scheduler.backend.upcoming.find("any")  # The page is looked up: nothing is there yet.
            monkeypatch.setattr(upcoming.Upcoming, "expect", expect)
            later.run(squares(3))

    monkeypatch.setattr(upcoming.Upcoming, "expect", let_another_run)
    monkeypatch.setattr(upcoming, "MISSING", 0)

    assert scheduler.run(squares(3)) == 5
    assert sorted(ran) == [0, 1, 2]


def test_what_is_recorded_and_not_written_yet_is_not_taken_for_missing(owner: str) -> None:
    backend = scheduler_of(owner).backend
    args, eval_hash = "a" * 40, hash_evaluation(square.hash, "a" * 40)
    backend.record_value(square)
    with backend.recorder.together():  # The writer waits for it.
        backend.set_eval_cache(eval_hash, square.hash, args, 49)
        backend.upcoming.expect([square(7), square(8)])
        backend.upcoming._results.append(iter([eval_hash]))
        assert backend.upcoming.find("another") is False
    backend.recorder.flush()

    found = backend.check_cache(
        square.hash, args, eval_hash, "none", set(), CacheScope.BACKEND, CacheCheckValid.FULL
    )
    assert found == (49, None, CacheResult.SINGLE)


def test_shallow_calls_and_calls_without_cache_are_not_looked_up_ahead(owner: str) -> None:
    upcoming = scheduler_of(owner).backend.upcoming
    upcoming.expect([shallow(1), square.options(cache=False)(2), square.options(check_valid="shallow")(3)])

    assert upcoming.find("another") is None


def test_what_was_recorded_is_seen_by_redun_s_own_queries_at_once(owner: str) -> None:
    scheduler = scheduler_of(owner)
    scheduler.run(squares(2))
    session = scheduler.backend.session

    assert {job.status for job in session.query(Job)} == {"DONE"}
    (execution,) = session.query(Execution)
    assert execution.job.call_node.value_parsed == 1
    assert sorted(child.task_name for child in execution.call_node.children) == [
        "tests.square",
        "tests.square",
        "tests.total",
    ]


def test_a_value_belongs_to_its_owner_alone(owner: str, other: str, tmp_path: Path) -> None:
    """The login of the tests owns the tables: no policy applies to it."""
    store = {"value_store_path": str(tmp_path), "value_store_min_size": "100"}
    ours, theirs = scheduler_of(owner, **store).backend, scheduler_of(other, **store).backend
    small, large = ours.record_value("guess me"), ours.record_value("x" * 200)
    ours.recorder.flush()

    for value_hash in (small, large):
        assert ours.get_value(value_hash)[1] is True
        assert theirs.get_value(value_hash) == (None, False)
        assert theirs.session.get(Value, value_hash) is None
        assert theirs.value_store.has(value_hash) is False
    assert theirs.session.query(Value).count() == 0
    theirs.record_value("guess me")
    assert theirs.get_value(small) == ("guess me", True)


def test_the_bytes_of_a_value_in_files_are_its_size(owner: str, tmp_path: Path, session: Session) -> None:
    backend = scheduler_of(owner, value_store_path=str(tmp_path), value_store_min_size="100").backend
    backend.record_value(b"x" * 1000)
    backend.recorder.flush()

    size, stored = session.execute(sa.text("SELECT size, octet_length(value) FROM platform.value")).one()
    assert (size > 1000, stored) == (True, 0)


def test_a_file_that_a_kill_cut_short_is_written_again_and_a_whole_one_is_kept_from_pruning(
    owner: str, tmp_path: Path
) -> None:
    store = {"value_store_path": str(tmp_path), "value_store_min_size": "10"}
    value = "x" * 100
    value_hash = scheduler_of(owner, **store).backend.record_value(value)
    (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
    data = file.read_bytes()
    file.write_bytes(data[:50])
    again = scheduler_of(owner, **store).backend
    again.recorder._known.forget()
    again.record_value(value)
    assert again.get_value(value_hash) == (value, True)
    os.utime(file, (0, 0))
    again.recorder._known.forget()
    again.record_value(value)
    assert (file.read_bytes(), file.stat().st_mtime > 0) == (data, True)


def test_other_databases_stay_redun_s(owner: str) -> None:
    scheduler_of(owner)  # From here on platform-db's addresses are known.

    assert type(RedunBackendDb("sqlite:///:memory:")) is RedunBackendDb


def test_the_line_in_the_configuration_replaces_sqlite(owner: str) -> None:
    config = Config({"backend": {"db_uri": "sqlite:///redun.db", "owner": owner}})
    scheduler = setup_scheduler(config)
    scheduler.load()

    assert isinstance(scheduler.backend, PlatformBackend)
    made.append(scheduler.backend)
    assert config["backend"]["db_uri"] == f"platformdb://configured?owner={owner}"
    assert scheduler.run(squares(2)) == 1


def test_an_upgrade_goes_to_no_older_version(owner: str) -> None:
    backend = scheduler_of(owner).backend
    oldest, newest = REDUN_DB_VERSIONS[0], REDUN_DB_VERSIONS[-1]

    backend.migrate(oldest, upgrade_only=True)

    assert backend.get_db_version() == newest
    with pytest.raises(RedunVersionError, match="platform-db alembic downgrade"):
        backend.migrate(oldest)


def test_a_run_must_be_named_by_its_id(owner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLATFORM_DB_WORKFLOW_ID", "analysis")
    settings.reset_settings()
    with pytest.raises(errors.InvalidSetting, match="PLATFORM_DB_WORKFLOW_ID"):
        scheduler_of(owner)


def test_executions_belong_to_the_run_of_their_owner_that_is_named(
    owner: str, other: str, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(session, find_user(session, owner))
    session.commit()
    monkeypatch.setenv("PLATFORM_DB_WORKFLOW_ID", str(run.id_))
    settings.reset_settings()
    scheduler_of(owner).run(squares(2))

    assert session.scalars(sa.text("SELECT workflow_id FROM platform.call_execution")).all() == [run.id_]
    with pytest.raises(errors.WorkflowNotFound):
        scheduler_of(other)


@pytest.mark.parametrize("in_address", [True, False])
def test_a_backend_works_as_the_role_of_tenants_where_it_is_asked_to(
    owner: str, other: str, engine: sa.Engine, session: Session, monkeypatch: Any, *, in_address: bool
) -> None:
    session.rollback()
    prepare_roles(engine)
    scheduler_of(other).run(squares(2))
    owner_id = find_user(session, owner).id_
    monkeypatch.setattr(sessions, "_engine", login_engine(engine, "redun_service", Role.service))
    if in_address:
        scheduler = scheduler_of(f"{owner_id}&as_tenant=true")
    else:
        scheduler = scheduler_of(str(owner_id), as_tenant="True")
    scheduler.run(squares(3))

    count = sa.text("SELECT current_user, count(*) FROM platform.call_node GROUP BY 1")
    assert scheduler.backend.session.execute(count).all() == [(role_name(Role.tenant), 5)]
    assert scheduler.backend.recorder.reading.execute(count.text) == [(role_name(Role.tenant), 5)]
    assert "as_tenant=true" in scheduler.backend.db_uri, "a sub-scheduler has it, too"
    with pytest.raises(errors.InvalidSetting, match="as_tenant"):
        scheduler_of(owner, as_tenant="perhaps")


def test_an_owner_must_be_named_and_known(configured_database: str) -> None:
    with pytest.raises(errors.InvalidSetting, match="whose call graph") as raised:
        setup_scheduler(Config({"backend": {}}))
    assert "platformdb://configured?owner=USER" in str(raised.value.hint)
    with pytest.raises(errors.UserNotFound):
        scheduler_of("nobody@example.org")


def test_a_server_that_is_gone_is_said_in_one_line() -> None:
    backend = PlatformBackend("platformdb://127.0.0.1:1/none?owner=ada@example.org")
    with pytest.raises(errors.Unreachable, match=r"127\.0\.0\.1:1 is not running"):
        backend.load()


PROGRAM = """
    import logging, sys
    from redun import Scheduler, task
    from redun.config import Config
    from redun.scheduler import subrun

    redun_namespace = "other_process"
    logging.getLogger("redun").setLevel(logging.ERROR)

    @task()
    def double(x: int) -> int:
        return 2 * x

    @task()
    def main(x: int):
        return subrun(double(x), executor="process") if sys.argv[2:] else double(x)

    if __name__ == "__main__":
        scheduler = Scheduler(config=Config({"backend": {"db_uri": sys.argv[1]}}))
        scheduler.load()
        assert scheduler.run(main(21)) == 42
        print(type(scheduler.backend).__name__)
"""


@pytest.mark.parametrize("with_sub_scheduler", [False, True])
def test_a_process_finds_it_by_the_address_alone(
    owner: str, session: Session, tmp_path: Path, with_sub_scheduler: bool
) -> None:
    (tmp_path / "other_process.py").write_text(textwrap.dedent(PROGRAM))
    arguments = ["-m", "other_process", f"platformdb://configured?owner={owner}"]
    printed = subprocess.run(
        [sys.executable, *arguments, *(["sub"] if with_sub_scheduler else [])],
        cwd=tmp_path,
        env=environment(),
        check=True,
        capture_output=True,
        text=True,
    ).stdout

    assert printed.strip() == "PlatformBackend"
    assert count(session, "call_execution") == 1
    tasks = session.scalars(sa.text("SELECT task_name FROM platform.call_node ORDER BY 1")).all()
    assert "other_process.double" in tasks
    assert ("redun.subrun_root_task" in tasks) is with_sub_scheduler
    lost = sa.text("SELECT count(*) FROM platform.call_job WHERE end_time IS NULL OR call_hash IS NULL")
    assert session.scalar(lost) == 0


def environment() -> dict[str, str]:
    """Return a process's own environment: where the database and the package are, and no more."""
    import os

    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{ROOT}:.",
        "PLATFORM_DB_URI": os.environ["PLATFORM_DB_URI"],
    }


def pull(source: Any, target: Any) -> int:
    """Do as ``redun pull`` does."""
    roots = [id_ for (id_,) in source.session.query(Execution.id)]
    return target.put_records(source.get_records(source.iter_record_ids(roots)))


def test_after_a_pull_a_run_is_all_hits(owner: str, other: str, session: Session) -> None:
    source, target = scheduler_of(owner), scheduler_of(other)
    source.run(squares(3))
    ran.clear()

    assert pull(source.backend, target.backend) > 0
    assert pull(source.backend, target.backend) == 0
    assert target.run(squares(3)) == 5

    assert ran == []
    cached = target.backend.session.query(Job).filter(Job.cached.is_(True)).count()
    assert cached == 5


@pytest.mark.parametrize("has_store", [True, False])
def test_bytes_in_files_travel(owner: str, other: str, tmp_path: Path, *, has_store: bool) -> None:
    store = {"value_store_path": str(tmp_path / "source"), "value_store_min_size": "10"}
    source = scheduler_of(owner, **store).backend
    value_hash = source.record_value("x" * 100)
    store["value_store_path"] = str(tmp_path / "target")
    target = scheduler_of(other, **(store if has_store else {})).backend
    target.put_records(source.get_records([value_hash]))

    assert target.get_value(value_hash) == ("x" * 100, True)
    assert (tmp_path / "target").exists() == has_store


def test_after_a_pull_a_shallow_run_sees_that_a_task_below_has_changed(owner: str, other: str) -> None:
    stock = Scheduler(config=Config({"backend": {"db_uri": "sqlite:///:memory:"}}))
    stock.load()
    for source in (scheduler_of(owner), stock):
        assert source.run(shallow(10)) == 100
    targets = [scheduler_of(other), scheduler_of(owner)]
    for source, target in zip((scheduler_of(owner), stock), targets, strict=True):
        pull(source.backend, target.backend)

    @task(namespace="tests", name="square")
    def changed(x: int) -> int:
        return x * x + 1

    try:
        for target in targets:
            assert target.run(shallow(10)) == 101
    finally:
        task(namespace="tests", name="square")(square.func)


def test_records_are_redun_s_own_where_there_is_nothing_to_add(owner: str) -> None:
    backend = scheduler_of(owner).backend
    value = backend.record_value([1])

    (record,) = backend.get_records([value])

    row = backend.session.get(Value, value)
    assert record == ValueSerializer(REDUN_DB_VERSIONS[-1]).serialize(row)


@pytest.mark.parametrize("n", [1, 20])
def test_records_are_read_by_the_hundred(owner: str, n: int) -> None:
    scheduler = scheduler_of(owner)
    scheduler.run(squares(n))
    backend = scheduler.backend
    ids = list(backend.iter_record_ids([id_ for (id_,) in backend.session.query(Execution.id)]))
    statements: list[str] = []
    sa.event.listen(backend.engine, "after_cursor_execute", lambda *given: statements.append(given[2]))

    assert len(list(backend.get_records(ids))) == len(ids)

    assert len(statements) <= 20 * math.ceil(len(ids) / 100)


def test_handles_travel(owner: str, other: str) -> None:
    source, target = scheduler_of(owner), scheduler_of(other)
    connection = source.run(write(Connection("db")))
    ran.clear()

    pull(source.backend, target.backend)

    assert target.backend.is_valid_handle(connection)
    assert target.run(write(Connection("db"))).get_hash() == connection.get_hash()
    assert ran == []


def test_a_handle_that_is_rolled_back_is_invalid_for_others_at_once(owner: str) -> None:
    first, second = scheduler_of(owner).backend, scheduler_of(owner).backend
    start = Connection("db")
    later = start.fork("1")
    first.advance_handle([start], later)
    first.recorder.flush()
    assert second.is_valid_handle(later)

    first.rollback_handle(start)

    assert second.is_valid_handle(start)
    assert not second.is_valid_handle(later)


def test_tags_are_recorded_replaced_and_deleted(owner: str) -> None:
    backend = scheduler_of(owner).backend
    value = backend.record_value(1)
    backend.record_tags(TagEntity.Value, value, [("env", "prod"), ("size", {"b": 1, "a": None})])
    backend.record_tags(TagEntity.Value, value, [("env", "test")], update=True)
    assert backend.get_tags([value])[value].as_dict() == {
        "env": ["test"],
        "size": [{"b": 1, "a": None}],
    }

    backend.delete_tags(value, [], keys=["env", "size"])

    assert backend.get_tags([value]) == {}
    assert backend.session.query(Tag).filter(Tag.is_current.is_(False)).count() == 3


def test_a_value_that_cannot_be_stored_is_named_and_the_rest_is_there(owner: str) -> None:
    scheduler = scheduler_of(owner)
    backend = scheduler.backend
    good = backend.record_value(1)
    backend.record_tags(TagEntity.Value, good, [("key\0", 1)])

    with pytest.raises(errors.NotRecorded, match="record_tags"):
        backend.session.query(Value).count()

    assert backend.session.query(Value).count() == 1


def test_a_busy_execution_beats_when_a_job_ends(owner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "HEARTBEAT", timedelta(0))
    scheduler = scheduler_of(owner)
    scheduler.run(squares(2))

    session = scheduler.backend.session
    ((beaten, ended),) = session.query(Execution.updated_time, Job.end_time).filter(
        Execution.job_id == Job.id
    )
    assert beaten >= ended


def test_calls_of_two_executions_in_one_process_are_told_apart(owner: str) -> None:
    scheduler = scheduler_of(owner)
    scheduler.run(squares(2))
    scheduler.run(squares(2))

    session = scheduler.backend.session
    assert session.query(CallNode).count() == 4
    assert session.query(Job).filter(Job.cached.is_(True)).count() == 4
