"""A copy of a database: every row as it is, at any time again, and whatever interrupts it."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from platform_db import audit, database, errors, schema, tokens
from platform_db.database.session import PlatformSession
from platform_db.health.deep_check import check_deeply
from platform_db.leases.outcomes import record_outcome
from platform_db.lifecycle import transition
from platform_db.models import Base, Job, User, Workflow
from platform_db.testing import databases
from platform_db.testing.factories import make_run, make_user
from platform_db.transfer import copying
from platform_db.transfer.layout import Page
from platform_db.transfer.piping import pipe
from platform_db.transfer.report import Report
from tests.command_line import one_line, run, start
from tests.every_table import empty_tables, fill

URL = Callable[[], sa.URL]


@pytest.fixture
def source(direct_database_uri: str) -> Iterator[sa.Engine]:
    engine = database.create_engine(direct_database_uri)
    yield engine
    engine.dispose()


@pytest.fixture
def target(direct_database_uri: str, postgres_server: Any, template_database: str) -> Iterator[sa.Engine]:
    name = f"{sa.make_url(direct_database_uri).database}_target"
    engine = database.create_engine(
        databases.create_database(postgres_server.uri, name, template=template_database)
    )
    yield engine
    engine.dispose()
    databases.drop_database(postgres_server.uri, name)


def copy(source: sa.Engine, target: sa.Engine, **options: Any) -> Report:
    report = Report()
    copying.copy_database(source.url, target.url, report, **options)
    return report


def rows_of(engine: sa.Engine) -> dict[str, list[str]]:
    """Return every row of every table as text, and where the sequences are."""
    with engine.connect() as connection:
        connection.exec_driver_sql("SET LOCAL timezone = 'UTC'")
        found = {
            table.name: sorted(
                connection.exec_driver_sql(f"SELECT t::text FROM platform.{table.name} AS t").scalars()
            )
            for table in Base.metadata.sorted_tables
        }
        sequences = "SELECT sequencename || ' ' || last_value FROM pg_sequences WHERE last_value IS NOT NULL"
        return found | {"sequences": sorted(connection.exec_driver_sql(sequences).scalars())}


def test_every_table_arrives_as_it_is(source: sa.Engine, target: sa.Engine) -> None:
    with PlatformSession(source) as session:
        fill(session)
        assert empty_tables(session) == []

    report = copy(source, target, rows_per_page=2)

    assert rows_of(target) == rows_of(source)
    # Both were cloned from one template, with the same resources.
    assert report.counts["written"] == {**report.rows, "resource": 0}
    again = copy(source, target)
    assert again.rows == report.rows
    assert not +again.counts["written"]
    assert not +again.counts["removed"]
    with target.connect() as connection:
        schema.status(connection).require_current()
        disabled = "SELECT count(*) FROM pg_trigger WHERE tgenabled <> 'O'"
        assert connection.exec_driver_sql(disabled).scalar_one() == 0


def test_secrets_seals_and_statuses_go_on_in_the_copy(
    source: sa.Engine, target: sa.Engine, secret_key: str
) -> None:
    with PlatformSession(source) as session:
        ann = make_user(session, email="ann@example.org")
        found = make_run(session, ann, status="running", jobs=["running"])
        value = tokens.issue(session, ann, type_="webhook")
        audit.record_action(session, ann, "grant_token", {"n": 1})
        session.commit()
        run_id, ann_id = found.id_, ann.id_
    audit.seal_audit_log(orm.sessionmaker(source, class_=PlatformSession))

    copy(source, target)

    factory = orm.sessionmaker(target, class_=PlatformSession)
    with factory() as session, session.begin():
        assert tokens.authenticate(session, value).user_id == ann_id
        assert check_deeply(session) == []
        transition(session, session.get(Workflow, run_id), "finished")
        audit.record_action(session, ann_id, "grant_token", {"n": 2})
    audit.seal_audit_log(factory)
    with factory() as session:
        assert audit.verify_audit_log(session).unsealed_rows == 0
        assert check_deeply(session) == []


def test_a_later_pass_brings_what_has_changed_and_removes_what_has_gone(
    source: sa.Engine, target: sa.Engine
) -> None:
    with PlatformSession(source) as session, session.begin():
        users = [make_user(session).id_ for _ in range(4)]
        for user in users:
            make_run(session, user, status="finished", jobs=["finished", "failed"], logs="some\n")
        make_run(session, users[0], name="goes on", status="queued")
    copy(source, target, rows_per_page=3)

    with PlatformSession(source) as session, session.begin():
        queued = session.scalars(sa.select(Workflow).where(Workflow.name == "goes on")).one()
        transition(session, queued, "running")
        session.delete(session.scalars(sa.select(Workflow).where(Workflow.owner_id == users[1])).one())
        session.flush()
        session.execute(sa.delete(User).where(User.id_ == users[1]))
        make_run(session, make_user(session), jobs=["running"])
    report = copy(source, target, rows_per_page=3)

    assert rows_of(target) == rows_of(source)
    assert report.counts["removed"]["user_"] == 1
    assert 0 < report.counts["written"]["workflow"] < report.rows["workflow"]
    with PlatformSession(target) as session:
        assert check_deeply(session) == []


def test_a_copy_tells_as_its_source_which_code_it_serves(source: sa.Engine, target: sa.Engine) -> None:
    comment = sa.text("SELECT obj_description('platform.alembic_version'::regclass, 'pg_class')")
    copy(source, target)
    with source.connect() as one, target.connect() as other:
        assert one.scalar(comment) == other.scalar(comment)


def test_a_copy_that_is_migrated_stays_a_copy(source: sa.Engine, target: sa.Engine) -> None:
    with PlatformSession(source) as session, session.begin():
        make_run(session, make_user(session))
    copy(source, target)
    schema.downgrade(target, "-1")
    schema.upgrade(target)
    copy(source, target)
    assert rows_of(target) == rows_of(source)


def test_how_a_server_writes_numbers_makes_no_difference(source: sa.Engine, target: sa.Engine) -> None:
    with PlatformSession(source) as session, session.begin():
        record_outcome(session, "audit seal", 0, 1 / 3)
    with target.connect() as connection, connection.begin():
        name = target.url.database
        connection.exec_driver_sql(f'ALTER DATABASE "{name}" SET extra_float_digits = -5')

    copy(source, target)
    again = copy(source, target)

    assert not +again.counts["written"]


def test_what_interrupts_a_copy_waits_for_its_writer() -> None:
    ended = threading.Event()

    def write(file: IO[bytes]) -> None:
        time.sleep(0.3)
        ended.set()

    class Cursor:
        def copy_expert(self, *_: Any, **__: Any) -> None:
            raise errors.Interrupted(signal.SIGTERM)

    with pytest.raises(errors.Interrupted):
        pipe(write, Cursor(), "COPY nothing FROM STDIN")
    assert ended.is_set()


def test_a_target_with_rows_of_its_own_is_refused(source: sa.Engine, target: sa.Engine) -> None:
    with PlatformSession(target) as session, session.begin():
        make_user(session, email="someone@example.org")
    before = rows_of(target)
    with pytest.raises(errors.Refused, match="no copy of this database, and has rows in"):
        copy(source, target)
    assert rows_of(target) == before


def test_a_target_that_services_have_worked_with_is_refused(source: sa.Engine, target: sa.Engine) -> None:
    with PlatformSession(source) as session, session.begin():
        make_run(session, make_user(session, email="ann@example.org"))
    copy(source, target)
    with PlatformSession(target) as session, session.begin():
        transition(session, session.scalars(sa.select(Workflow)).one(), "queued")
    with pytest.raises(errors.Refused, match="services have worked with the target"):
        copy(source, target)


def test_a_copy_of_another_database_and_the_same_database_are_refused(
    source: sa.Engine, target: sa.Engine, empty_database_uri: str
) -> None:
    with pytest.raises(errors.Refused, match="the same one"):
        copy(source, source)
    copy(source, target)
    schema.upgrade(empty_database_uri)
    with pytest.raises(errors.Refused, match="a copy of another database"):
        copy(database.create_engine(empty_database_uri), target)


def test_both_need_todays_schema(source: sa.Engine, empty_database_uri: str) -> None:
    with pytest.raises(errors.NeverMigrated):
        copy(source, database.create_engine(empty_database_uri))


def test_all_is_of_one_moment(source: sa.Engine, target: sa.Engine) -> None:
    with PlatformSession(source) as session, session.begin():
        owner_id = make_user(session).id_
        for _ in range(20):
            make_run(session, owner_id, jobs=["created"])
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            with PlatformSession(source) as session, session.begin():
                make_run(session, owner_id, jobs=["created"])

    worker = threading.Thread(target=work)
    worker.start()
    try:
        copy(source, target, rows_per_page=3)
    finally:
        stop.set()
        worker.join()

    with PlatformSession(target) as session:
        runs, jobs = (session.scalar(sa.select(sa.func.count()).select_from(m)) for m in (Workflow, Job))
        assert runs == jobs >= 20
        assert check_deeply(session) == []
    copy(source, target)
    assert rows_of(target) == rows_of(source)


def test_rows_that_refer_across_pages_arrive(source: sa.Engine, target: sa.Engine) -> None:
    """An execution whose first job is another's: a page of executions with their jobs does not hold it."""
    with PlatformSession(source) as session:
        fill(session, ("ann",))
        session.execute(
            sa.text("""
                INSERT INTO platform.call_execution (owner_id, id, args, job_id)
                SELECT owner_id, 'a later one', '[]', job_id FROM platform.call_execution LIMIT 1
            """)
        )
        session.commit()
    report = copy(source, target, rows_per_page=1)
    assert rows_of(target) == rows_of(source)
    assert report.counts["written"] == {**report.rows, "resource": 0}
    assert report.rows == copy(source, target).rows


def test_killed_in_the_middle_and_run_again_gives_the_same(source: sa.Engine, target: sa.Engine) -> None:
    with PlatformSession(source) as session:
        fill(session)
        owner_id = session.scalars(sa.select(User.id_)).first()
        session.execute(
            sa.text("""
                INSERT INTO platform.workflow (id_, owner_id, name, run_number_major, run_number_minor, type_,
                                               specification, workspace_path)
                SELECT gen_random_uuid(), :owner, 'many', n, 0, 'serial', '{}', '/many/' || n
                FROM generate_series(1, 300) AS n
            """),
            {"owner": owner_id},
        )
        session.commit()
    uri, to = (engine.url.render_as_string(hide_password=False) for engine in (source, target))
    for killed in (20, 120, 250):
        process = start(uri, "db", "copy", "--batch", "5", PLATFORM_DB_TARGET_URI=to)
        while process.poll() is None and _count(target, "workflow") < killed:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        with target.connect() as connection:
            disabled = "SELECT count(*) FROM pg_trigger WHERE tgenabled <> 'O'"
            assert connection.exec_driver_sql(disabled).scalar_one() == 0

    done = run(uri, "db", "copy", "--json", PLATFORM_DB_TARGET_URI=to)
    assert done.exit_code == 0, done.output
    (workflows,) = [row for row in json.loads(done.stdout) if row["table"] == "workflow"]
    assert 0 < workflows["written"] < workflows["rows"]
    assert rows_of(target) == rows_of(source)


def _count(engine: sa.Engine, table: str) -> int:
    with engine.connect() as connection:
        return int(connection.exec_driver_sql(f"SELECT count(*) FROM platform.{table}").scalar_one())


def test_the_command_says_what_it_did_and_which_keys_are_needed(
    source: sa.Engine, target: sa.Engine, secret_key: str
) -> None:
    with PlatformSession(source) as session, session.begin():
        make_user(session, access_token="secret")
    uri, to = (engine.url.render_as_string(hide_password=False) for engine in (source, target))

    done = run(uri, "db", "copy", "--to", to, PLATFORM_DB_SECRET_KEY=secret_key)
    assert done.exit_code == 0, done.output
    assert "TABLE" in done.stdout.splitlines()[0]
    assert done.stderr == ""
    done = run(uri, "db", "copy", "--to", to)
    assert "the copied secrets need the secret key with id " in one_line(f"platform-db: {done.stderr}")

    refused = run(uri, "db", "copy", "--to", "postgresql://me:secret@nowhere/x")
    assert refused.exit_code == 2
    assert "secret@" not in refused.stderr


def test_an_embedded_database_moves_to_a_server_and_back(source: sa.Engine, place: Path) -> None:
    with PlatformSession(source) as session:
        fill(session)
    uri = source.url.render_as_string(hide_password=False)
    done = run(uri, "db", "copy", "--to", f"embedded://{place / 'there'}")
    assert done.exit_code == 0, done.output
    assert run(f"embedded://{place / 'there'}", "db", "check").exit_code == 0


def test_a_lease_of_the_copy_keeps_another_away(source: sa.Engine, target: sa.Engine) -> None:
    from platform_db.transfer.one_at_a_time import only_one

    with only_one(orm.sessionmaker(target)), pytest.raises(errors.AlreadyRunning):
        copy(source, target)


def test_a_page_has_bounds() -> None:
    assert Page().condition(["a"]) == ("true", [])
    assert Page(["1", "2"], ["3", "4"]).condition(["a", "b"]) == (
        "true AND (a, b) >= (%s, %s) AND (a, b) < (%s, %s)",
        ["1", "2", "3", "4"],
    )
