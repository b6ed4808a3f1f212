"""Replacing a log, and storing what was assigned to it."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.database.session import takes_session
from platform_db.logs.appending import CUT, append_to
from platform_db.logs.target import Logged, LoggedOrId, LogTarget
from platform_db.models.log_sizes import Sizes
from platform_db.tenancy import in_tenant_scope


@takes_session
def replace_log(
    session: Session,
    row: LoggedOrId,
    text: str | bytes,
    *,
    model: type[Logged] | None = None,
    limit: int | None = None,
) -> int:
    """Put a text in the place of the log of a run or of a job, and return how many bytes were kept.

    The second of two that replace a log waits for the first one's commit, and its text stays. What another
    transaction appends meanwhile stays, too. A follower gets the new text after what it has read.

    :param model: what an id is the id of.
    :param limit: as for :func:`append_log`.
    :raises errors.NotFound: there is no such row.
    :raises errors.Refused: the session is in a tenant's scope, which appends to logs alone.
    """
    session.flush()
    return _replace(session, LogTarget.of(session, row, model), text, limit)


def replace(session: Session, row: Logged, text: str | bytes) -> None:
    """Replace the row's log within a flush."""
    _replace(session, LogTarget.of(session, row), text)


def append(session: Session, row: Logged, text: str | bytes) -> None:
    """Append to the row's log within a flush."""
    append_to(session, LogTarget.of(session, row), text)


def _replace(session: Session, target: LogTarget, text: str | bytes, limit: int | None = None) -> int:
    if in_tenant_scope(session):
        raise errors.Refused("a tenant appends to logs alone: replace one outside the tenant's scope")
    session.connection().execute(_LOCK, {"id": str(target.id_)})
    removed = target.execute(session, _REMOVE, cut=CUT).one_or_none()
    if removed is not None:
        Sizes.of(session).add(target.id_, removed, -removed.length)
    return append_to(session, target, text, limit)


# A statement of its own: the next one sees what the transaction that was waited for has committed.
_LOCK = sa.text("SELECT pg_advisory_xact_lock(hashtextextended('replace log ' || :id, 0))")

# A marker that says where the log was cut was not counted.
_REMOVE = """
    WITH gone AS (
        DELETE FROM platform.log_chunk AS gone USING {chunks}
        WHERE {row} AND gone.owner_id = chunk.owner_id AND gone.workflow_id = chunk.workflow_id
          AND gone.number = chunk.number
        RETURNING gone.owner_id, gone.workflow_id, gone.number, gone.data
    )
    SELECT owner_id, workflow_id, max(number) AS number,
           sum(coalesce(nullif(position(:cut IN data), 0) - 1, octet_length(data))) AS length
    FROM gone GROUP BY owner_id, workflow_id
"""
