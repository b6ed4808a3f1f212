"""A user's runs at a glance."""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.database.session import takes_session
from platform_db.models import format_run_number
from platform_db.models.identity import UserOrId, user_id_of
from platform_db.states import RunStatus


class LatestRun(NamedTuple):
    """The run that was created or changed last.

    :param name: with its run number.
    """

    id_: uuid.UUID
    name: str
    status: RunStatus
    created: datetime
    updated: datetime


@dataclass(frozen=True)
class Overview:
    """A user's runs.

    :param total: how many there are, without the deleted ones.
    :param by_status: how many have which status; a status that none has is not there. Deleted ones are.
    :param running: how many are running.
    :param duration: milliseconds from start to end, of all runs that have ended, without the deleted ones.
    :param latest: the run that was created or changed last, without the deleted ones.
    """

    total: int
    by_status: dict[RunStatus, int]
    running: int
    duration: int
    latest: LatestRun | None

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        latest = self.latest
        return {
            **asdict(self),
            "by_status": {status.value: runs for status, runs in self.by_status.items()},
            "latest": latest
            and {
                "id": str(latest.id_),
                "name": latest.name,
                "status": latest.status.value,
                "created": latest.created.isoformat(),
                "updated": latest.updated.isoformat(),
            },
        }


@takes_session
def overview(session: Session, owner: UserOrId) -> Overview:
    """Return a user's runs at a glance, in one statement over the owner's own rows.

    :param owner: the user, or the user's id; one that does not exist has no runs.
    :raises errors.InvalidIdentifier: this is no id.
    """
    session.flush()
    rows = session.connection().execute(_OVERVIEW, {"owner": str(user_id_of(owner))}).all()
    by_status = {RunStatus(row.status): row.runs for row in rows}
    alive = [row for row in rows if row.status != RunStatus.deleted]
    latest = None
    if alive:
        row = alive[0]
        name = f"{row.name}.{format_run_number(row.run_number_major, row.run_number_minor)}"
        latest = LatestRun(row.id_, name, RunStatus(row.latest_status), row.created, row.updated)
    return Overview(
        total=sum(row.runs for row in alive),
        by_status=by_status,
        running=by_status.get(RunStatus.running, 0),
        duration=sum(row.duration for row in alive),
        latest=latest,
    )


_OVERVIEW = sa.text("""
    WITH own AS MATERIALIZED (
        SELECT id_, name, run_number_major, run_number_minor, status, created, updated,
               CASE WHEN status IN ('finished', 'failed', 'stopped') THEN greatest(0, floor(extract(
                   epoch FROM coalesce(run_finished_at, run_stopped_at) - run_started_at) * 1000))::bigint
               END AS duration
        FROM platform.workflow WHERE owner_id = CAST(:owner AS uuid)
    ),
    latest AS (SELECT * FROM own WHERE status <> 'deleted' ORDER BY updated DESC, id_ DESC LIMIT 1)
    SELECT counted.*, latest.id_, latest.name, latest.run_number_major, latest.run_number_minor,
           latest.status AS latest_status, latest.created, latest.updated
    FROM (
        SELECT status, count(*) AS runs, coalesce(sum(duration), 0)::bigint AS duration
        FROM own GROUP BY status
    ) AS counted
    LEFT JOIN latest ON true
    ORDER BY counted.status
    """)
