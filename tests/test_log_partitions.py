"""Logs by months: each run's in one partition, a month cleared at once, and nothing lost."""

from __future__ import annotations

import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import Session, sessionmaker

from platform_db import errors, schema
from platform_db.health import tables
from platform_db.health.deep_check import check_deeply
from platform_db.lifecycle import importing
from platform_db.logs import append_log, read_log
from platform_db.models import LogChunk, LogSize, Workflow
from platform_db.retention import RULES, choose_rules, clear_months, prune
from platform_db.retention.archive import write_archive
from platform_db.states import WORKFLOW, RunStatus
from platform_db.tenancy.privileges import Role, role_name
from tests.command_line import run as run_command
from tests.factories import make_user
from tests.locks import wait_for_a_lock
from tests.tenants import login_engine, prepare_roles
from tests.test_prune import read_archive

LOGS = choose_rules(["log_chunk"])
ALIVE = sorted(status.value for status in set(RunStatus) - WORKFLOW.ended)


def month_before(months: int) -> datetime:
    """Return the beginning of a month that is so many before this one."""
    now = datetime.now(timezone.utc)
    number = now.year * 12 + now.month - 1 - months
    return datetime(number // 12, number % 12 + 1, 1, tzinfo=timezone.utc)


def id_at(time_: datetime) -> uuid.UUID:
    """Return an id of a row that was made then."""
    return uuid.UUID(
        int=(int(time_.timestamp() * 1000) << 80) | (7 << 76) | (2 << 62) | uuid.uuid4().int >> 66
    )


def name_of(month: datetime) -> str:
    return f"platform_partitions.log_chunk_{month:%Y_%m}"


OLD = month_before(20)
TELLS_NOTHING = uuid.UUID("f47ac10b-58cc-4372-a567-0e02b2c3d479")
TELLS_A_LATER_TIME = uuid.UUID("027ac10b-58cc-4372-a567-0e02b2c3d479")


@pytest.fixture(autouse=True)
def old_months(engine: sa.Engine) -> None:
    """Begin the months of an empty database 20 months ago."""
    with engine.begin() as connection:
        before = "platform_partitions.log_chunk_before"
        connection.exec_driver_sql(f"DROP TABLE {before}")
        for months in range(21, 0, -1):
            first, name = f"platform.first_id_at('{month_before(months)}')", name_of(month_before(months))
            if months == 21:
                first, name = "MINVALUE", before
            connection.exec_driver_sql(
                f"CREATE TABLE {name} PARTITION OF platform.log_chunk FOR VALUES FROM ({first})"
                f" TO (platform.first_id_at('{month_before(months - 1)}'))"
            )


def make_old_run(
    session: Session, *, made: datetime = OLD, status: str = "finished", id_: uuid.UUID | None = None
) -> Workflow:
    """Add a run of that time, with three pieces of a log; by default its id tells the time."""
    owner = make_user(session)
    session.flush()
    with importing(session):
        run = Workflow(
            id_=id_ or id_at(made),
            owner_id=owner.id_,
            name="old",
            type_="serial",
            status=status,
            created=made,
            updated=made,
        )
        session.add(run)
        session.flush()
        for n in range(3):
            chunk = LogChunk(owner_id=owner.id_, workflow_id=run.id_, data=b"%d\n" % n, at=made)
            session.add(chunk)
    session.commit()
    return run


def rows_in(session: Session, table: str) -> int:
    return session.scalar(sa.text(f"SELECT count(*) FROM {table}")) or 0


def test_a_run_logs_to_the_month_of_its_id(session: Session) -> None:
    run = make_old_run(session)
    append_log(session, run, "more\n")
    session.commit()
    assert rows_in(session, name_of(OLD)) == 4
    assert read_log(session, run) == b"0\n1\n2\nmore\n"


def test_a_month_of_old_logs_is_cleared_at_once(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    run = make_old_run(session)
    append_log(session, make_old_run(session, made=month_before(1)), "young\n")
    session.commit()
    size = sa.select(LogSize.bytes_).where(LogSize.workflow_id == run.id_)
    session.execute(sa.update(LogSize).values(bytes_=6))
    session.commit()

    (result,) = prune(session_factory, LOGS)

    assert (result.rows, result.left) == (3, 0)
    assert session.scalar(sa.text(f"SELECT pg_relation_size('{name_of(OLD)}')")) == 0
    assert session.scalar(size) in (0, None)
    assert rows_in(session, "platform.log_chunk") == 4
    session.rollback()
    append_log(session, run, "again\n")  # It is restarted.
    session.commit()
    assert read_log(session, run) == b"again\n"


@pytest.mark.parametrize("status", ALIVE)
def test_a_month_with_a_run_that_has_not_ended_loses_the_logs_of_the_others(
    session: Session, session_factory: sessionmaker[Session], status: str
) -> None:
    ended, alive = make_old_run(session), make_old_run(session, status=status)
    (result,) = prune(session_factory, LOGS)
    assert result.rows == 3
    assert (read_log(session, ended), read_log(session, alive)) == (b"", b"0\n1\n2\n")


def test_what_was_logged_lately_stays(session: Session, session_factory: sessionmaker[Session]) -> None:
    run = make_old_run(session)
    append_log(session, run, "lately\n")
    session.commit()
    (result,) = prune(session_factory, LOGS)
    assert (result.rows, read_log(session, run)) == (3, b"lately\n")


def test_a_month_waits_for_those_who_logged_after_its_end(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    made = month_before(13)
    make_old_run(session, made=made)
    append_log(session, make_old_run(session, made=made), "after its end\n")
    session.commit()
    assert [result.rows for result in prune(session_factory, LOGS, dry_run=True)] == [0]
    assert [result.rows for result in prune(session_factory, LOGS)] == [0]
    asked = choose_rules(["log_chunk"], older_than=LOGS[0].age)
    assert [result.rows for result in prune(session_factory, asked)] == [6]


@pytest.mark.parametrize("months", [13, 16])
def test_a_dry_run_counts_what_a_month_has(
    session: Session, session_factory: sessionmaker[Session], months: int
) -> None:
    make_old_run(session, made=month_before(months))
    assert [result.rows for result in prune(session_factory, LOGS, dry_run=True)] == [3]
    assert [result.rows for result in prune(session_factory, LOGS)] == [3]


def test_logs_stay_until_all_of_their_month_are_old_unless_an_age_is_asked_for(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    (rule,) = (rule for rule in RULES if rule.table == "log_chunk")
    due = datetime.now(timezone.utc) - rule.age - timedelta(seconds=60)
    make_old_run(session, made=due)
    make_old_run(session, made=due, id_=TELLS_NOTHING)

    assert [result.rows for result in prune(session_factory, LOGS, dry_run=True)] == [3]
    assert [result.rows for result in prune(session_factory, LOGS)] == [3]
    asked = choose_rules(["log_chunk"], older_than=rule.age)
    assert [result.rows for result in prune(session_factory, asked)] == [3]


def test_what_is_kept_costs_pruning_nothing(
    session: Session, session_factory: sessionmaker[Session], engine: sa.Engine
) -> None:
    cleared = make_old_run(session)
    kept = make_old_run(session, made=month_before(2))
    (result,) = prune(session_factory, LOGS)
    assert result.rows == 3
    sent = []
    sa.event.listen(engine, "before_cursor_execute", lambda *arguments: sent.append(arguments[2]))
    (result,) = prune(session_factory, LOGS)
    assert result.rows == 0
    assert any("log_partitions" in statement for statement in sent)
    assert not any("platform.workflow" in statement for statement in sent), "it looked at runs"
    make_old_run(session, id_=TELLS_NOTHING)
    make_old_run(session, id_=TELLS_A_LATER_TIME)
    (result,) = prune(session_factory, LOGS)
    assert result.rows == 6
    assert (read_log(session, cleared), read_log(session, kept)) == (b"", b"0\n1\n2\n")


def test_a_month_is_archived_before_it_is_cleared(
    session: Session, session_factory: sessionmaker[Session], tmp_path: Path
) -> None:
    runs = {str(make_old_run(session).id_) for _ in range(2)}
    (result,) = prune(session_factory, LOGS, archive=tmp_path)
    rows = [row["row"] for row in read_archive(tmp_path)]
    assert (result.rows, len(rows), {row["workflow_id"] for row in rows}) == (6, 6, runs)
    assert session.scalar(sa.text(f"SELECT pg_relation_size('{name_of(OLD)}')")) == 0


def test_what_could_not_be_archived_is_not_cleared(
    session: Session, session_factory: sessionmaker[Session], tmp_path: Path
) -> None:
    run = make_old_run(session)
    directory = tmp_path / "a file"
    directory.touch()
    with pytest.raises(OSError):
        prune(session_factory, LOGS, archive=directory)
    session.rollback()
    assert read_log(session, run) == b"0\n1\n2\n"


def test_while_a_month_is_archived_its_runs_are_free_and_nothing_is_lost(
    session: Session,
    session_factory: sessionmaker[Session],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gone, kept = make_old_run(session), make_old_run(session)
    key = (kept.owner_id, kept.id_)

    def change(*args: Any) -> Path:
        path = write_archive(*args)
        with session_factory() as other, other.begin():
            other.execute(sa.text("SET LOCAL lock_timeout = '1s'"))
            with importing(other):
                late = LogChunk(owner_id=key[0], workflow_id=key[1], data=b"imported\n", at=OLD)
                other.add_all([late])
                other.flush()
            other.execute(sa.delete(Workflow).where(Workflow.id_ == gone_id))
        monkeypatch.undo()
        return path

    gone_id = gone.id_
    session.commit()
    monkeypatch.setattr(clear_months, "write_archive", change)
    prune(session_factory, LOGS, archive=tmp_path)
    archived = [row["row"]["data"] for row in read_archive(tmp_path)]
    assert "\\x" + b"imported\n".hex() in archived


def test_what_commits_while_a_month_is_looked_at_is_not_lost(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    run = make_old_run(session)
    appended = threading.Event()

    def append() -> None:
        with session_factory() as other, other.begin():
            append_log(other, (run.owner_id, run.id_), "late\n", model=Workflow)
            appended.set()
            time.sleep(0.1)  # Less than a lock is waited for.

    writer = threading.Thread(target=append)
    writer.start()
    appended.wait()
    (result,) = prune(session_factory, LOGS)
    writer.join()
    session.rollback()
    assert (result.rows, read_log(session, run)) == (3, b"late\n")


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_a_snapshot_from_before_the_lock_clears_nothing(
    engine: sa.Engine, session: Session, isolation: str
) -> None:
    run = make_old_run(session)
    clear = sa.text("SELECT pieces FROM platform.clear_log_partition(:name, '1 year')")
    with engine.connect().execution_options(isolation_level=isolation) as connection, connection.begin():
        connection.execute(sa.text("SELECT FROM platform.workflow"))
        append_log(session, run, "late\n")
        session.commit()
        assert connection.scalar(clear, {"name": f"log_chunk_{OLD:%Y_%m}"}) is None
    assert read_log(session, run) == b"0\n1\n2\nlate\n"


def test_months_are_made_and_cleared_where_the_server_has_another_default(
    engine: sa.Engine, session: Session
) -> None:
    make_old_run(session)
    made = months_of(session)
    forget_last_month(session)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        name = connection.scalar(sa.text("SELECT quote_ident(current_database())"))
        connection.exec_driver_sql(
            f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'"
        )
    engine.dispose()
    (result,) = prune(orm.sessionmaker(engine), LOGS)
    assert result.rows == 3
    assert months_of(session) == made
    assert session.scalar(sa.text(f"SELECT pg_relation_size('{name_of(OLD)}')")) == 0


def test_months_are_cleared_inside_a_transaction_of_the_callers(engine: sa.Engine) -> None:
    with engine.connect() as connection, connection.begin():
        inside = orm.sessionmaker(connection, join_transaction_mode="create_savepoint")
        with inside() as session:
            make_old_run(session)
        assert [result.rows for result in prune(inside, LOGS)] == [3]


def test_no_age_clears_nothing(engine: sa.Engine, session: Session) -> None:
    run = make_old_run(session)
    with engine.begin() as connection:
        clear = sa.text("SELECT pieces FROM platform.clear_log_partition(:name, NULL)")
        assert connection.scalar(clear, {"name": f"log_chunk_{OLD:%Y_%m}"}) is None
    assert read_log(session, run) == b"0\n1\n2\n"


def test_readers_in_the_way_are_not_waited_for_long(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    run = make_old_run(session)
    with session_factory() as reader:
        read_log(reader, (run.owner_id, run.id_), model=Workflow)
        (result,) = prune(session_factory, LOGS)
        assert result.rows == 3
    assert session.scalar(sa.text(f"SELECT pg_relation_size('{name_of(OLD)}')")) > 0


def test_services_clear_months_and_no_role_reads_a_partition(engine: sa.Engine, session: Session) -> None:
    make_old_run(session)
    prepare_roles(engine)
    service = login_engine(engine, "platform_test_logs", Role.service)
    (result,) = prune(orm.sessionmaker(service), LOGS)
    service.dispose()
    assert result.rows == 3
    assert session.scalar(sa.text(f"SELECT pg_relation_size('{name_of(OLD)}')")) == 0
    for role in Role:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"SET ROLE {role_name(role)}")
            for question in (
                f"SELECT FROM {name_of(OLD)}",
                *([] if role is Role.service else ["SELECT platform.add_log_partitions(9)"]),
            ):
                with (
                    pytest.raises(sa.exc.ProgrammingError, match="permission denied"),
                    connection.begin_nested(),
                ):
                    connection.exec_driver_sql(question)


@pytest.mark.parametrize(
    "setting",
    [
        "standard_conforming_strings = off",
        "timezone = 'Pacific/Kiritimati'",
        "datestyle = 'SQL, DMY'",
        "search_path = ''",
        "lock_timeout = 1",
    ],
)
def test_a_sessions_settings_do_not_change_the_months(session: Session, setting: str) -> None:
    months = months_of(session)
    forget_last_month(session)
    in_it = make_old_run(session, made=month_before(-3))
    session.execute(sa.text(f"SET LOCAL {setting}"))
    assert session.scalar(sa.text("SELECT platform.add_log_partitions(3)")) == 1
    session.commit()
    assert months_of(session) == months
    assert rows_in(session, name_of(month_before(-3))) == 3
    assert read_log(session, in_it) == b"0\n1\n2\n"


def test_pruning_works_before_its_functions_are_granted_and_readers_count(
    engine: sa.Engine, session: Session
) -> None:
    make_old_run(session)
    prepare_roles(engine)
    service = login_engine(engine, "platform_test_logs", Role.service)
    reader = login_engine(engine, "platform_test_reader", Role.readonly)
    assert [result.rows for result in prune(orm.sessionmaker(reader), LOGS, dry_run=True)] == [3]
    names = "add_log_partitions, platform.clear_log_partition, platform.log_partitions, platform.time_of_id"
    session.execute(sa.text(f"REVOKE ALL ON FUNCTION platform.{names} FROM {role_name(Role.service)}"))
    session.execute(sa.text(f"REVOKE ALL ON FUNCTION platform.{names} FROM {role_name(Role.tenant)}"))
    session.commit()
    assert [result.rows for result in prune(orm.sessionmaker(service), LOGS)] == [3]
    service.dispose()
    reader.dispose()


def test_partitions_are_looked_at_with_their_table(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    make_old_run(session)
    monkeypatch.setattr(tables, "LARGEST_COUNT", 1)
    session.execute(sa.text("ANALYZE platform.log_chunk"))
    session.execute(sa.text(f"ANALYZE {name_of(OLD)}"))
    (figures,) = (table for table in tables.read_tables(session) if table.name == "log_chunk")
    assert (figures.rows, figures.is_exact) == (3, False)
    index = f"{name_of(OLD)}_pkey"
    session.execute(sa.text(f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{index}'::regclass"))
    assert ("invalid indexes", [index]) in [(one.check, one.examples) for one in check_deeply(session)]


def months_of(session: Session) -> list[datetime]:
    found = session.scalars(
        sa.text("SELECT month FROM platform.log_partitions() WHERE month IS NOT NULL")
    ).all()
    session.rollback()
    return list(found)


def test_pruning_makes_the_months_ahead_and_moves_what_is_there_of_them(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    made = months_of(session)
    assert made[-1] == month_before(-3)
    forget_last_month(session)
    in_it, after = (make_old_run(session, made=month_before(-months)) for months in (3, 4))
    numbers = session.scalars(sa.select(LogChunk.number).order_by(LogChunk.number)).all()
    session.rollback()

    with session_factory() as writer:
        append_log(writer, make_old_run(writer), "in the way")
        prune(session_factory, LOGS)  # It does not wait for the writer.
        assert months_of(session) == made[:-1]
    prune(session_factory, LOGS)

    assert months_of(session) == made
    assert rows_in(session, name_of(month_before(-3))) == 3
    assert rows_in(session, "platform_partitions.log_chunk_later") == 3
    assert [read_log(session, run) for run in (in_it, after)] == [b"0\n1\n2\n"] * 2
    stored = sa.select(LogChunk.number).where(LogChunk.workflow_id.in_([in_it.id_, after.id_]))
    assert session.scalars(stored.order_by(LogChunk.number)).all() == numbers
    append_log(session, after, "on it goes\n")
    session.commit()


def forget_last_month(session: Session) -> None:
    """Leave the last month to be made, as if it were not known yet."""
    session.execute(sa.text(f"DROP TABLE {name_of(month_before(-3))}"))
    session.execute(sa.text("DROP TABLE platform_partitions.log_chunk_later"))
    session.execute(
        sa.text(
            "CREATE TABLE platform_partitions.log_chunk_later PARTITION OF platform.log_chunk FOR VALUES FROM"
            f" (platform.first_id_at('{month_before(-3)}')) TO (platform.first_id_at('2100-01-01 00:00+00'))"
        )
    )
    session.commit()


def test_the_second_of_two_that_make_months_finds_them_made(
    engine: sa.Engine, session: Session, session_factory: sessionmaker[Session]
) -> None:
    made = months_of(session)
    forget_last_month(session)
    with ThreadPoolExecutor() as pool, engine.begin() as first:
        assert first.scalar(sa.text("SELECT platform.add_log_partitions(3)")) == 1
        second = pool.submit(clear_months.add_partitions, session_factory)
        wait_for_a_lock(session_factory)
        first.commit()
        second.result()
    assert months_of(session) == made


def test_much_is_moved_only_where_that_is_asked_for(session: Session) -> None:
    forget_last_month(session)
    runs = [make_old_run(session, made=month_before(-months)) for months in (3, 4, 5, 6)]
    assert session.scalar(sa.text("SELECT platform.add_log_partitions(5, most_bytes => 1000)")) == 0
    assert session.scalar(sa.text("SELECT platform.add_log_partitions(5, most_bytes => NULL)")) == 3
    assert [rows_in(session, name_of(month_before(-months))) for months in (3, 4, 5)] == [3, 3, 3]
    assert [read_log(session, run) for run in runs] == [b"0\n1\n2\n"] * 4


def test_months_are_made_again_once_what_was_too_much_has_gone(session: Session) -> None:
    forget_last_month(session)
    make_old_run(session, made=month_before(-3))
    make_months = sa.text("SELECT platform.add_log_partitions(3, most_bytes => 100)")
    assert session.scalar(make_months) == 0
    session.execute(sa.delete(LogChunk))
    assert session.scalar(make_months) == 1


def test_pruning_tells_that_the_next_month_has_no_partition(
    session: Session, session_factory: sessionmaker[Session], caplog: pytest.LogCaptureFixture
) -> None:
    prune(session_factory, LOGS)
    assert not caplog.messages
    for months in (-1, -2):
        session.execute(sa.text(f"DROP TABLE {name_of(month_before(months))}"))
    forget_last_month(session)
    session.execute(
        sa.text(
            "ALTER TABLE platform.log_chunk DETACH PARTITION platform_partitions.log_chunk_later;"
            " ALTER TABLE platform.log_chunk ATTACH PARTITION platform_partitions.log_chunk_later FOR VALUES"
            f" FROM (platform.first_id_at('{month_before(-1)}'))"
            " TO (platform.first_id_at('2100-01-01 00:00+00'))"
        )
    )
    session.commit()
    with session_factory() as writer:
        append_log(writer, make_old_run(writer), "in the way")
        prune(session_factory, LOGS)
    assert "no partition" in caplog.text


@pytest.mark.parametrize("tells_time", [True, False])
def test_logs_that_are_there_stay_as_they_are(
    database_uri: str, session: Session, session_factory: sessionmaker[Session], tells_time: bool
) -> None:
    runs = [make_old_run(session, made=month_before(months)) for months in (20, 1, -1)]
    if not tells_time:
        make_old_run(session, made=month_before(1), id_=TELLS_NOTHING)
    rows = sa.text("SELECT * FROM platform.log_chunk ORDER BY number")
    before = session.execute(rows).all()
    session.commit()
    schema.downgrade(database_uri, "0015")
    assert session.execute(rows).all() == before
    session.commit()

    schema.upgrade(database_uri)

    assert session.execute(rows).all() == before
    assert months_of(session) == ([month_before(-2), month_before(-3)] if tells_time else [])
    append_log(session, runs[1], "more\n")
    session.commit()
    assert read_log(session, runs[1]).endswith(b"more\n")
    session.rollback()
    (result,) = prune(session_factory, LOGS)
    assert result.rows == 3


def test_rows_are_read_once_however_often_the_migration_finds_a_table_in_use(
    database_uri: str, engine: sa.Engine, session: Session
) -> None:
    run_id = make_old_run(session).id_
    session.commit()
    schema.downgrade(database_uri, "0015")
    checked = sa.text("SELECT oid FROM pg_constraint WHERE conname = 'before'")
    found = []
    with engine.begin() as user:
        user.execute(sa.select(Workflow.id_).where(Workflow.id_ == run_id))
        for _ in range(2):
            upgrade = run_command(database_uri, "alembic", "upgrade", PLATFORM_DB_MIGRATION_WAIT="0")
            assert upgrade.exit_code == errors.MigrationBlocked.exit_code
            found.append(session.scalar(checked))
            session.commit()
    assert found[0] is not None and found[0] == found[1]
    schema.upgrade(database_uri)
    assert session.scalar(checked) is None
