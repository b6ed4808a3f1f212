"""How much of the queue an owner may take: runs at once, starts a minute, and nothing over a hard quota."""

from __future__ import annotations

from types import EllipsisType
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.audit import recorded_as
from platform_db.bounds import require_amount
from platform_db.database.session import takes_session
from platform_db.leases.holding import CLOCK_ERROR
from platform_db.models import OwnerLimit
from platform_db.models.expiry import expire_row
from platform_db.models.identity import UserOrId, user_id_of
from platform_db.settings import get_settings
from platform_db.tenancy import in_tenant_scope

UNLIMITED = 2**31 - 1
"""The limit of an owner who has none, whatever the default is."""


class Limits(NamedTuple):
    """An owner's own limits.

    :param concurrent_runs: how many pending and running runs the owner may have.
    :param starts_per_minute: how many runs may be claimed a minute.

    None is the default of the settings, 0 is none, :data:`UNLIMITED` is no limit.
    """

    concurrent_runs: int | None
    starts_per_minute: int | None


@takes_session
def set_limits(
    session: Session,
    owner: UserOrId,
    *,
    concurrent_runs: int | EllipsisType | None = ...,
    starts_per_minute: int | EllipsisType | None = ...,
    actor: UserOrId | None = None,
) -> Limits:
    """Set how much of the queue an owner may take, and return the limits before; a change is recorded.

    A limit that is not given stays as it is. No claim after the commit passes a lower one; what was claimed
    before goes on.

    :param concurrent_runs: how many pending and running runs the owner may have; None is the default
        (``PLATFORM_DB_QUEUE_CONCURRENT_RUNS``), 0 is none, :data:`UNLIMITED` is no limit, as below.
    :param starts_per_minute: how many runs may be claimed a minute; None is the default
        (``PLATFORM_DB_QUEUE_STARTS_PER_MINUTE``), 0 is none. After a pause so many may start at once, then
        one in each such part of a minute.
    :param actor: the user who sets it, for the audit log.
    :raises errors.UserNotFound: there is no such user.
    :raises errors.InvalidArgument: a limit is negative, or more than an ``integer`` column holds.
    """
    refuse_tenant_scope(session, "limits are the platform's to set")
    given = {"concurrent_runs": concurrent_runs, "starts_per_minute": starts_per_minute}
    for name, limit in given.items():
        if limit is not None and limit is not ...:
            require_amount(limit, name.replace("_", " "), largest=UNLIMITED)
    session.flush()
    owner_id = user_id_of(owner)
    parameters = {
        "owner": str(owner_id),
        **{name: None if limit is ... else limit for name, limit in given.items()},
        **{f"keep_{name}": limit is ... for name, limit in given.items()},
    }
    with recorded_as(session, actor_id=None if actor is None else user_id_of(actor)):
        before = session.connection().execute(_SET, parameters).one_or_none()
    if before is None:
        raise errors.UserNotFound(f"there is no user {owner_id}")
    expire_row(session, OwnerLimit, (owner_id,))
    return Limits(*before)


# It counts as a claim: one that has read the limits before takes nothing.
_SET = sa.text("""
    WITH before AS MATERIALIZED (
        SELECT owner_id, concurrent_runs, starts_per_minute FROM platform.owner_limit
        WHERE owner_id = CAST(:owner AS uuid) FOR NO KEY UPDATE
    )
    UPDATE platform.owner_limit SET
        claims = claims + 1,
        concurrent_runs = CASE WHEN :keep_concurrent_runs THEN before.concurrent_runs
                               ELSE CAST(:concurrent_runs AS integer) END,
        starts_per_minute = CASE WHEN :keep_starts_per_minute THEN before.starts_per_minute
                                 ELSE CAST(:starts_per_minute AS integer) END
    FROM before WHERE owner_limit.owner_id = before.owner_id
    RETURNING before.concurrent_runs, before.starts_per_minute
    """)


def refuse_tenant_scope(session: Session, why: str) -> None:
    """Raise :class:`errors.Refused` in a tenant's scope."""
    if in_tenant_scope(session):
        raise errors.Refused(f"not in a tenant's scope: {why}")


def default_limits() -> dict[str, Any]:
    """Return the parameters of the statements that read limits."""
    settings = get_settings()
    return {
        "concurrent_runs": settings.queue_concurrent_runs,
        "starts_per_minute": settings.queue_starts_per_minute,
        "clock_error": CLOCK_ERROR,
    }


# What statements read of the row of an owner, under the name "turn".
TURN = """
    owner_limit.owner_id, owner_limit.claims, owner_limit.starts_until,
    coalesce(owner_limit.concurrent_runs, CAST(:concurrent_runs AS integer)) AS concurrent_runs,
    coalesce(owner_limit.starts_per_minute, CAST(:starts_per_minute AS integer)) AS starts_per_minute
"""

# Scalar subqueries with a LIMIT: those of an EXISTS are hashed, and then all owners' rows are read.
OVER_QUOTA = """(SELECT true FROM platform.user_resource AS total
    WHERE total.owner_id = turn.owner_id AND total.quota_used >= total.quota_limit LIMIT 1)"""

IS_AT_WORK = "(status IN ('pending', 'running')) IS TRUE"  # As the index has it.

# No further than the limit.
_AT_WORK = f"""(SELECT count(*) FROM (
    SELECT FROM platform.workflow WHERE owner_id = turn.owner_id AND {IS_AT_WORK}
    LIMIT turn.concurrent_runs) AS run)"""


def is_ahead(column: str) -> str:
    """Return the condition that the starts of the past still last.

    What is further ahead than a minute was stored before the server's clock was set back.
    """
    return f"""{column} BETWEEN statement_timestamp()
        AND statement_timestamp() + interval '1 minute' + CAST(:clock_error AS interval)"""


_SECONDS_AHEAD = f"""CASE WHEN {is_ahead("turn.starts_until")}
    THEN extract(epoch FROM turn.starts_until - statement_timestamp()) ELSE 0 END"""


# How many runs the limits leave room for, up to :limit. Of the starts of a minute, those that last are gone.
ROOM = f"""
    CASE WHEN {OVER_QUOTA} THEN 0 ELSE greatest(0, least(:limit,
        CASE WHEN turn.concurrent_runs IS NOT NULL THEN turn.concurrent_runs - {_AT_WORK} END,
        CASE WHEN turn.starts_per_minute IS NOT NULL
             THEN floor((60 - {_SECONDS_AHEAD}) * turn.starts_per_minute / 60)::bigint END)) END
"""


_RATE = "coalesce(starts_per_minute, CAST(:starts_per_minute AS integer))"

# The end of the starts of the past after count.rows more.
STARTS_UNTIL = f"""
    CASE WHEN {_RATE} > 0
         THEN greatest(CASE WHEN {is_ahead("starts_until")} THEN starts_until END, statement_timestamp())
              + make_interval(secs => count.rows * 60.0 / {_RATE})
         ELSE starts_until END
"""
