"""Holding leases: heartbeats of a worker for the rows that it works on."""

from __future__ import annotations

import os
import socket
import uuid
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import cache

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.database.distribution import execute_by_owner
from platform_db.database.session import takes_session
from platform_db.lifecycle.stopping import is_asked
from platform_db.lifecycle.target import Key, Reference
from platform_db.models import InteractiveSession, Job, Service, Workflow
from platform_db.models.base import identity_of
from platform_db.states import MACHINES, WORKFLOW

Leased = Workflow | Job | InteractiveSession | Service

MODELS: dict[str, type[Leased]] = {
    model.__tablename__: model for model in (Workflow, Job, InteractiveSession, Service)
}

CLOCK_ERROR = timedelta(minutes=1)
"""A time further ahead than this was stored before the server's clock was set back."""


@dataclass(frozen=True, slots=True)
class Claim(Reference):
    """A row that a worker has claimed, and holds by its lease. Functions take it in the row's place.

    :param model: :class:`~platform_db.models.Workflow` or :class:`~platform_db.models.Job`.
    :param name: the run's or the job's name.
    :param run_number: of a run, such as ``"2.1"``.
    :param revision: the row's revision since the claim.
    :param worker: who claimed it.
    """

    name: str | None
    run_number: str | None
    revision: int
    worker: str


class Held(set[uuid.UUID]):
    """The ids of the rows that a worker holds.

    :param stop_requested: those of them that it should stop: runs that were asked to, jobs of such runs, and
        jobs of runs that have ended.
    """

    def __init__(self, ids: Iterable[uuid.UUID] = (), stop_requested: Iterable[uuid.UUID] = ()) -> None:
        super().__init__(ids)
        self.stop_requested = set(stop_requested)


def require_holder(holder: str) -> str:
    """Return the name of a holder.

    :raises errors.InvalidArgument: it is none, such as that of a variable which is not set.
    """
    if not isinstance(holder, str) or not holder:
        raise errors.InvalidArgument(f"who holds leases has a name, such as node/process, not {holder!r}")
    return holder


def this_worker() -> str:
    """Return the name by which this process holds leases: ``node/process``."""
    return f"{socket.gethostname()}/{os.getpid()}"


@takes_session
def heartbeat(session: Session, rows: Iterable[Leased | Claim], holder: str | None = None) -> Held:
    """Note that the holder is alive and works on the rows; return the ids of those that it holds.

    One statement for each kind of row. The first heartbeat takes the lease. An id that does not come back is
    lost: it has ended, or was recovered, or another holder has it; the worker should let go of it. What is in
    ``stop_requested`` the worker should stop, and then set to *stopped*.

    :param rows: rows, or what :func:`platform_db.queue.claim` returned.
    :param holder: ``node`` or ``node/process``; by default who made the claim, and of rows this process.
    """
    session.flush()
    held = Held()
    for (table, by), keys in group_by_holder(rows, holder):
        beaten = execute_by_owner(session.connection(), _heartbeat(table), keys, {"holder": by})
        for id_, stop_requested in beaten:
            held.add(id_)
            if stop_requested:
                held.stop_requested.add(id_)
    return held


@takes_session
def release(session: Session, rows: Iterable[Leased | Claim], holder: str | None = None) -> None:
    """Give the leases of the rows back; ``holder`` as with :func:`heartbeat`."""
    session.flush()
    for (_, by), keys in group_by_holder(rows, holder):
        execute_by_owner(session.connection(), _RELEASE, keys, {"holder": by})


def group_by_holder(
    rows: Iterable[Leased | Claim], holder: str | None
) -> list[tuple[tuple[str, str], list[Key]]]:
    """Return the keys of the rows by their tables and holders, in the order in which they are locked.

    :raises errors.InvalidArgument: one is nothing that is leased, or the holder has no name.
    """
    if holder is not None:
        require_holder(holder)
    groups: dict[tuple[str, str], list[Key]] = defaultdict(list)
    here = this_worker()
    for row in rows:
        if isinstance(row, Claim):
            table, key, by = row.model.__tablename__, row.key, row.worker
        elif not isinstance(row, Leased):
            raise errors.InvalidArgument(f"a {type(row).__name__} has no lease; give a claim or a row")
        else:
            table, key, by = row.__tablename__, identity_of(row), here
        groups[table, holder or by].append(key)
    return sorted(groups.items())


_GIVEN = "unnest(CAST(:owners AS uuid[]), CAST(:ids AS uuid[])) AS given (owner_id, id_)"


@cache
def _heartbeat(table: str) -> sa.TextClause:
    alive = ", ".join(f"'{status}'" for status in MACHINES[table].alive)
    # A lease that is being recovered at this moment is waited for, then gone, and not taken again: its former
    # holder learns that it is lost.
    return sa.text(f"""
        WITH alive AS MATERIALIZED (
            SELECT leased.owner_id, leased.id_, {_STOPS.get(table, "false")} AS stops
            FROM {_GIVEN} JOIN platform.{table} AS leased USING (owner_id, id_) {JOIN_RUN.get(table, "")}
            WHERE leased.status IN ({alive})
        ),
        locked AS MATERIALIZED (
            SELECT lease.owner_id, lease.entity_id FROM platform.lease
            JOIN alive ON alive.owner_id = lease.owner_id AND alive.id_ = lease.entity_id
            WHERE lease.holder = :holder
            ORDER BY lease.owner_id, lease.entity_id
            FOR NO KEY UPDATE OF lease
        ),
        kept AS (
            UPDATE platform.lease SET heartbeat_at = clock_timestamp()
            FROM locked WHERE lease.owner_id = locked.owner_id AND lease.entity_id = locked.entity_id
            RETURNING lease.entity_id
        ),
        taken AS (
            INSERT INTO platform.lease (owner_id, entity, entity_id, holder, heartbeat_at)
            SELECT owner_id, '{table}', id_, :holder, clock_timestamp() FROM alive
            WHERE NOT EXISTS (
                SELECT FROM platform.lease
                WHERE lease.owner_id = alive.owner_id AND lease.entity_id = alive.id_
            )
            ORDER BY owner_id, id_
            ON CONFLICT DO NOTHING
            RETURNING entity_id
        )
        SELECT id_, stops FROM alive
        WHERE id_ IN (SELECT entity_id FROM kept UNION ALL SELECT entity_id FROM taken)
        """)


RUN_OF = {"workflow": "leased", "job": "run"}
"""What a statement calls the run of a row of this table that it calls ``leased``."""

JOIN_RUN = {
    "job": "JOIN platform.workflow AS run ON run.owner_id = leased.owner_id AND run.id_ = leased.workflow_id"
}

_ENDED = ", ".join(f"'{status}'" for status in sorted(WORKFLOW.ended))

_STOPS = {"workflow": is_asked("leased"), "job": f"({is_asked('run')} OR run.status IN ({_ENDED}))"}


_RELEASE = sa.text(f"""
    DELETE FROM platform.lease WHERE (owner_id, entity_id) IN (
        SELECT lease.owner_id, lease.entity_id FROM {_GIVEN}
        JOIN platform.lease ON lease.owner_id = given.owner_id AND lease.entity_id = given.id_
        WHERE lease.holder = :holder
        ORDER BY lease.owner_id, lease.entity_id FOR UPDATE OF lease
    )
    RETURNING entity_id
    """)
