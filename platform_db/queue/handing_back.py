"""Handing back what was claimed: unfinished, to the queue, or with the status in which it ended."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from functools import cache

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.database.distribution import execute_by_owner
from platform_db.database.session import takes_session
from platform_db.leases.holding import MODELS, Claim, group_by_holder
from platform_db.lifecycle import transition
from platform_db.lifecycle.statements import NOTE_REASON
from platform_db.lifecycle.stopping import stop_jobs
from platform_db.models import Job, Workflow
from platform_db.models.expiry import expire_row
from platform_db.queue.sources import source_of
from platform_db.quota.termination import account_for_ended_run
from platform_db.states import MACHINES, RunStatus, Status

Claimed = Claim | Workflow | Job
"""A claim, or the row that was claimed."""


@takes_session
def release(session: Session, rows: Iterable[Claimed], worker: str | None = None) -> set[uuid.UUID]:
    """Give back what the worker claimed and has not started; return the ids of what was given back.

    A pending run is queued again, at its old place; a queued job has no lease any more. What the worker does
    not hold, or has started, stays as it is.

    :param worker: by default who made the claim, and of rows this process.
    """
    session.flush()
    released: set[uuid.UUID] = set()
    for (table, holder), keys in group_by_holder(rows, worker):
        parameters = {"worker": holder, "reason": f"released by {holder}"}
        back = execute_by_owner(session.connection(), _release(table), keys, parameters)
        released |= {row.id_ for row in back}
        for key in keys:
            expire_row(session, MODELS[table], key)
    return released


@takes_session
def finish(
    session: Session,
    row: Claimed,
    status: Status | str,
    worker: str | None = None,
    reason: str | None = None,
) -> Status:
    """Set the status in which a run or job of the worker's ended, give its lease back, and return the status.

    What else follows from the end of a run does, as with
    :func:`platform_db.workflows.update_workflow_status`: its processing time is counted, and the jobs of one
    that stopped are stopped.

    :param status: ``finished``, ``failed`` or ``stopped``.
    :param worker: by default who made the claim, and of a row this process.
    :param reason: why, for the history.
    :raises errors.Conflict: the worker does not hold it: it has ended, or was recovered, and another worker
        may have it.
    :raises errors.InvalidTransition: the stored status does not allow it.
    :raises errors.InvalidArgument: it is no status in which something ends.
    """
    [((table, holder), [key])] = group_by_holder([row], worker)
    model = MODELS[table]
    source_of(model)  # It refuses what has no queue.
    wanted: Status = MACHINES[table].status(status)
    if wanted not in MACHINES[table].ended:
        ends = ", ".join(sorted(MACHINES[table].ended))
        raise errors.InvalidArgument(f"nothing ends as {wanted}; choose from {ends}")
    session.flush()
    parameters = {"owner": str(key[0]), "id": str(key[1]), "worker": holder}
    connection = session.connection()
    if not connection.execute(_hold(table), parameters).rowcount:
        found = connection.execute(_read(table), parameters).one_or_none()
        if found is None:
            raise errors.NotFound(f"there is no {table} {key[1]}")
        raise errors.Conflict(table, str(key[1]), "holder", holder, found.status, found.revision)
    stored = transition(session, key, wanted, model=model, reason=reason)
    connection.execute(_DROP, parameters)
    if model is Workflow:
        if stored == RunStatus.stopped:
            stop_jobs(session, [key], reason=reason)
        account_for_ended_run(session, key)
    return stored


# A worker that hands back waits for the row before its lease, as all who change both.
@cache
def _release(table: str) -> sa.TextClause:
    is_run = table == "workflow"
    return sa.text(f"""
        WITH held AS MATERIALIZED (
            SELECT leased.owner_id, leased.id_
            FROM unnest(CAST(:owners AS uuid[]), CAST(:ids AS uuid[])) AS given (owner_id, id_)
            JOIN platform.{table} AS leased USING (owner_id, id_)
            JOIN platform.lease ON lease.owner_id = leased.owner_id AND lease.entity_id = leased.id_
            WHERE leased.status = '{"pending" if is_run else "queued"}' AND lease.holder = :worker
            ORDER BY leased.owner_id, leased.id_
            FOR NO KEY UPDATE OF leased FOR UPDATE OF lease
        ),
        note AS MATERIALIZED ({NOTE_REASON}),
        {_BACK if is_run else ""}
        dropped AS (
            DELETE FROM platform.lease USING held
            WHERE lease.owner_id = held.owner_id AND lease.entity_id = held.id_
        )
        SELECT id_ FROM held
        """)


_BACK = """
        back AS (
            UPDATE platform.workflow SET status = 'queued' FROM held, note
            WHERE workflow.owner_id = held.owner_id AND workflow.id_ = held.id_
        ),
"""


# Both rows are locked: what recovery has taken meanwhile is not found.
@cache
def _hold(table: str) -> sa.TextClause:
    return sa.text(f"""
        SELECT FROM platform.{table} AS leased
        JOIN platform.lease ON lease.owner_id = leased.owner_id AND lease.entity_id = leased.id_
        WHERE leased.owner_id = CAST(:owner AS uuid) AND leased.id_ = CAST(:id AS uuid)
          AND lease.holder = :worker
        FOR NO KEY UPDATE OF leased FOR UPDATE OF lease
        """)


@cache
def _read(table: str) -> sa.TextClause:
    return sa.text(f"""
        SELECT status, revision FROM platform.{table}
        WHERE owner_id = CAST(:owner AS uuid) AND id_ = CAST(:id AS uuid)
        """)


_DROP = sa.text("""
    DELETE FROM platform.lease
    WHERE owner_id = CAST(:owner AS uuid) AND entity_id = CAST(:id AS uuid) AND holder = :worker
    """)
