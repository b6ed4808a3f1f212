"""How the jobs of the platform ended last: what monitoring asks instead of the cluster's logs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.database.session import takes_session


@dataclass(frozen=True)
class Outcome:
    """How a job ended last, all its shards taken together.

    :param name: the command, such as ``audit seal``.
    :param exit_code: the largest of its shards.
    :param seconds: how long its longest shard took.
    :param succeeded_at: when the shard succeeded last that has not for the longest time; None where one never
        has.
    :param drift: by the names of resources, how many users' totals it found not to be the sum of their
        figures; None where it does not look.
    """

    name: str
    exit_code: int
    seconds: float
    ended_at: datetime
    succeeded_at: datetime | None
    drift: Mapping[str, int] | None


@takes_session
def record_outcome(
    session: Session,
    name: str,
    exit_code: int,
    seconds: float,
    *,
    shard: tuple[int, int] = (1, 1),
    drift: Mapping[str, int] | None = None,
) -> None:
    """Store how a job ended; an earlier end of the same job and shard is replaced.

    :param shard: which share of the work, from 1 on, of how many.
    :param drift: as in :class:`Outcome`; None leaves what is stored.
    """
    values = {
        "name": name,
        "shard": shard[0],
        "shards": shard[1],
        "exit_code": exit_code,
        "seconds": seconds,
        "drift": None if drift is None else json.dumps(drift),
    }
    session.connection().execute(_RECORD, values)


def read_outcomes(connection: sa.Connection) -> list[Outcome]:
    """Return how each job ended last; of a job in shards, those of the latest division count.

    :returns: what ended last comes last.
    """
    by_name = groupby(connection.execute(_READ), key=attrgetter("name"))
    found = [_outcome(list(rows)) for _, rows in by_name]
    return sorted(found, key=attrgetter("ended_at"))


def _outcome(rows: list[sa.Row[Any]]) -> Outcome:
    latest = max(rows, key=lambda row: row.ended_at)
    shards = [row for row in rows if row.shards == latest.shards]
    successes = [row.succeeded_at for row in shards]
    drifts = [row.drift for row in shards if row.drift is not None]
    return Outcome(
        name=latest.name,
        exit_code=max(row.exit_code for row in shards),
        seconds=max(row.seconds for row in shards),
        ended_at=latest.ended_at,
        succeeded_at=None if None in successes or len(shards) < latest.shards else min(successes),
        drift={name: sum(drift.get(name, 0) for drift in drifts) for name in set().union(*drifts)}
        if drifts
        else None,
    )


_RECORD = sa.text("""
    INSERT INTO platform.task_outcome AS outcome
        (name, shard, shards, exit_code, seconds, ended_at, succeeded_at, drift)
    VALUES (:name, :shard, :shards, :exit_code, :seconds, clock_timestamp(),
            CASE WHEN :exit_code = 0 THEN clock_timestamp() END, CAST(:drift AS jsonb))
    ON CONFLICT (name, shard, shards) DO UPDATE
    SET exit_code = excluded.exit_code, seconds = excluded.seconds, ended_at = excluded.ended_at,
        succeeded_at = coalesce(excluded.succeeded_at, outcome.succeeded_at),
        drift = coalesce(excluded.drift, outcome.drift)
    """)

_READ = sa.text("""
    SELECT name, shard, shards, exit_code, seconds, ended_at, succeeded_at, drift
    FROM platform.task_outcome ORDER BY name, shards, shard
    """)
