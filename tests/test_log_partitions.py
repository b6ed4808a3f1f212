"""Logs by months: each run's in one partition, a month cleared at once, and nothing lost."""

from __future__ import annotations

import threading
import time
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import Session, sessionmaker

from platform_db import schema
from platform_db.lifecycle import importing
from platform_db.logs import append_log, read_log
from platform_db.models import LogChunk, LogSize, Workflow
from platform_db.retention import RULES, choose_rules, prune
from platform_db.states import WORKFLOW, RunStatus
from platform_db.tenancy.privileges import Role, role_name
from tests.factories import make_user
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
    assert [result.rows for result in prune(session_factory, LOGS)] == [0]
    asked = choose_rules(["log_chunk"], older_than=LOGS[0].age)
    assert [result.rows for result in prune(session_factory, asked)] == [6]


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
    clear = sa.text("SELECT platform.clear_log_partition(:name, '1 year', true)")
    with engine.connect().execution_options(isolation_level=isolation) as connection, connection.begin():
        connection.execute(sa.text("SELECT FROM platform.workflow"))
        append_log(session, run, "late\n")
        session.commit()
        assert connection.scalar(clear, {"name": f"log_chunk_{OLD:%Y_%m}"}) is None
    assert read_log(session, run) == b"0\n1\n2\nlate\n"


def test_no_age_clears_nothing(engine: sa.Engine, session: Session) -> None:
    run = make_old_run(session)
    with engine.begin() as connection:
        clear = sa.text("SELECT platform.clear_log_partition(:name, NULL, true)")
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
    session.execute(sa.text(f"DROP TABLE {name_of(month_before(-3))}"))
    session.execute(sa.text("DROP TABLE platform_partitions.log_chunk_later"))
    session.execute(
        sa.text(
            "CREATE TABLE platform_partitions.log_chunk_later PARTITION OF platform.log_chunk FOR VALUES FROM"
            f" (platform.first_id_at('{month_before(-3)}')) TO (platform.first_id_at('2100-01-01 00:00+00'))"
        )
    )
    session.commit()
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
