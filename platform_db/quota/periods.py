"""Quota periods: so many months each, counted from the creation of the user's account, in UTC."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.database.distribution import execute_for_users, is_distributed
from platform_db.database.session import takes_session
from platform_db.models import UserResource
from platform_db.models.expiry import expire_rows
from platform_db.quota.resources import AnyResource
from platform_db.settings import get_settings


def period_start(months: str) -> str:
    """Return the start of the period that now is in, as a ``timestamptz``; ``u`` is the user.

    Counting from the creation each time keeps the day: a month after 31 January is 28 February, two months
    after it are 31 March.
    """
    created, now = "(u.created AT TIME ZONE 'UTC')", "(now() AT TIME ZONE 'UTC')"
    periods = f"""(((extract(year FROM {now}) - extract(year FROM {created})) * 12
        + extract(month FROM {now}) - extract(month FROM {created}))::integer / {months})"""
    candidate = f"({created} + make_interval(months => {periods} * {months}))"
    return f"""(CASE WHEN {candidate} <= {now} THEN {candidate}
        ELSE {created} + make_interval(months => greatest({periods} - 1, 0) * {months}) END
        AT TIME ZONE 'UTC')"""


CURRENT_START = period_start("total.quota_period_months")
# Moving on twice changes nothing the second time.
IS_OVER = f"""(total.quota_period_months IS NOT NULL
    AND total.quota_period_start_at IS DISTINCT FROM {CURRENT_START})"""

_MOVE_ON = sa.text(f"""
    UPDATE platform.user_resource AS total
    SET quota_period_start_at = {CURRENT_START}, quota_pruned = 0
    FROM platform.user_ AS u
    WHERE total.owner_id = ANY(CAST(:users AS uuid[])) AND total.resource_id = CAST(:resource AS uuid)
      AND u.id_ = total.owner_id AND {IS_OVER}
    RETURNING total.owner_id
    """)


def move_periods_on(session: Session, resource: AnyResource, user_ids: Sequence[uuid.UUID]) -> int:
    """Move the periods of users whose rows are locked to the current one; return how many moved.

    Totals still hold what was pruned in the period before: they are to be summed next.
    """
    return len(execute_for_users(session.connection(), _MOVE_ON, user_ids, {"resource": resource.id_}))


_WITHOUT_PERIOD = """
    SELECT owner_id, resource_id FROM platform.user_resource
    WHERE resource_id = CAST(:resource AS uuid) AND quota_period_months IS NULL
      AND (CAST(:users AS uuid[]) IS NULL OR owner_id = ANY (CAST(:users AS uuid[])))
    ORDER BY owner_id
"""
_INITIALISE = sa.text(f"""
    WITH chosen AS MATERIALIZED ({_WITHOUT_PERIOD} FOR NO KEY UPDATE)
    UPDATE platform.user_resource AS total
    SET quota_period_months = :months, quota_period_start_at = {period_start("CAST(:months AS integer)")},
        quota_used = greatest(0, total.quota_used - total.quota_pruned), quota_pruned = 0
    FROM chosen JOIN platform.user_ AS u ON u.id_ = chosen.owner_id
    WHERE total.owner_id = chosen.owner_id AND total.resource_id = chosen.resource_id
    RETURNING total.owner_id
    """)


@takes_session
def initialise_default_periods(
    session: Session, resource: AnyResource, *, dry_run: bool = False
) -> list[uuid.UUID]:
    """Give the default period to every user who has none for this resource, and return their ids.

    :param dry_run: only return them.
    :raises errors.InvalidSetting: there is no default period.
    """
    months = get_settings().default_quota_cpu_period_reset_months
    if months is None:
        raise errors.InvalidSetting(
            "there is no default period: set PLATFORM_DB_DEFAULT_QUOTA_CPU_PERIOD_RESET_MONTHS to its months"
        )
    session.flush()
    connection = session.connection()
    parameters = {"resource": resource.id_, "months": months, "users": None}
    if dry_run or is_distributed(connection):
        user_ids = sorted(connection.scalars(sa.text(_WITHOUT_PERIOD), parameters))
        if not dry_run:
            rows = execute_for_users(connection, _INITIALISE, user_ids, parameters)
            user_ids = [row.owner_id for row in rows]
    else:
        user_ids = sorted(connection.scalars(_INITIALISE, parameters))
    expire_rows(session, UserResource, set(user_ids))
    return user_ids
