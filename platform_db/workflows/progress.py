"""How far runs are, as the database keeps it with each change of a job."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.database.distribution import by_owner, execute_for
from platform_db.database.session import takes_session
from platform_db.lifecycle.target import RunOrId, RunTarget
from platform_db.models import Workflow


@dataclass(frozen=True)
class Progress:
    """How many jobs a run has, and how many of them have which status.

    :param total: all of them; those that are left over are created or queued.
    """

    total: int = 0
    running: int = 0
    finished: int = 0
    failed: int = 0
    stopped: int = 0


@takes_session
def progress(session: Session, run: RunOrId) -> Progress:
    """Return how far a run is; no job is looked at.

    :param run: the run, its key ``(owner_id, id_)``, or its id. One that does not exist has no jobs.
    """
    return progress_many(session, [run])[0]


@takes_session
def progress_many(session: Session, runs: Sequence[RunOrId]) -> list[Progress]:
    """Return how far runs are, such as those of a page of a list, in their order; one statement.

    :param runs: as :func:`progress` takes one; a run or its key is found by its owner's index.
    """
    session.flush()
    targets = [RunTarget.of(session, run, Workflow) for run in runs]
    connection, found = session.connection(), dict[int, Progress]()
    places = list(enumerate(targets))
    for some in by_owner(connection, places, lambda one: one[1].owner_id or _NOBODY):
        owners = [None if target.owner_id is None else str(target.owner_id) for _, target in some]
        parameters = {"owners": owners, "ids": [str(target.id_) for _, target in some]}
        statement, owner = _read(None not in owners), some[0][1].owner_id or _NOBODY
        for place, *counts in execute_for(connection, owner, statement, parameters):
            found[some[place - 1][0]] = Progress(*counts)
    return [found[place] for place, _ in places]


_NOBODY = uuid.UUID(int=0)


@cache
def _read(owners_are_known: bool) -> sa.TextClause:
    owner = "given.owner_id"
    if not owners_are_known:
        owner += ", (SELECT owner_id FROM platform.workflow WHERE workflow.id_ = given.id_)"
    return sa.text(f"""
        SELECT given.place, parts.* FROM unnest(CAST(:owners AS uuid[]), CAST(:ids AS uuid[]))
            WITH ORDINALITY AS given (owner_id, id_, place)
        CROSS JOIN LATERAL (
            SELECT coalesce(sum(total), 0)::bigint AS total, coalesce(sum(running), 0)::bigint AS running,
                   coalesce(sum(finished), 0)::bigint AS finished, coalesce(sum(failed), 0)::bigint AS failed,
                   coalesce(sum(stopped), 0)::bigint AS stopped
            FROM platform.workflow_progress AS part
            WHERE part.owner_id = coalesce({owner}) AND part.workflow_id = given.id_
        ) AS parts
        ORDER BY given.place
        """)
