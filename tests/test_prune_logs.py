"""Pruning logs and cached results: nothing is left behind that nobody holds, and memory stays small."""

from __future__ import annotations

import multiprocessing
import resource
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import Session, sessionmaker

from platform_db import database, settings
from platform_db.jobs.cache import find_cached_result, store_result
from platform_db.logs import append_log
from platform_db.models import Job, JobCache, LogChunk, User, Workflow
from platform_db.retention import choose_rules, prune
from tests.factories import make_run, make_user
from tests.test_prune import NOW, read_archive

LOGS = choose_rules(["log_chunk"], older_than=NOW, batch=10)


def make_logs(session: Session, runs: int, chunks: int, data: str = "x\n") -> list[Workflow]:
    owner = make_user(session)
    found = [make_run(session, owner, status="finished") for _ in range(runs)]
    for run in found:
        for _ in range(chunks):
            append_log(session, run, data)
    session.commit()
    return found


def test_the_logs_of_a_run_that_somebody_holds_are_left_and_told(
    session: Session, session_factory: sessionmaker[Session], tmp_path: Path
) -> None:
    held, *_ = make_logs(session, runs=3, chunks=15)
    held_id = held.id_
    session.commit()
    with session_factory() as other:
        other.execute(sa.select(Workflow.id_).where(Workflow.id_ == held_id).with_for_update())
        (result,) = prune(session_factory, LOGS, archive=tmp_path)
        assert (result.rows, result.left) == (30, 15)
    (result,) = prune(session_factory, LOGS, archive=tmp_path)
    assert (result.rows, result.left) == (15, 0)
    rows = [row["row"]["number"] for row in read_archive(tmp_path)]
    assert len(rows) == len(set(rows)) == 45


def test_what_another_one_is_pruning_is_left_to_it(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    make_logs(session, runs=1, chunks=50)
    with session_factory() as other:
        other.execute(sa.text("SELECT FROM platform.workflow FOR NO KEY UPDATE"))
        other.execute(
            sa.text(
                "DELETE FROM platform.log_chunk"
                " WHERE number IN (SELECT number FROM platform.log_chunk LIMIT 10)"
            )
        )
        (result,) = prune(session_factory, LOGS)
        assert (result.rows, result.left) == (0, 50)
        other.commit()
    (result,) = prune(session_factory, LOGS)
    assert (result.rows, result.left) == (40, 0)


def archive_all(uri: str, table: str, directory: str, answer: Connection) -> None:
    """Answer by how many bytes this process grew."""
    engine = database.create_engine(uri)
    prune(lambda: Session(engine), choose_rules(["service"], older_than=NOW))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    prune(lambda: Session(engine), choose_rules([table], older_than=NOW), archive=Path(directory))
    answer.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)


@pytest.mark.parametrize(("table", "status"), [("log_chunk", "finished"), ("workflow", "deleted")])
def test_an_archive_of_large_logs_takes_little_memory(
    session: Session, database_uri: str, tmp_path: Path, table: str, status: str
) -> None:
    run = make_run(session, make_user(session), status=status)
    for _ in range(200):
        append_log(session, run, "0123456789abcdef" * 16 * 1024)
    session.commit()
    context = multiprocessing.get_context("spawn")
    mine, other = context.Pipe()
    process = context.Process(target=archive_all, args=(database_uri, table, str(tmp_path), other))
    process.start()
    assert mine.recv() < 40 * 1024 * 1024
    process.join()
    assert session.scalar(sa.select(sa.func.count()).select_from(LogChunk)) == 0


def make_results(session: Session, count: int) -> User:
    owner = make_user(session)
    job = Job(workflow_id=make_run(session, owner).id_)
    session.add(job)
    session.commit()
    for number in range(count):
        store_result(session, job, str(number), "h", f"/{number}")
        session.commit()
    return owner


def results_of(session: Session, owner: User) -> set[str]:
    session.rollback()
    query = sa.select(JobCache.result_path).where(JobCache.owner_id == owner.id_)
    return set(session.scalars(query))


@pytest.fixture
def two_results(monkeypatch: pytest.MonkeyPatch):
    """Let each user keep two results."""
    monkeypatch.setenv("PLATFORM_DB_JOB_CACHE_LIMIT", "2")
    settings.reset_settings()
    yield
    monkeypatch.undo()
    settings.reset_settings()


@pytest.mark.usefixtures("two_results")
def test_each_user_keeps_so_many_results(
    session: Session, session_factory: orm.sessionmaker[Session]
) -> None:
    many, few = make_results(session, 5), make_results(session, 2)
    assert find_cached_result(session, many.id_, "0", "h") is not None
    session.commit()
    (result,) = prune(session_factory, choose_rules(["job_cache"], batch=1))
    assert (result.rows, result.left) == (3, 0)
    assert results_of(session, many) == {"/0", "/4"}
    assert results_of(session, few) == {"/0", "/1"}


@pytest.mark.usefixtures("two_results")
def test_evicting_waits_for_no_finder(session: Session, session_factory: orm.sessionmaker[Session]) -> None:
    owner = make_results(session, 4)
    owner_id = owner.id_
    session.commit()
    with session_factory() as finder:
        # Not committed: by what others see, this is still the least recently used.
        assert find_cached_result(finder, owner_id, "0", "h") is not None
        (result,) = prune(session_factory, choose_rules(["job_cache"]))
        assert (result.rows, result.left) == (1, 1)
    (result,) = prune(session_factory, choose_rules(["job_cache"]))
    assert (result.rows, result.left) == (1, 0)
    assert results_of(session, owner) == {"/2", "/3"}
