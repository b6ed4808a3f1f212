"""Phases of jobs: how far a job is in the engine's own words, beside its status."""

from __future__ import annotations

from functools import cache
from types import EllipsisType

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.database.distribution import execute_for
from platform_db.database.session import takes_session
from platform_db.lifecycle.target import RowOrId, Target
from platform_db.models import Job
from platform_db.models.expiry import expire_row, held_keys
from platform_db.states import JOB, JobStatus

LARGEST = 255  # bytes; a constraint has it, too


@takes_session
def set_phase(
    session: Session,
    job: RowOrId,
    phase: str | None,
    *,
    expected_phase: str | EllipsisType | None = ...,
) -> None:
    """Set the phase of a job that has not ended; its history keeps each, as a note with the topic ``phase``.

    The phase that the job already has changes nothing and is no error. A job that ends keeps its last one. A
    refusal leaves the transaction usable.

    :param job: the job, its key ``(owner_id, id_)``, or its id.
    :param phase: such as ``publishing``, of 1 to 255 bytes; None is no phase.
    :param expected_phase: change it only from this phase, or from None; by default from any.
    :raises errors.Conflict: the job has ended, or is in another phase.
    :raises errors.NotFound: there is no such job.
    :raises errors.InvalidArgument: it is too long, or empty, or has a character that cannot be stored.
    """
    for given in (phase, expected_phase):
        if given is not None and given is not ... and not _is_storable(given):
            raise errors.InvalidArgument(
                f"a phase is a text of 1 to {LARGEST} bytes, without NUL; None is none"
            )
    session.flush()
    target = _JobTarget.of(session, job, Job)
    parameters = {
        "id": target.id_,
        "owner": target.owner_id,
        "phase": phase,
        "from_any": expected_phase is ...,
        "expected": None if expected_phase is ... else expected_phase,
    }
    statement = _set(with_owner=target.owner_id is not None)
    stored = execute_for(session.connection(), target.owner_id, statement, parameters).one_or_none()
    if stored is None:
        raise target.not_found()
    for key in held_keys(session, Job):
        if key[-1] == target.id_:
            expire_row(session, Job, key, ["phase", "status", "revision", "updated"])
    if stored.allowed:
        return
    job_id, revision = str(target.id_), stored.revision
    if JobStatus(stored.status) in JOB.ended:
        expected = " or ".join(JOB.alive)
        raise errors.Conflict(target.table, job_id, "status", expected, stored.status, revision)
    raise errors.Conflict(target.table, job_id, "phase", expected_phase, stored.status, revision)


class _JobTarget(Target):
    tables = (Job.__tablename__,)


def _is_storable(phase: object) -> bool:
    try:
        return isinstance(phase, str) and 1 <= len(phase.encode()) <= LARGEST and "\0" not in phase
    except UnicodeEncodeError:
        return False


_ALIVE = ", ".join(f"'{status}'" for status in JOB.alive)


@cache
def _set(*, with_owner: bool) -> sa.TextClause:
    return sa.text(f"""
        WITH locked AS MATERIALIZED (
            SELECT owner_id, id_, status, revision, phase,
                   status IN ({_ALIVE}) AND (:from_any OR phase IS NOT DISTINCT FROM :expected) AS allowed
            FROM platform.job
            WHERE {"owner_id = CAST(:owner AS uuid) AND " if with_owner else ""}id_ = CAST(:id AS uuid)
            FOR NO KEY UPDATE
        ),
        changed AS (
            UPDATE platform.job AS target SET phase = :phase
            FROM locked
            WHERE target.owner_id = locked.owner_id AND target.id_ = locked.id_ AND locked.allowed
              AND locked.phase IS DISTINCT FROM :phase
        )
        SELECT status::text, revision, allowed FROM locked
        """)
