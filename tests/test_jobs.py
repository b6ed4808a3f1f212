"""The job cache: look-up, store and eviction."""

from __future__ import annotations

import threading
import uuid

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from platform_db import errors
from platform_db.jobs.cache import evict_cached_results, find_cached_result, store_result
from platform_db.models import Job, JobCache, JobCacheUse
from tests.factories import make_run, make_user
from tests.locks import wait_for_a_lock


def make_job(session: Session) -> Job:
    job = Job(workflow_id=make_run(session, make_user(session)).id_)
    session.add(job)
    session.commit()
    return job


def test_a_result_is_found_again_and_the_hit_is_counted(session: Session) -> None:
    job = make_job(session)
    parameters = "x" * 100_000
    assert find_cached_result(session, job.owner_id, parameters, "hash") is None
    stored = store_result(session, job, parameters, "hash", "/results/1")
    session.commit()
    for _ in range(3):
        assert find_cached_result(session, job.owner_id, parameters, "hash") == stored
        session.commit()
    use = session.scalars(sa.select(JobCacheUse)).one()
    assert (use.hits, use.last_hit_at is not None) == (3, True)
    assert find_cached_result(session, job.owner_id, parameters, "other") is None
    assert find_cached_result(session, uuid.uuid4(), parameters, "hash") is None


def test_the_same_key_again_replaces_the_result(session: Session) -> None:
    job = make_job(session)
    first = store_result(session, job, "p", "h", "/1")
    second = store_result(session, job.id_, "p", "h", "/2")
    assert (second.id_, second.result_path) == (first.id_, "/2")
    with pytest.raises(errors.NotFound):
        store_result(session, uuid.uuid4(), "p", "h", "/3")


def test_two_jobs_that_store_the_same_at_once_both_succeed(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    job_id, owner_id = (job := make_job(session)).id_, job.owner_id
    session.commit()
    for turn in range(20):
        barrier, done = threading.Barrier(2), []

        def store(path: str, turn: int = turn, barrier=barrier, done=done) -> None:
            with session_factory() as other:
                other.connection()
                barrier.wait()
                done.append(store_result(other, job_id, str(turn), "h", path).id_)
                other.commit()

        threads = [threading.Thread(target=store, args=(path,)) for path in ("/1", "/2")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(done)) == 1
        assert len(done) == 2
        assert find_cached_result(session, owner_id, str(turn), "h") is not None
        session.commit()


def test_a_hit_waits_for_nobody(session: Session, session_factory: sessionmaker[Session]) -> None:
    job = make_job(session)
    store_result(session, job, "p", "h", "/1")
    session.commit()
    with session_factory() as other:
        assert find_cached_result(other, job.owner_id, "p", "h") is not None
        session.execute(sa.text("SET LOCAL lock_timeout = '200ms'"))
        assert find_cached_result(session, job.owner_id, "p", "h") is not None


def test_the_least_recently_used_are_evicted(session: Session) -> None:
    job = make_job(session)
    for number in range(5):
        store_result(session, job, str(number), "h", f"/{number}")
        session.commit()
    for number in (1, 0):
        find_cached_result(session, job.owner_id, str(number), "h")
        session.commit()
    evicted = evict_cached_results(session, job.owner_id, keep=3)
    session.commit()
    assert sorted(result.result_path for result in evicted) == ["/2", "/3"]
    left = session.scalars(sa.select(JobCache.result_path).order_by(JobCache.result_path)).all()
    assert left == ["/0", "/1", "/4"]
    assert evict_cached_results(session, job.owner_id, keep=3) == []


def test_a_result_is_that_of_the_job_that_stored_it_last(session: Session) -> None:
    first = make_job(session)
    second = Job(workflow_id=first.workflow_id)
    session.add(second)
    session.commit()
    store_result(session, first, "p", "h", "/1")
    store_result(session, second, "p", "h", "/2")
    session.delete(first)
    session.commit()
    found = find_cached_result(session, second.owner_id, "p", "h")
    assert found is not None
    assert (found.job_id, found.result_path) == (second.id_, "/2")


def test_a_result_that_is_stored_again_counts_as_used_just_now(session: Session) -> None:
    job = make_job(session)
    store_result(session, job, "again", "h", "/again")
    session.commit()
    find_cached_result(session, job.owner_id, "again", "h")
    session.commit()
    store_result(session, job, "other", "h", "/other")
    session.commit()
    store_result(session, job, "again", "h", "/again")
    session.commit()
    (evicted,) = evict_cached_results(session, job.owner_id, keep=1)
    assert evicted.result_path == "/other"


def test_eviction_is_one_owners_and_takes_the_oldest_first(session: Session) -> None:
    job, other = make_job(session), make_job(session)
    for path in ("/1", "/2"):
        store_result(session, job, path, "h", path)
        session.commit()
    store_result(session, other, "/3", "h", "/3")
    session.commit()
    (evicted,) = evict_cached_results(session, job.owner_id, keep=0, batch=1)
    assert evicted.result_path == "/1"
    (evicted,) = evict_cached_results(session, job.owner_id, keep=0)
    assert evicted.result_path == "/2"
    assert session.scalars(sa.select(JobCache.result_path)).all() == ["/3"]


def test_finding_a_result_uses_the_index(session: Session) -> None:
    from platform_db.jobs.cache import _FIND

    session.execute(sa.text("SET LOCAL enable_seqscan = off"))
    plan = session.execute(
        sa.text(f"EXPLAIN {_FIND.text}"),
        {"owner": str(uuid.uuid4()), "parameters": "p", "workspace_hash": "h"},
    ).scalars()
    assert "uq_job_cache_owner_id_digest" in "\n".join(plan)


def test_a_job_is_cached_first_and_its_result_completed_later(session: Session) -> None:
    job = make_job(session)
    session.add(cached := JobCache(job_id=job.id_))
    session.commit()
    assert evict_cached_results(session, job.owner_id, keep=0) == []
    cached.parameters = "p"
    session.flush()
    cached.workspace_hash, cached.result_path = "h", "/1"
    session.commit()
    found = find_cached_result(session, job.owner_id, "p", "h")
    assert found == (cached.id_, job.id_, "/1")
    assert evict_cached_results(session, job.owner_id, keep=0) == [found]


def test_what_can_be_found_has_a_path(session: Session) -> None:
    session.add(JobCache(job_id=make_job(session).id_, parameters="p", workspace_hash="h"))
    with pytest.raises(sa.exc.IntegrityError, match="result_has_path"):
        session.commit()


def test_storing_a_result_completes_the_job_that_was_cached_first(session: Session) -> None:
    job, other = make_job(session), make_job(session)
    begun = [JobCache(job_id=job.id_) for _ in range(2)]
    session.add_all([*begun, JobCache(job_id=other.id_)])
    session.commit()
    stored = store_result(session, job, "p", "h", "/1")
    assert (stored.id_, begun[0].result_path, begun[1].result_path) == (begun[0].id_, "/1", None)
    assert find_cached_result(session, job.owner_id, "p", "h") == stored
    session.commit()
    assert session.scalars(sa.select(JobCacheUse.hits)).all() == [1]
    again = store_result(session, job.id_, "p", "h", "/2")
    session.commit()
    assert (again.id_, find_cached_result(session, job.owner_id, "p", "h")) == (begun[1].id_, again)
    assert session.scalars(
        sa.select(JobCache.result_path).where(JobCache.owner_id == job.owner_id)
    ).all() == ["/2"]


def test_of_two_that_complete_the_same_at_once_the_second_ones_result_stays(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    run_id = make_job(session).workflow_id
    jobs = [Job(workflow_id=run_id) for _ in range(2)]
    cached = [JobCache(job_id=job.id_) for job in jobs]
    session.add_all([*jobs, *cached])
    session.commit()
    result = {"parameters": "p", "workspace_hash": "h"}
    second, owner_id = cached[1].id_, cached[1].owner_id
    session.execute(sa.update(JobCache).filter_by(id_=cached[0].id_).values(**result, result_path="/1"))

    def complete() -> None:
        with session_factory() as other, other.begin():
            other.execute(sa.update(JobCache).filter_by(id_=second).values(**result, result_path="/2"))

    thread = threading.Thread(target=complete)
    thread.start()
    wait_for_a_lock(session_factory)
    session.commit()
    thread.join()
    found = find_cached_result(session, owner_id, "p", "h")
    assert found is not None
    assert (found.id_, found.result_path) == (second, "/2")
