"""Logs: any bytes, appended at equal cost, read from anywhere, and cut visibly."""

from __future__ import annotations

import threading
import time

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from platform_db import errors
from platform_db.logs import append_log, follow_log, read_log, read_new_log, tail_log
from platform_db.models import Job, LogSize, Workflow
from platform_db.transitions import transition
from tests.factories import make_run, make_user


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


def test_the_end_is_read_without_the_rest(session: Session) -> None:
    run = make_run(session, make_user(session))
    for number in range(100):
        append_log(session, run, f"line {number}\nhalf ")
    assert tail_log(session, run, 2) == "half line 99\nhalf "
    assert tail_log(session, run, 1000) == run.logs
    assert tail_log(session, run, 0) == ""
    assert tail_log(session, make_run(session, make_user(session)), 5) == ""


def test_any_range_is_read(session: Session) -> None:
    run = make_run(session, make_user(session))
    for piece in ("abc", "defg", "", "h"):
        append_log(session, run, piece)
    whole = b"abcdefgh"
    for start in range(10):
        assert read_log(session, run, start) == whole[start:]
        for end in range(10):
            assert read_log(session, run, start, end) == whole[start:end], (start, end)


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


def test_the_setting_limits_the_logs_of_a_run(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    from platform_db import config

    run = make_run(session, make_user(session))
    monkeypatch.setenv("PLATFORM_DB_LOG_LIMIT", "0")
    config.reset_settings()
    try:
        assert append_log(session, run, "x") == 0
    finally:
        monkeypatch.undo()
        config.reset_settings()


def test_two_who_write_at_once_wait_for_nobody_and_leave_one_marker(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    run = make_run(session, make_user(session))
    with session_factory() as one, session_factory() as other:
        for each in (one, other):
            each.execute(sa.text("SET LOCAL lock_timeout = '500ms'"))
        append_log(one, run.id_, "a" * 10, limit=15)
        append_log(other, run.id_, "b" * 10, limit=15)
        append_log(one, run.id_, "a" * 10, limit=15)
        append_log(other, run.id_, "b" * 10, limit=15)
        one.commit()
        other.commit()
        append_log(other, run.id_, "b" * 10, limit=15)
        other.commit()
    assert run.logs.count("cut here") == 1


def test_what_is_rolled_back_does_not_count(session: Session) -> None:
    run = make_run(session, make_user(session))
    append_log(session, run, "x" * 10, limit=15)
    session.rollback()
    with session.begin_nested():
        append_log(session, run, "y" * 10, limit=15)
    session.commit()
    assert run.logs == "y" * 10
    assert session.scalars(sa.select(LogSize.bytes_)).one() == 10


def test_a_follower_misses_nothing_that_commits_late(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    run = make_run(session, make_user(session), status="running")
    with session_factory() as slow:
        append_log(slow, run.id_, "slow\n")
        append_log(session, run, "quick\n")
        session.commit()
        new = read_new_log(session, run)
        assert (new.data, new.ended) == (b"quick\n", False)
        session.commit()
        slow.commit()
    new = read_new_log(session, run, new.token)
    assert new.data == b"slow\n"
    transition(session, run, "finished")
    session.commit()
    for _ in range(3):
        new = read_new_log(session, run, new.token)
        assert (new.data, new.ended) == (b"", True)
        session.commit()


def test_following_ends_with_the_run(session: Session, session_factory: sessionmaker[Session]) -> None:
    run = make_run(session, make_user(session), status="running")

    def work() -> None:
        with session_factory() as worker:
            for number in range(20):
                append_log(worker, run.id_, f"{number} \N{SNOWMAN}\n".encode()[: 4 if number == 3 else None])
                worker.commit()
                time.sleep(0.005)
            transition(worker, run.id_, "finished")
            worker.commit()

    run_id = run.id_
    session.commit()
    thread = threading.Thread(target=work)
    thread.start()
    text = "".join(follow_log(session_factory, run_id, poll_seconds=0.01))
    thread.join()
    assert text.startswith("0 \N{SNOWMAN}\n1 \N{SNOWMAN}\n2 \N{SNOWMAN}\n3 \\xe2\\x984 ")
    assert text.endswith("19 \N{SNOWMAN}\n")


def test_there_is_no_log_of_what_is_not_there(session: Session) -> None:
    nobody = "01890000-0000-7000-8000-000000000000"
    for ask in (append_log, lambda s, i, _: read_new_log(s, i)):
        with pytest.raises(errors.WorkflowNotFound):
            ask(session, nobody, "x")
    with pytest.raises(errors.InvalidIdentifier):
        run = make_run(session, make_user(session))
        read_new_log(session, run, "nonsense")


@pytest.mark.parametrize(
    ("lines", "lines_per_commit"),
    [
        (5_000, 5_000),
        pytest.param(100_000, 1, marks=pytest.mark.soak),
        pytest.param(100_000, 100_000, marks=pytest.mark.soak),
    ],
)
def test_the_last_lines_take_no_longer_than_the_first(
    session: Session, lines: int, lines_per_commit: int
) -> None:
    run = make_run(session, make_user(session), status="running")
    append_log(session, run, "warm up\n")
    session.commit()
    took = []
    for number in range(lines):
        begun = time.perf_counter()
        append_log(session, run, f"line {number} of a program that has a lot to say\n")
        if number % lines_per_commit == 0:
            session.commit()
        took.append(time.perf_counter() - begun)
    session.commit()
    some = lines // 5 if lines < 10_000 else 1000
    # Medians of a hundred lines each, since other work on the machine slows a few lines down a lot.
    first, last = (
        sum(sorted(part[i : i + 100])[50] for i in range(0, some, 100))
        for part in (took[:some], took[-some:])
    )
    assert last <= 1.3 * first, (first, last, sum(took[:some]), sum(took[-some:]))
