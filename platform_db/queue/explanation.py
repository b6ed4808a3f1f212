"""Explaining why a run is not taken from the queue."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.database.distribution import execute_for
from platform_db.database.session import takes_session
from platform_db.lifecycle.target import Key, RunOrId, RunTarget
from platform_db.models import ResourceUnit, RunStatus, Workflow
from platform_db.queue.limits import IS_AT_WORK, TURN, default_limits, is_ahead
from platform_db.queue.sources import DELAYED, MOST_DUE, READY, RUNS
from platform_db.states import WORKFLOW

# To count all of a long queue would take a second.
MOST_COUNTED = 10_000


@dataclass(frozen=True)
class Obstacle:
    """What keeps a run in the queue.

    :param code: ``not_queued``, ``start_after``, ``quota``, ``concurrent_runs``, ``starts_per_minute`` or
        ``runs_before``.
    :param text: the same for people.
    :param facts: the numbers behind it, for programs.
    """

    code: str
    text: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Explanation:
    """Why a run is not taken from the queue.

    :param type_: only a worker that takes runs of this type takes it,
    :param labels: and one whose selector these meet.
    :param obstacles: all that is in its way; none if it is the next of its owner.
    """

    run: Key
    type_: str
    labels: dict[str, str]
    obstacles: tuple[Obstacle, ...]

    @property
    def is_next(self) -> bool:
        """Whether a worker takes it as soon as it is its owner's turn."""
        return not self.obstacles

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "id": str(self.run[1]),
            "owner_id": str(self.run[0]),
            "type": self.type_,
            "labels": self.labels,
            "is_next": self.is_next,
            "obstacles": [vars(obstacle) for obstacle in self.obstacles],
        }


@takes_session
def explain(session: Session, run: RunOrId) -> Explanation:
    """Say what keeps a run from being claimed by a worker that takes runs of every kind.

    :param run: the run, its key ``(owner_id, id_)``, or its id.
    :raises errors.WorkflowNotFound: there is no such run.
    """
    session.flush()
    key = RunTarget.of(session, run, Workflow).key(session)
    parameters = {**default_limits(), "owner": str(key[0]), "id": str(key[1]), "most": MOST_COUNTED + 1}
    found = execute_for(session.connection(), key[0], _READ, parameters).one_or_none()
    if found is None:
        raise errors.WorkflowNotFound(f"there is no workflow {key[1]}")
    return Explanation(key, found.type_, found.labels, tuple(_obstacles(found)))


def _obstacles(found: sa.Row[Any]) -> Iterator[Obstacle]:
    if found.status != RunStatus.queued:
        status = RunStatus(found.status)
        text = f"it is {status}"
        if status is RunStatus.created:
            text += ", and was not queued yet"
        elif status in WORKFLOW.ended and status is not RunStatus.deleted:
            text += ": only a restart of it can be queued"
        elif found.holder:
            text += f", held by {found.holder}"
        yield Obstacle("not_queued", text, {"status": status.value, "holder": found.holder})
        return
    if found.start_after is not None:
        facts = {"start_after": found.start_after.isoformat()}
        yield Obstacle("start_after", f"it may start after {found.start_after.isoformat()}", facts)
    for resource, unit, used, limit in found.over_quota or ():
        amounts = (ResourceUnit.human_readable_unit(ResourceUnit(unit), amount) for amount in (used, limit))
        facts = {"resource": resource, "used": used, "limit": limit}
        yield Obstacle("quota", f"its owner has used {' of '.join(amounts)} of {resource}", facts)
    if found.concurrent_runs is not None and found.at_work >= found.concurrent_runs:
        facts = {"pending_and_running": found.at_work, "limit": found.concurrent_runs}
        text = f"its owner has {found.at_work} of {found.concurrent_runs} pending and running runs"
        yield Obstacle("concurrent_runs", text, facts)
    if found.starts_per_minute == 0:
        yield Obstacle("starts_per_minute", "its owner may start none", {"limit": 0, "until": None})
    elif found.next_start is not None:
        until, limit = found.next_start.isoformat(), found.starts_per_minute
        text = f"its owner may start {limit} a minute, the next one at {until}"
        yield Obstacle("starts_per_minute", text, {"limit": limit, "until": until})
    if found.before != 0:
        number = f"more than {MOST_COUNTED:,}" if found.before is None else f"{found.before:,}"
        text = f"its owner has {number} queued run{'' if found.before == 1 else 's'} before it"
        yield Obstacle("runs_before", text, {"runs": found.before})


# What is read of the limits and of those before it are the fragments that a claim has, too.
_READ = sa.text(f"""
    SELECT run.status, run.type_, run.labels, lease.holder, turn.concurrent_runs, turn.starts_per_minute,
           CASE WHEN run.start_after > statement_timestamp() THEN run.start_after END AS start_after,
           CASE WHEN turn.concurrent_runs IS NOT NULL THEN
               (SELECT count(*) FROM platform.workflow WHERE owner_id = run.owner_id AND {IS_AT_WORK})
           END AS at_work,
           CASE WHEN {is_ahead("start.at")} THEN start.at END AS next_start,
           (SELECT jsonb_agg(jsonb_build_array(resource.name, resource.unit, quota_used, quota_limit)
                             ORDER BY resource.name)
            FROM platform.user_resource JOIN platform.resource ON resource.id_ = resource_id
            WHERE owner_id = run.owner_id AND quota_used >= quota_limit) AS over_quota,
           CASE WHEN run.status = 'queued' THEN before.runs END AS before
    FROM platform.workflow AS run
    JOIN (
        SELECT {TURN} FROM platform.owner_limit WHERE owner_id = CAST(:owner AS uuid)
    ) AS turn USING (owner_id)
    -- A start takes its part of the minute that may lie ahead.
    CROSS JOIN LATERAL (
        SELECT turn.starts_until + make_interval(secs => 60.0 / nullif(turn.starts_per_minute, 0))
               - interval '1 minute' AS at
    ) AS start
    LEFT JOIN platform.lease ON lease.owner_id = run.owner_id AND lease.entity_id = run.id_
         AND run.status IN ('pending', 'running')
    LEFT JOIN LATERAL (
        SELECT place - 1 AS runs FROM (
            SELECT id_, row_number() OVER (ORDER BY {RUNS.order}) AS place FROM (
                (SELECT {RUNS.columns} FROM platform.workflow
                 WHERE owner_id = run.owner_id AND {READY.queued} ORDER BY {READY.order} LIMIT :most)
                UNION ALL
                (SELECT {RUNS.columns} FROM platform.workflow
                 WHERE owner_id = run.owner_id AND {DELAYED.queued} AND {DELAYED.goes} AND id_ <> run.id_
                 ORDER BY {DELAYED.order} LIMIT {MOST_DUE})
                UNION ALL
                SELECT run.priority, run.created, run.id_ WHERE run.start_after IS NOT NULL
            ) AS first
        ) AS numbered WHERE numbered.id_ = run.id_
    ) AS before ON true
    WHERE run.owner_id = CAST(:owner AS uuid) AND run.id_ = CAST(:id AS uuid)
    """)
