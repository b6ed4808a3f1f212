"""The queue at a glance: who has what in it, and whose turn it is."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.bounds import require_limit
from platform_db.database.distribution import execute_everywhere, execute_for
from platform_db.database.session import takes_session
from platform_db.models.identity import UserOrId, user_id_of
from platform_db.queue.limits import IS_AT_WORK, TURN, default_limits
from platform_db.queue.sources import DELAYED, READY, RUNS, owners_with, waiting_owners


@dataclass(frozen=True)
class OwnerQueue:
    """What an owner has in the queue.

    :param oldest_queued: when the oldest queued run was created.
    :param concurrent_runs: the limit that counts, the default where the owner has none of its own; None is
        unlimited.
    :param starts_per_minute: likewise.
    :param served_at: when a run of the owner was claimed last.
    """

    owner_id: uuid.UUID
    email: str
    queued: int
    pending: int
    running: int
    oldest_queued: datetime | None
    concurrent_runs: int | None
    starts_per_minute: int | None
    served_at: datetime | None

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            **vars(self),
            "owner_id": str(self.owner_id),
            "oldest_queued": self.oldest_queued and self.oldest_queued.isoformat(),
            "served_at": self.served_at and self.served_at.isoformat(),
        }


@takes_session
def queue_status(session: Session, owner: UserOrId | None = None, *, limit: int = 100) -> list[OwnerQueue]:
    """Return what owners have queued, pending and running, in the order of their turns.

    An owner with nothing of it is left out. Each run that is in the queue or at work is counted.

    :param owner: only this one, also with nothing.
    :param limit: how many owners at most.
    """
    session.flush()
    parameters = {
        **default_limits(),
        "owner": None if owner is None else str(user_id_of(owner)),
        "limit": require_limit(limit),
    }
    connection = session.connection()
    if owner is not None:
        rows: list[Any] = list(execute_for(connection, parameters["owner"], _READ_ONE, parameters))
    else:
        rows = execute_everywhere(connection, _READ_ALL, parameters)
        # Of several machines' owners, those who were served longest ago.
        rows.sort(key=lambda row: (row.served_at is not None, row.served_at, row.owner_id))
    return [OwnerQueue(*row) for row in rows[: parameters["limit"]]]


def _of_lines(aggregate: str, between: str) -> str:
    return between.join(
        f"(SELECT {aggregate} FROM platform.workflow WHERE owner_id = turn.owner_id AND {line.queued})"
        for line in (READY, DELAYED)
    )


_OWNERS = f"""
    WITH RECURSIVE {waiting_owners(RUNS)},
    working AS ({owners_with("workflow", IS_AT_WORK, "status", "working")})
    SELECT owner_id FROM waiting UNION SELECT owner_id FROM working
"""


def _read(owners: str) -> sa.TextClause:
    return sa.text(f"""
        SELECT turn.owner_id, user_.email, runs.queued, runs.pending, runs.running, runs.oldest_queued,
               turn.concurrent_runs, turn.starts_per_minute, nullif(turn.served_at, '-infinity') AS served_at
        FROM (
            SELECT {TURN}, owner_limit.served_at
            FROM ({owners}) AS present
            JOIN platform.owner_limit ON owner_limit.owner_id = present.owner_id
            ORDER BY served_at, owner_id
            LIMIT :limit
        ) AS turn
        JOIN platform.user_ ON user_.id_ = turn.owner_id
        CROSS JOIN LATERAL (
            SELECT {_of_lines("count(*)", " + ")} AS queued,
                   least({_of_lines("min(created)", ", ")}) AS oldest_queued,
                   count(*) FILTER (WHERE status = 'pending') AS pending,
                   count(*) FILTER (WHERE status = 'running') AS running
            FROM platform.workflow WHERE owner_id = turn.owner_id AND {IS_AT_WORK}
        ) AS runs
        ORDER BY turn.served_at, turn.owner_id
        """)


_READ_ALL = _read(_OWNERS)
_READ_ONE = _read("SELECT CAST(:owner AS uuid) AS owner_id")
