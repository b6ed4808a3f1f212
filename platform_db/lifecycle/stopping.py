"""Stopping runs: one that waits stops at once, one that is running is asked, and jobs follow their run."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.database.distribution import execute_by_owner
from platform_db.lifecycle.statements import NOTE_REASON
from platform_db.lifecycle.target import Key
from platform_db.models import Job, Workflow
from platform_db.models.expiry import expire_row, held_keys
from platform_db.states import JOB, JOB_TIMES, RUN_TIMES, RunStatus


def is_asked(run: str) -> str:
    """Return the condition that a run is asked to stop. A request counts for the life in which it came.

    :param run: what the statement calls the run.
    """
    return f"({run}.status = 'running' AND {run}.stop_requested_at >= {run}.run_started_at)"


class Stored(NamedTuple):
    """A run after it was stopped or asked, or was neither.

    :param former: the status that it had before.
    :param stop_requested_at: when it was asked first; None where it is not asked.
    """

    key: Key
    former: RunStatus
    status: RunStatus
    revision: int
    stop_requested_at: datetime | None


def stop_runs(
    session: Session, runs: Sequence[Key], *, reason: str | None, force: bool = False
) -> dict[uuid.UUID, Stored]:
    """Stop runs that wait, with their jobs, and ask those that are running; return what is stored, by id.

    One statement, which locks in key order; what it returns is in that order, too. What was asked before
    keeps the time of the first request.

    :param force: stop what is running, too.
    """
    rows = execute_by_owner(session.connection(), _STOP, runs, {"reason": reason, "force": force})
    found = {
        id_: Stored((owner_id, id_), RunStatus(former), RunStatus(status), revision, asked_at)
        for owner_id, id_, former, status, revision, asked_at in rows
    }
    _forget(session, Workflow, {stored.key for stored in found.values()}, ("stop_requested_at", *RUN_TIMES))
    stopped = [s.key for s in found.values() if s.former != s.status]
    if stopped:
        stop_jobs(session, stopped, reason=reason)
    return found


def stop_jobs(session: Session, runs: Sequence[Key], *, reason: str | None) -> list[Key]:
    """Stop the jobs of these runs that are alive, and return their keys.

    A job that another transaction writes at this moment is left alone, so that neither waits for the other:
    its worker hears of it by its next heartbeat, and recovery stops what is left.
    """
    rows = execute_by_owner(session.connection(), _STOP_JOBS, runs, {"reason": reason})
    stopped = [(owner_id, id_) for owner_id, id_ in rows]
    _forget(session, Job, set(stopped), JOB_TIMES)
    return stopped


def _forget(session: Session, model: type[Any], keys: set[Key], names: Sequence[str]) -> None:
    """Let the session's objects of these rows be read again."""
    for key in held_keys(session, model):
        if key in keys:
            expire_row(session, model, key, ("status", "revision", "updated", *names))


_GIVEN = "(SELECT * FROM unnest(CAST(:owners AS uuid[]), CAST(:ids AS uuid[])) AS given)"

# A running run that was asked keeps its status: its history gets a note.
_STOP = sa.text(f"""
    WITH reason AS MATERIALIZED ({NOTE_REASON}),
    locked AS MATERIALIZED (
        SELECT owner_id, id_, status, revision,
               CASE WHEN {is_asked("workflow")} THEN stop_requested_at END AS asked_at
        FROM platform.workflow WHERE (owner_id, id_) IN {_GIVEN}
        ORDER BY owner_id, id_
        FOR NO KEY UPDATE
    ),
    stopped AS (
        UPDATE platform.workflow AS target SET status = 'stopped'
        FROM locked, reason
        WHERE target.owner_id = locked.owner_id AND target.id_ = locked.id_
          AND (locked.status IN ('created', 'queued', 'pending') OR (:force AND locked.status = 'running'))
        RETURNING target.owner_id, target.id_, target.status, target.revision
    ),
    asked AS (
        UPDATE platform.workflow AS target
        SET stop_requested_at = greatest(clock_timestamp(), target.run_started_at)
        FROM locked
        WHERE target.owner_id = locked.owner_id AND target.id_ = locked.id_
          AND locked.status = 'running' AND locked.asked_at IS NULL AND NOT :force
        RETURNING target.owner_id, target.id_, target.stop_requested_at
    ),
    noted AS (
        INSERT INTO platform.note (id_, owner_id, entity, entity_id, topic, message, details)
        SELECT gen_random_uuid(), owner_id, 'workflow', id_, 'stop',
               'asked to stop' || coalesce(': ' || :reason, ''),
               jsonb_build_object('actor', nullif(current_setting('platform.actor', true), ''))
        FROM asked
    )
    SELECT owner_id, locked.id_, locked.status AS former, coalesce(stopped.status, locked.status) AS status,
           coalesce(stopped.revision, locked.revision) AS revision,
           coalesce(asked.stop_requested_at, locked.asked_at) AS asked_at
    FROM locked LEFT JOIN stopped USING (owner_id, id_) LEFT JOIN asked USING (owner_id, id_)
    ORDER BY owner_id, id_
    """)

_ALIVE_JOBS = ", ".join(f"'{status}'" for status in JOB.alive)

_STOP_JOBS = sa.text(f"""
    WITH reason AS MATERIALIZED ({NOTE_REASON}),
    locked AS MATERIALIZED (
        SELECT owner_id, id_ FROM platform.job
        WHERE (owner_id, workflow_id) IN {_GIVEN} AND status IN ({_ALIVE_JOBS})
        ORDER BY owner_id, id_
        FOR NO KEY UPDATE SKIP LOCKED
    )
    UPDATE platform.job AS target SET status = 'stopped'
    FROM locked, reason
    WHERE target.owner_id = locked.owner_id AND target.id_ = locked.id_
    RETURNING target.owner_id, target.id_
    """)
