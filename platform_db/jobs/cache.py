"""Jobs' results, kept to be found again: by the job's parameters and the hash of its workspace."""

from __future__ import annotations

import uuid
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.bounds import require_amount, require_limit
from platform_db.database.distribution import execute_for
from platform_db.database.session import takes_session
from platform_db.identifiers import new_id, parse_id
from platform_db.lifecycle.target import Target
from platform_db.models import Job, JobCache
from platform_db.models.expiry import expire_row


class JobTarget(Target):
    tables = (Job.__tablename__,)


class CachedResult(NamedTuple):
    """A job's result in the cache.

    :param result_path: where the result lies.
    """

    id_: uuid.UUID
    job_id: uuid.UUID
    result_path: str


@takes_session
def find_cached_result(
    session: Session, owner_id: uuid.UUID | str, parameters: str, workspace_hash: str
) -> CachedResult | None:
    """Return the owner's result of such a job, if there is one, and count the hit.

    One statement, which waits for no lock: where another transaction counts a hit of the same result now,
    this one is not counted.
    """
    session.flush()
    owner = parse_id(owner_id, "user id")
    values = {"owner": owner, "parameters": parameters, "workspace_hash": workspace_hash}
    row = execute_for(session.connection(), owner, _FIND, values).one_or_none()
    return None if row is None else CachedResult(*row)


@takes_session
def store_result(
    session: Session, job: Job | uuid.UUID | str, parameters: str, workspace_hash: str, result_path: str
) -> CachedResult:
    """Store a job's result; one that is there for the same parameters and workspace is replaced.

    A job that was cached before its result was known (:class:`~platform_db.models.JobCache`) is completed.
    One statement. Two jobs that store the same at once both succeed, and the later one's result stays.

    :raises errors.NotFound: there is no such job.
    """
    session.flush()
    target = JobTarget.of(session, job, Job)
    values = {
        "id": new_id(),
        "owner": target.owner_id,
        "job": target.id_,
        "parameters": parameters,
        "workspace_hash": workspace_hash,
        "result_path": result_path,
    }
    statement = _STORE[target.owner_id is not None]
    row = execute_for(session.connection(), target.owner_id, statement, values).one_or_none()
    if row is None:
        raise target.not_found()
    owner_id, *result = row
    expire_row(session, JobCache, (owner_id, row.id_))
    return CachedResult(*result)


@takes_session
def evict_cached_results(
    session: Session, owner_id: uuid.UUID | str, keep: int, *, batch: int = 1000
) -> list[CachedResult]:
    """Drop an owner's least recently used results beyond the newest ``keep``, and return what was dropped.

    A result counts as used when it was stored and at each hit. A result that another transaction has locked
    is left to the next call, and what is beyond ``batch`` too. What is not completed is no result, and goes
    with its job. The caller removes the files, after commit.

    :param keep: how many results stay.
    """
    require_amount(keep, "number of results")
    require_limit(batch, "batch size")
    session.flush()
    owner = parse_id(owner_id, "user id")
    values = {"owner": owner, "keep": keep, "batch": batch}
    return [CachedResult(*row) for row in execute_for(session.connection(), owner, _EVICT, values)]


_FIND = sa.text("""
    WITH found AS MATERIALIZED (
        SELECT owner_id, id_, job_id, result_path FROM platform.job_cache
        WHERE owner_id = CAST(:owner AS uuid)
          AND digest = platform.job_cache_digest(:parameters, :workspace_hash)
    ),
    free AS MATERIALIZED (
        SELECT used.owner_id, used.job_cache_id FROM platform.job_cache_use AS used
        JOIN found ON used.owner_id = found.owner_id AND used.job_cache_id = found.id_
        FOR NO KEY UPDATE OF used SKIP LOCKED
    ),
    counted AS (
        UPDATE platform.job_cache_use AS used SET hits = used.hits + 1, last_hit_at = clock_timestamp()
        FROM free WHERE used.owner_id = free.owner_id AND used.job_cache_id = free.job_cache_id
    )
    SELECT id_, job_id, result_path FROM found
    """)


# By whether the owner is known.
_STORE = {
    known: sa.text(f"""
    WITH job AS MATERIALIZED (
        SELECT owner_id, id_ FROM platform.job WHERE {of_owner}id_ = CAST(:job AS uuid)
    ),
    completed AS (
        UPDATE platform.job_cache AS cache
        SET parameters = :parameters, workspace_hash = :workspace_hash, result_path = :result_path
        FROM (
            SELECT cache.owner_id, cache.id_ FROM platform.job_cache AS cache
            JOIN job ON job.owner_id = cache.owner_id AND job.id_ = cache.job_id
            WHERE cache.digest IS NULL ORDER BY cache.created, cache.id_ LIMIT 1
        ) AS begun
        WHERE cache.owner_id = begun.owner_id AND cache.id_ = begun.id_
        RETURNING cache.owner_id, cache.id_, cache.job_id, cache.result_path
    ),
    stored AS (
        INSERT INTO platform.job_cache (id_, owner_id, job_id, parameters, workspace_hash, result_path)
        SELECT CAST(:id AS uuid), owner_id, id_, :parameters, :workspace_hash, :result_path
        FROM job WHERE NOT EXISTS (SELECT FROM completed)
        ON CONFLICT (owner_id, digest) DO UPDATE
        SET job_id = excluded.job_id, result_path = excluded.result_path
        RETURNING owner_id, id_, job_id, result_path
    ),
    result AS (SELECT * FROM completed UNION ALL SELECT * FROM stored),
    counter AS (
        INSERT INTO platform.job_cache_use (owner_id, job_cache_id) SELECT owner_id, id_ FROM result
        ON CONFLICT DO NOTHING
    )
    SELECT owner_id, id_, job_id, result_path FROM result
        """)
    for known, of_owner in ((False, ""), (True, "owner_id = CAST(:owner AS uuid) AND "))
}

_EVICT = sa.text("""
    WITH oldest AS (
        SELECT cache.id_, greatest(used.last_hit_at, cache.updated) AS used_at
        FROM platform.job_cache AS cache
        LEFT JOIN platform.job_cache_use AS used
          ON used.owner_id = cache.owner_id AND used.job_cache_id = cache.id_
        WHERE cache.owner_id = CAST(:owner AS uuid) AND cache.digest IS NOT NULL
        ORDER BY used_at DESC, cache.id_ DESC
        OFFSET :keep
    ),
    dropped AS MATERIALIZED (
        SELECT owner_id, id_ FROM platform.job_cache
        WHERE owner_id = CAST(:owner AS uuid)
          AND id_ IN (SELECT id_ FROM oldest ORDER BY used_at, id_ LIMIT :batch)
        ORDER BY owner_id, id_
        FOR UPDATE SKIP LOCKED
    ),
    counters AS MATERIALIZED (
        SELECT used.job_cache_id FROM platform.job_cache_use AS used
        JOIN dropped ON dropped.owner_id = used.owner_id AND dropped.id_ = used.job_cache_id
        ORDER BY used.owner_id, used.job_cache_id
        FOR UPDATE OF used SKIP LOCKED
    )
    DELETE FROM platform.job_cache AS cache USING dropped
    WHERE cache.owner_id = dropped.owner_id AND cache.id_ = dropped.id_ AND (
        cache.id_ IN (SELECT job_cache_id FROM counters)
        OR NOT EXISTS (
            SELECT FROM platform.job_cache_use AS used
            WHERE used.owner_id = cache.owner_id AND used.job_cache_id = cache.id_))
    RETURNING cache.id_, cache.job_id, cache.result_path
    """)
