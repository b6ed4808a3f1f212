"""Logs: any bytes, appended at equal cost, read from anywhere, and cut visibly."""

from __future__ import annotations

import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from platform_db import errors
from platform_db.health.deep_check import check_deeply
from platform_db.identifiers import new_id
from platform_db.lifecycle.transitions import transition
from platform_db.logs import append_log, follow_log, read_log, read_new_log, stream_log, tail_log
from platform_db.models import Job, LogChunk, LogSize, Workflow
from platform_db.retention import choose_rules, prune
from tests.factories import make_run, make_user
from tests.locks import wait_for_a_lock


def make_job(session: Session, run: Workflow) -> Job:
    job = Job(workflow_id=run.id_)
    session.add(job)
    session.commit()
    return job


def test_what_real_programs_write_is_kept(session: Session) -> None:
    run = make_run(session, make_user(session))
    for piece in (b"nul \0 latin \xe9\n", "surrogate \udc80\n", "snowman \N{SNOWMAN}\n"):
        append_log(session, run, piece)
    session.commit()
    assert read_log(session, run) == b"nul \0 latin \xe9\nsurrogate \xed\xb2\x80\nsnowman \xe2\x98\x83\n"
    assert run.logs == "nul \0 latin \\xe9\nsurrogate \\xed\\xb2\\x80\nsnowman \N{SNOWMAN}\n"


def test_a_run_and_its_jobs_have_logs_of_their_own(session: Session) -> None:
    run = make_run(session, make_user(session))
    job, other = make_job(session, run), make_job(session, run)
    append_log(session, run, "run")
    append_log(session, job.id_, "job", model=Job)
    other.append_logs("other")
    run.append_logs(", too")
    session.commit()
    assert (run.logs, job.logs, other.logs) == ("run, too", "job", "other")
    assert session.scalars(sa.select(LogSize.bytes_)).all() == [len("run, toojobother")]


def test_a_runs_own_log_is_read_without_those_of_its_jobs(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    run = make_run(session, make_user(session), status="finished")
    job = make_job(session, run)
    append_log(session, run, "run\n")
    append_log(session, job, "job\n")
    session.commit()
    cursor = read_new_log(session, run).cursor
    for row, own in ((run, b"run\n"), (job, b"job\n")):
        assert read_log(session, row) == own
        assert tail_log(session, row) == own.decode()
        assert read_new_log(session, row).data == own
        assert b"".join(stream_log(session_factory, row)) == own
    session.commit()
    append_log(session, job, "more of the job\n")
    session.commit()
    assert read_new_log(session, run, cursor).data == b""


def test_the_end_is_read_without_the_rest(session: Session) -> None:
    run = make_run(session, make_user(session))
    for number in range(100):
        append_log(session, run, f"line {number}\nhalf ")
    assert tail_log(session, run, 2) == "half line 99\nhalf "
    assert tail_log(session, run, 1000) == run.logs
    assert tail_log(session, run, 0) == ""
    assert tail_log(session, make_run(session, make_user(session)), 5) == ""


def test_the_first_of_the_last_lines_is_whole_wherever_it_begins(session: Session) -> None:
    run = make_run(session, make_user(session))
    pieces = ["begun here, ", *["and here, "] * 13, "ended\n", "last\n"]  # The first read takes 16 pieces.
    for piece in ["long ago\nnot ", *pieces]:
        append_log(session, run, piece)
    assert tail_log(session, run, 2) == "not " + "".join(pieces)


def test_any_range_is_read(session: Session) -> None:
    run = make_run(session, make_user(session))
    for piece in ("abc", "defg", "", "h"):
        append_log(session, run, piece)
    whole = b"abcdefgh"
    for start in range(10):
        assert read_log(session, run, start) == whole[start:]
        for end in range(10):
            assert read_log(session, run, start, end) == whole[start:end], (start, end)


def test_of_what_is_not_there_and_before_its_beginning_nothing_is_read(session: Session) -> None:
    run = make_run(session, make_user(session))
    assert (read_log(session, run), tail_log(session, run)) == (b"", "")
    for read in (read_log, tail_log):
        with pytest.raises(errors.WorkflowNotFound):
            read(session, uuid.uuid4(), model=Workflow)
    for start, end in ((-5, None), (0, -1), (2**63, None)):
        with pytest.raises(errors.InvalidArgument, match="must be a number from 0"):
            read_log(session, run, start, end)


def test_a_log_is_cut_where_it_reached_its_limit(session: Session) -> None:
    run = make_run(session, make_user(session))
    job = make_job(session, run)
    assert append_log(session, run, "0123456789", limit=16) == 10
    assert append_log(session, job, "abcde", limit=16) == 5
    assert append_log(session, run, "xyz", limit=16) == 1
    assert append_log(session, run, "later", limit=16) == 0
    session.commit()
    assert append_log(session, run, "later", limit=16) == 0
    assert append_log(session, job, "later", limit=16) == 0
    session.commit()
    assert run.logs.startswith("0123456789x\n[platform-db: the log was cut here")
    assert run.logs.count("cut here") == 1
    assert job.logs.startswith("abcde\n[platform-db: the log was cut here")
    assert "later" not in run.logs + job.logs
    assert session.scalars(sa.select(LogSize.bytes_)).one() == 16


def test_all_pieces_of_the_log_that_a_run_comes_with_count(session: Session) -> None:
    run = Workflow(name="w", owner_id=make_user(session).id_, type_="serial", specification={}, logs="01234")
    run.log_chunks.add(LogChunk(data=b"56789"))
    session.add(run)
    session.commit()
    assert append_log(session, run, "abc", limit=11) == 1


def test_nothing_is_kept_beyond_a_limit_that_was_lowered(session: Session) -> None:
    run = make_run(session, make_user(session))
    append_log(session, run, "0123456789", limit=100)
    assert append_log(session, run, "abcdefgh", limit=6) == 0
    assert run.logs.startswith("0123456789\n[platform-db: the log was cut here")


def test_what_a_run_comes_with_counts_until_it_is_pruned(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    made_in_2020 = uuid.UUID("016f5e66-e800-7000-8000-000000000001")  # By its id, its log is old.
    run = make_run(session, make_user(session), id_=made_in_2020, status="finished", logs="0123456789")
    for text in ("01234", "5", "0123456789"):
        assert append_log(session, run, text, limit=26) == len(text)
    assert append_log(session, run, "later", limit=26) == 0
    session.commit()
    first_two = sa.select(LogChunk.number).order_by(LogChunk.number).limit(2)
    long_ago = sa.func.now() - timedelta(days=1000)
    session.execute(sa.update(LogChunk).values(at=long_ago).where(LogChunk.number.in_(first_two)))
    session.execute(sa.text("SET LOCAL session_replication_role = 'replica'"))  # A run keeps its time else.
    session.execute(sa.update(Workflow).values(created=long_ago))
    session.commit()

    prune(session_factory, choose_rules(["log_chunk"]))

    assert check_deeply(session) == []
    assert append_log(session, run, "0123456789abcde", limit=26) == 15


def test_a_job_reaches_the_limit_within_a_transaction(session: Session) -> None:
    job = make_job(session, make_run(session, make_user(session)))
    assert append_log(session, job, "0123456789", limit=15) == 10
    assert append_log(session, job, "0123456789", limit=15) == 5
    session.commit()
    assert session.scalars(sa.select(LogSize.bytes_)).one() == 15


def test_empty_texts_do_not_hide_that_a_log_was_cut(session: Session) -> None:
    run = make_run(session, make_user(session))
    for _ in range(20):
        append_log(session, run, "0123456789", limit=16)
        assert append_log(session, run, "", limit=16) == 0
        session.commit()
    assert run.logs.startswith("0123456789012345\n[platform-db")
    assert run.logs.count("cut here") == 1


def test_the_setting_limits_the_logs_of_a_run(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    from platform_db import settings

    run = make_run(session, make_user(session))
    monkeypatch.setenv("PLATFORM_DB_LOG_LIMIT", "0")
    settings.reset_settings()
    try:
        assert append_log(session, run, "x") == 0
    finally:
        monkeypatch.undo()
        settings.reset_settings()


def test_two_who_write_at_once_wait_for_nobody_and_leave_one_marker(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    run = make_run(session, make_user(session))
    with session_factory() as one, session_factory() as other:
        for each in (one, other):
            each.execute(sa.text("SET LOCAL lock_timeout = '500ms'"))
        append_log(one, run.id_, "a" * 10, limit=15, model=Workflow)
        append_log(other, run.id_, "b" * 10, limit=15, model=Workflow)
        append_log(one, run.id_, "a" * 10, limit=15, model=Workflow)
        append_log(other, run.id_, "b" * 10, limit=15, model=Workflow)
        one.commit()
        other.commit()
        append_log(other, run.id_, "b" * 10, limit=15, model=Workflow)
        other.commit()
    assert run.logs.count("cut here") == 1


def test_a_log_that_is_cut_while_it_is_looked_at_gets_one_marker(
    session: Session, session_factory: sessionmaker[Session], engine: sa.Engine
) -> None:
    run = make_run(session, make_user(session))
    claims = []

    def cut_first(connection, cursor, statement, parameters, context, executemany) -> None:
        if "pg_try_advisory_xact_lock" in statement:
            claims.append(statement)
        if len(claims) == 1:
            claims.append(statement)
            with session_factory() as another:
                assert append_log(another, run.id_, "a" * 10, limit=5, model=Workflow) == 5
                another.commit()

    sa.event.listen(engine, "before_cursor_execute", cut_first)
    with session_factory() as one:
        assert append_log(one, run.id_, "b" * 10, limit=5, model=Workflow) == 0
        one.commit()
    assert run.logs.count("cut here") == 1


def test_sizes_are_added_in_key_order(session: Session, session_factory: sessionmaker[Session]) -> None:
    owner = make_user(session)
    first, second = sorted(new_id() for _ in range(2))
    for id_ in (second, first):  # so that they stand in the tables in the other order
        append_log(session, make_run(session, owner, id_=id_), "x")
        session.commit()
    lock = sa.select(LogSize).with_for_update(nowait=True)

    def write() -> None:
        with session_factory() as another:
            for id_ in (second, first):
                append_log(another, id_, "y", model=Workflow)
            another.commit()

    session.execute(lock.where(LogSize.workflow_id == first))
    with ThreadPoolExecutor() as pool:
        written = pool.submit(write)
        wait_for_a_lock(session_factory)
        session.execute(lock.where(LogSize.workflow_id == second))
        session.rollback()
        written.result()


def test_what_is_rolled_back_does_not_count(session: Session) -> None:
    run = make_run(session, make_user(session))
    append_log(session, run, "x" * 10, limit=15)
    session.rollback()
    with session.begin_nested():
        append_log(session, run, "y" * 10, limit=15)
    session.commit()
    assert run.logs == "y" * 10
    assert session.scalars(sa.select(LogSize.bytes_)).one() == 10


def test_what_a_closed_session_had_appended_does_not_count(session: Session) -> None:
    run_id = make_run(session, make_user(session)).id_
    append_log(session, run_id, "x" * 1000, model=Workflow)
    session.close()
    append_log(session, run_id, "y", model=Workflow)
    session.commit()
    assert session.scalars(sa.select(LogSize.bytes_)).one() == 1


def test_what_a_savepoint_took_back_makes_room_again(session: Session) -> None:
    run = make_run(session, make_user(session))
    append_log(session, run, "12345", limit=10)
    for _ in range(3):
        outer = session.begin_nested()
        with session.begin_nested():
            append_log(session, run, "67890", limit=10)
        outer.rollback()
    assert append_log(session, run, "abcde", limit=10) == 5
    session.commit()
    assert run.logs == "12345abcde"
    assert session.scalars(sa.select(LogSize.bytes_)).one() == 10


def test_what_was_appended_before_a_savepoint_counts_whatever_becomes_of_it(session: Session) -> None:
    run = make_run(session, make_user(session))
    append_log(session, run, "x" * 10)
    with session.begin_nested() as outer:
        with session.begin_nested():
            transition(session, run, "queued")
        outer.rollback()
    session.commit()
    assert run.logs == "x" * 10
    assert session.scalars(sa.select(LogSize.bytes_)).one() == 10


def test_those_who_append_and_change_a_run_do_not_wait_for_each_other_in_a_circle(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    run = make_run(session, make_user(session), status="running")
    session.commit()
    with session_factory() as other:
        mine = other.get(Workflow, run.id_)
        append_log(other, mine, "other\n")
        mine.labels = {"changed": "at the commit"}
        transition(session, run, "finished")
        append_log(session, run, "one\n")
        failures = []

        def commit() -> None:
            try:
                other.commit()
            except sa.exc.DBAPIError as error:
                failures.append(error)

        thread = threading.Thread(target=commit)
        thread.start()
        waits = sa.text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        with session_factory() as watcher:
            while not watcher.scalar(waits):
                watcher.rollback()
        session.commit()
        thread.join()
    assert failures == []
    assert session.scalars(sa.select(LogSize.bytes_)).one() == len("other\none\n")


def test_a_follower_misses_nothing_that_commits_late(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    run = make_run(session, make_user(session), status="running")
    with session_factory() as slow:
        append_log(slow, run.id_, "slow\n", model=Workflow)
        append_log(session, run, "quick\n")
        session.commit()
        new = read_new_log(session, run)
        assert (new.data, new.ended) == (b"quick\n", False)
        session.commit()
        slow.commit()
    new = read_new_log(session, run, new.cursor)
    assert new.data == b"slow\n"
    transition(session, run, "finished")
    session.commit()
    for _ in range(3):
        new = read_new_log(session, run, new.cursor)
        assert (new.data, new.ended) == (b"", True)
        session.commit()


def test_a_follower_misses_nothing_of_a_long_transaction(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    run = make_run(session, make_user(session), status="running")
    run_id = run.id_
    job_id = make_job(session, run).id_
    with session_factory() as slow:
        session.execute(sa.text("SELECT pg_current_xact_id()"))
        for job in (None, job_id):
            slow.add(LogChunk(workflow_id=run_id, job_id=job, data=b"slow\n"))
        slow.flush()
        append_log(session, run_id, "quick\n", model=Workflow)
        append_log(session, job_id, "quick\n", model=Job)
        session.commit()
        cursors = {}
        for model, of in ((Workflow, run_id), (Job, job_id)):
            new = read_new_log(session, of, model=model)
            assert new.data == b"quick\n"
            session.commit()
            # As seen from here, no transaction is going on: the slow one has the greatest number of all.
            cursors[model, of] = read_new_log(session, of, new.cursor, model=model).cursor
            session.commit()
        slow.commit()
    for (model, of), cursor in cursors.items():
        new = read_new_log(session, of, cursor, model=model)
        assert new.data == b"slow\n"
        assert read_new_log(session, of, new.cursor, model=model).data == b""


def test_what_was_restored_from_another_server_comes_once(session: Session) -> None:
    run = make_run(session, make_user(session))
    for number in range(5):
        append_log(session, run, f"{number}\n")
    session.execute(sa.text("UPDATE platform.log_chunk SET transaction_id = 1::bigint << 40"))
    session.commit()
    pieces, cursor = [], None
    for _ in range(6):
        new = read_new_log(session, run, cursor, chunks=1)
        pieces.append(new.data)
        cursor = new.cursor
        session.commit()
    assert pieces == [b"0\n", b"1\n", b"2\n", b"3\n", b"4\n", b""]


def test_a_log_has_not_ended_before_all_of_it_was_read(session: Session) -> None:
    run = make_run(session, make_user(session), status="finished")
    append_log(session, run, "a")
    append_log(session, run, "b")
    cursor, ends = None, []
    for _ in range(3):
        new = read_new_log(session, run, cursor, chunks=1)
        cursor = new.cursor
        ends.append((new.data, new.drained, new.ended))
    assert ends == [(b"a", False, False), (b"b", False, False), (b"", True, True)]


def test_a_log_is_streamed_piece_by_piece(session: Session, session_factory: sessionmaker[Session]) -> None:
    run = make_run(session, make_user(session), status="running")
    session.add_all(LogChunk(workflow_id=run.id_, data=b"%d \xff\n" % number) for number in range(2500))
    session.commit()
    pieces = list(stream_log(session_factory, run))
    assert len(pieces) == 3
    assert b"".join(pieces) == b"".join(b"%d \xff\n" % number for number in range(2500))
    assert read_log(session, run) == b"".join(pieces)


def test_following_looks_once_more_after_the_end(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    run = make_run(session, make_user(session), status="finished")
    append_log(session, run, "before the end\n")
    session.commit()
    following = follow_log(session_factory, run.id_, poll_seconds=0.01, model=Workflow)
    assert next(following) == "before the end\n"
    append_log(session, run, "after it\n")
    session.commit()
    assert list(following) == ["after it\n"]


def test_what_commits_just_after_the_end_of_an_empty_log_is_followed(
    session: Session, session_factory: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(session, make_user(session), status="finished")

    def wait(seconds: float) -> None:
        if not run.logs:
            append_log(session, run, "late\n")
        session.commit()

    session.commit()
    monkeypatch.setattr(time, "sleep", wait)
    assert list(follow_log(session_factory, run.id_, model=Workflow)) == ["late\n"]


def test_a_character_that_comes_in_two_parts_is_one(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    run = make_run(session, make_user(session), status="running")
    append_log(session, run, b"snow\xe2\x98")
    session.commit()
    following = follow_log(session_factory, run.id_, poll_seconds=0.01, model=Workflow)
    assert next(following) == "snow"
    append_log(session, run, b"\x83man\xe2")
    transition(session, run, "finished")
    session.commit()
    assert "".join(following) == "\N{SNOWMAN}man\\xe2"


def test_following_ends_with_the_run(session: Session, session_factory: sessionmaker[Session]) -> None:
    run = make_run(session, make_user(session), status="running")

    def work() -> None:
        with session_factory() as worker:
            for number in range(20):
                append_log(
                    worker,
                    run.id_,
                    f"{number} \N{SNOWMAN}\n".encode()[: 4 if number == 3 else None],
                    model=Workflow,
                )
                worker.commit()
                time.sleep(0.005)
            transition(worker, run.id_, "finished", model=Workflow)
            worker.commit()

    run_id = run.id_
    session.commit()
    thread = threading.Thread(target=work)
    thread.start()
    text = "".join(follow_log(session_factory, run_id, poll_seconds=0.01, model=Workflow))
    thread.join()
    assert text.startswith("0 \N{SNOWMAN}\n1 \N{SNOWMAN}\n2 \N{SNOWMAN}\n3 \\xe2\\x984 ")
    assert text.endswith("19 \N{SNOWMAN}\n")


def test_there_is_no_log_of_what_is_not_there(session: Session) -> None:
    nobody = "01890000-0000-7000-8000-000000000000"
    for text in ("x", ""):
        with pytest.raises(errors.WorkflowNotFound):
            append_log(session, nobody, text, model=Workflow)
    with pytest.raises(errors.WorkflowNotFound):
        read_new_log(session, nobody, model=Workflow)
    with pytest.raises(errors.InvalidIdentifier, match="give its model"):
        append_log(session, nobody, "x")
    with pytest.raises(errors.InvalidIdentifier):
        run = make_run(session, make_user(session))
        read_new_log(session, run, "nonsense")


def count_blocks(session: Session, run: Workflow) -> int:
    """Return how many blocks the statements of an append touch, of tables and indexes."""
    sent = []
    connection = session.connection()

    def note(conn: object, cursor: object, statement: str, parameters: object, *_: object) -> None:
        sent.append((statement, parameters))

    sa.event.listen(connection, "before_cursor_execute", note)
    append_log(session, run, "a line of a program that has a lot to say\n")
    sa.event.remove(connection, "before_cursor_execute", note)
    plans = [
        connection.exec_driver_sql(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters
        ).scalar_one()
        for statement, parameters in sent
    ]
    assert plans
    return sum(plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"] for plan in plans)


@pytest.mark.parametrize("lines", [5_000, pytest.param(100_000, marks=pytest.mark.soak)])
def test_the_last_lines_cost_no_more_than_the_first(session: Session, lines: int) -> None:
    run = make_run(session, make_user(session), status="running")
    append_log(session, run, "warm up\n")
    first = count_blocks(session, run)
    for number in range(lines):
        append_log(session, run, f"line {number} of a program that has a lot to say\n")
        if number % 10 == 0:
            session.commit()
    # The indexes have grown by a level or two.
    assert count_blocks(session, run) <= first + 6


def test_a_log_is_in_the_order_of_its_commits_whatever_the_clients_clocks_say(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    run = make_run(session, make_user(session), status="running")
    for text, hours in (("first\n", 1), ("second\n", -1), ("third\n", 0)):
        with session_factory() as writer, writer.begin():
            at = datetime.now(timezone.utc) + timedelta(hours=hours)
            writer.add(LogChunk(workflow_id=run.id_, data=text.encode(), at=at, number=-hours))
    assert run.logs == "first\nsecond\nthird\n"
    assert tail_log(session, run, 1) == "third\n"


def test_a_long_text_is_cut_before_it_is_sent(session: Session) -> None:
    run = make_run(session, make_user(session), status="running")
    assert append_log(session, run, "x" * 5_000_000, limit=3_000_000) == 3_000_000
    assert "the log was cut here" in tail_log(session, run, 2)
    sizes = session.scalars(sa.select(sa.func.octet_length(LogChunk.data))).all()
    assert max(sizes) <= 2**20
