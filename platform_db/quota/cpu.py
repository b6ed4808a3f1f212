"""Processing time of runs, sessions and services: from their start to their end, in the current period.

All of it is arithmetic on what the database holds, so it is done there, for many users in one statement.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.database.distribution import execute_for, execute_for_users
from platform_db.database.session import SessionFactory, takes_session
from platform_db.leases.tasks import HeldLease, lease
from platform_db.lifecycle.target import RunOrId, RunTarget
from platform_db.models import (
    InteractiveSessionResource,
    ResourceType,
    ServiceResource,
    User,
    UserResource,
    Workflow,
    WorkflowResource,
)
from platform_db.models.expiry import expire_row, expire_rows
from platform_db.models.identity import UserOrId, user_id_of
from platform_db.quota import figures
from platform_db.quota.batches import Problems, run_each
from platform_db.quota.figures import Drift
from platform_db.quota.periods import CURRENT_START, IS_OVER, move_periods_on
from platform_db.quota.resources import AnyResource, get_default_key, lock_remaining_users, lock_users
from platform_db.quota.scope import Scope, count_users, portions

LEASE = "cpu-usage-update"

# What uses processing time, and where its figures are stored.
CONSUMERS = {
    "workflow": ("workflow_resource", "workflow_id"),
    "interactive_session": ("interactive_session_resource", "session_id"),
    "service": ("service_resource", "service_id"),
}

# Sessions and services may be deleted while they run; the history knows when. Where it has been pruned, the
# row's last change is the deletion.
_END = {
    "workflow": "coalesce(e.run_finished_at, e.run_stopped_at)",
    **dict.fromkeys(
        ("interactive_session", "service"),
        """coalesce(e.run_finished_at, e.run_stopped_at, CASE WHEN e.status = 'deleted' THEN coalesce(
            (SELECT c.at FROM platform.status_change AS c
             WHERE c.owner_id = e.owner_id AND c.entity_id = e.id_ AND c.revision = e.revision), e.updated)
        END)""",
    ),
}


def total_of(pruned: str, used: str) -> str:
    """Return a user's total: what was used by what has been pruned, and by what is still there."""
    return f"CAST(least({figures.MOST_BYTES}, {pruned} + coalesce({used}, 0)) AS bigint)"


def _spans(entity: str, chosen: str, totals: str = "platform.user_resource") -> str:
    """Return the query of what runs, sessions or services have used, and of what is stored of it, ``before``.

    :param chosen: the condition of those that are meant, ``e``.
    :param totals: where their owners' current periods are.
    """
    table, key = CONSUMERS[entity]
    # greatest() knows no "unknown": without a period, everything counts.
    # What never started has used nothing, whenever it ended.
    used = f"""CASE WHEN e.run_started_at IS NOT NULL THEN greatest(0, floor(extract(epoch FROM
        {_END[entity]} - greatest(e.run_started_at, total.quota_period_start_at)) * 1000))::bigint END"""
    return f"""
        SELECT *, used <> before OR (before IS NULL AND ended) AS differs FROM (
            SELECT e.owner_id, e.id_, f.quota_used AS before, coalesce({used}, 0) AS used,
                   {_END[entity]} IS NOT NULL AND e.run_started_at IS NOT NULL AS ended
            FROM platform.{entity} AS e
            JOIN {totals} AS total
                ON total.owner_id = e.owner_id AND total.resource_id = CAST(:resource AS uuid)
            LEFT JOIN platform.{table} AS f
                ON f.owner_id = e.owner_id AND f.{key} = e.id_ AND f.resource_id = CAST(:resource AS uuid)
            WHERE {chosen}
        ) AS spans
    """


_ONE = "e.owner_id = CAST(:owner AS uuid) AND e.id_ = CAST(:id AS uuid)"
_OF_USERS = "e.owner_id = ANY(CAST(:users AS uuid[]))"


@cache
def _store(entity: str, chosen: str) -> sa.TextClause:
    """Return the statement that stores the figures of the chosen runs, sessions or services that differ."""
    table, key = CONSUMERS[entity]
    return sa.text(f"""
        WITH found AS MATERIALIZED (
            SELECT * FROM ({_spans(entity, chosen)}) AS spans WHERE differs OR :every
        ),
        written AS (
            INSERT INTO platform.{table} (owner_id, {key}, resource_id, quota_used, measured_at)
            SELECT owner_id, id_, CAST(:resource AS uuid), used, clock_timestamp() FROM found
            WHERE differs ORDER BY owner_id, id_
            ON CONFLICT (owner_id, {key}, resource_id) DO UPDATE
            SET quota_used = excluded.quota_used, measured_at = excluded.measured_at
        )
        SELECT count(*) FILTER (WHERE differs) AS figures, max(used) AS used,
               coalesce(sum(used - coalesce(before, 0)), 0) AS change
        FROM found
        """)


# What storing would do, told without a write or a lock: "periods" has what moving the periods on would leave.
_LOOK = sa.text(f"""
    WITH periods AS MATERIALIZED (
        SELECT u.id_ AS owner_id, CAST(:resource AS uuid) AS resource_id, {IS_OVER} AS is_over,
               coalesce(total.quota_used, 0) AS quota_used,
               CASE WHEN {IS_OVER} THEN 0 ELSE coalesce(total.quota_pruned, 0) END AS quota_pruned,
               CASE WHEN {IS_OVER} THEN {CURRENT_START} ELSE total.quota_period_start_at END
                   AS quota_period_start_at
        FROM platform.user_ AS u
        LEFT JOIN platform.user_resource AS total
            ON total.owner_id = u.id_ AND total.resource_id = CAST(:resource AS uuid)
        WHERE u.id_ = ANY(CAST(:users AS uuid[]))
    ),
    spans AS ({" UNION ALL ".join(_spans(entity, _OF_USERS, "periods") for entity in CONSUMERS)})
    SELECT p.owner_id, p.is_over, p.quota_used AS before,
           {total_of("p.quota_pruned", "sum(spans.used)")} AS used,
           count(*) FILTER (WHERE spans.differs) AS figures
    FROM periods AS p LEFT JOIN spans ON spans.owner_id = p.owner_id
    GROUP BY p.owner_id, p.is_over, p.quota_used, p.quota_pruned
    ORDER BY p.owner_id
    """)

_SUMS = " UNION ALL ".join(
    f"""SELECT owner_id, sum(quota_used) AS used FROM platform.{table}
        WHERE owner_id = ANY(CAST(:users AS uuid[])) AND resource_id = CAST(:resource AS uuid)
        GROUP BY owner_id"""
    for table, _ in CONSUMERS.values()
)
_SUM_TOTALS = figures.set_totals(
    "quota_used = sums.used, measured_at = clock_timestamp()",
    f"""
        SELECT t.owner_id, t.quota_used AS before, {total_of("t.quota_pruned", "sum(f.used)")} AS used
        FROM platform.user_resource AS t LEFT JOIN ({_SUMS}) AS f ON f.owner_id = t.owner_id
        WHERE t.owner_id = ANY(CAST(:users AS uuid[])) AND t.resource_id = CAST(:resource AS uuid)
        GROUP BY t.owner_id, t.quota_used, t.quota_pruned
    """,
)


@dataclass
class CpuReport(Problems):
    """What a run of the CPU job did.

    :param users: how many were looked at.
    :param failed_users: how many could not be updated; what is stored of them stays.
    :param figures: how many figures of runs, sessions and services changed.
    :param totals: how many users' totals changed.
    :param periods: for how many users a new period began.
    """

    users: int = 0
    failed_users: int = 0
    figures: int = 0
    totals: int = 0
    periods: int = 0

    def fail(self, user_id: uuid.UUID, reason: str) -> None:
        """Note that a user could not be updated."""
        self.failed_users += 1
        self.note(f"the processing time of user {user_id} could not be updated: {reason}")

    def raise_for_problems(self) -> None:
        """Raise :class:`errors.PartialFailure` where a user could not be updated."""
        if self.failed_users:
            raise errors.PartialFailure(
                f"{self.failed_users} of {self.users} users could not be updated; "
                f"the first: {self.problems[0]}"
            )


def update_cpu_usage(
    factory: SessionFactory,
    scope: Scope | None = None,
    *,
    dry_run: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> CpuReport:
    """Bring the processing time of everything in scope, and its owners' totals, up to date.

    :param factory: makes the sessions; each portion of users has a transaction of its own.
    :param dry_run: compute everything, but store nothing and take no lock.
    :raises errors.AlreadyRunning: another run of the same scope is going on.
    :raises errors.ResourceNotFound: the default resources were never created.
    """
    scope, report = scope or Scope(), CpuReport()
    with factory() as session, session.begin():
        resource = get_default_key(session, ResourceType.cpu)
        total = count_users(session, scope) if progress else 0
    work = partial(find_drift if dry_run else update_users, resource=resource)
    with nullcontext(HeldLease()) if dry_run else lease(factory, LEASE + scope.name) as held:
        for user_ids in portions(factory, scope, resource):
            held.check()
            for done in run_each(factory, user_ids, work, report.fail):
                report.figures += done.figures
                report.totals += len(done.totals)
                report.periods += done.periods
            report.users += len(user_ids)
            if progress:
                progress(report.users, max(total, report.users))
    return report


class Changes(NamedTuple):
    """How many figures changed and how many periods began, and the totals that changed."""

    figures: int
    periods: int
    totals: list[Drift]


def find_drift(session: Session, user_ids: Sequence[uuid.UUID], resource: AnyResource) -> Changes:
    """Return what :func:`update_users` would change, and change nothing."""
    rows = execute_for_users(session.connection(), _LOOK, user_ids, {"resource": resource.id_})
    changed = [Drift(row.owner_id, row.before, row.used) for row in rows if row.before != row.used]
    return Changes(sum(row.figures for row in rows), sum(row.is_over for row in rows), changed)


def update_users(session: Session, user_ids: Sequence[uuid.UUID], resource: AnyResource) -> Changes:
    """Bring the users' figures and totals up to date."""
    lock_remaining_users(session, user_ids, resource)
    periods = move_periods_on(session, resource, user_ids)
    parameters = {"resource": resource.id_, "every": False}
    connection, changed = session.connection(), 0
    for entity in CONSUMERS:
        rows = execute_for_users(connection, _store(entity, _OF_USERS), user_ids, parameters)
        changed += sum(row.figures for row in rows)
    # A statement of its own: it has to see what the ones before have written.
    return Changes(changed, periods, figures.drifts(session, _SUM_TOTALS, user_ids, resource))


@takes_session
def update_workflow_cpu_quota(session: Session, workflow: RunOrId) -> int:
    """Store the processing time of a run, change its owner's total by the difference, and return it.

    :returns: milliseconds from the run's start to its end; 0 while it has not ended.
    :raises errors.WorkflowNotFound: there is no such run.
    """
    session.flush()
    target = RunTarget.of(session, workflow, Workflow)
    owner_id, workflow_id = target.key(session)
    resource = get_default_key(session, ResourceType.cpu)
    lock_users(session, [owner_id], resource)
    parameters = {"owner": owner_id, "id": workflow_id, "resource": resource.id_, "every": True}
    stored = execute_for(session.connection(), owner_id, _store("workflow", _ONE), parameters).one()
    figures.change_totals(session, resource, {owner_id: int(stored.change)})
    expire_row(session, WorkflowResource, (owner_id, workflow_id, resource.id_))
    expire_row(session, UserResource, (owner_id, resource.id_))
    if isinstance(workflow, Workflow):
        session.expire(workflow, ["resources"])
    if stored.used is None:
        raise target.not_found()
    return int(stored.used)


@takes_session
def update_users_cpu_quota(session: Session, user: UserOrId | None = None) -> None:
    """Bring the processing time of a user, or of all users, up to date, with all figures that it consists of.

    :raises errors.UserNotFound: there is no such user.
    """
    session.flush()
    resource = get_default_key(session, ResourceType.cpu)
    if user is None:
        user_ids = list(session.scalars(sa.select(User.id_).order_by(User.id_)))
    else:
        user_ids = [user_id_of(user)]
        lock_users(session, user_ids, resource)
    update_users(session, user_ids, resource)
    for model in (UserResource, WorkflowResource, InteractiveSessionResource, ServiceResource):
        expire_rows(session, model, set(user_ids))
    if isinstance(user, User):
        session.expire(user, ["resources"])
