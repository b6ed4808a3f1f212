"""Storing what workspaces take: each figure with a version, changes that come meanwhile kept, totals in step.

The *version* of a figure is a number that is drawn before the disk is read. A measured figure is stored only
over one of a lower version: over one whose measuring began earlier. Each reported change is also added up in
``delta``. Where that sum has moved between the drawing of the version and the writing, changes were reported
while the disk was read, and the measured figure may hold them or not: they are added to it, and it is marked
as stale, so that the next run looks again.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.database.distribution import by_owner, execute_for, execute_for_users
from platform_db.models import WorkflowResource
from platform_db.models.expiry import expire_row, expire_rows
from platform_db.models.resource import UserResource
from platform_db.quota.resources import AnyResource, lock_remaining_users, lock_users, locking

logger = logging.getLogger(__name__)

# A sparse file shows any size. So figures and totals stop here, at 4 EiB: what adds two of them, in SQL or
# elsewhere, stays within a bigint.
MOST_BYTES = 2**62


@dataclass(frozen=True)
class Workspace(os.PathLike[str]):
    """A workspace, as it stood in the database before it was measured.

    :param path: where it is.
    :param runs: how many runs share it.
    :param deleted: whether all of them are deleted.
    :param used: the stored figure, in bytes; None where there is none yet.
    :param version: the version that a figure gets whose measuring begins now.
    :param delta: the sum of all changes reported so far, in bytes.
    :param read_at: when this was read, by the database's clock.
    """

    owner_id: uuid.UUID
    path: str
    runs: int
    deleted: bool
    used: int | None
    version: int
    delta: int
    read_at: datetime

    def __fspath__(self) -> str:
        return self.path


@dataclass(frozen=True)
class Figure:
    """What a workspace was found to take.

    :param bytes: allocated bytes; apparent ones if ``apparent``.
    :param method: how it was found: ``scan``, ``ceph``, ``given`` by a caller, or ``missing`` where there is
        no workspace.
    """

    workspace: Workspace
    bytes: int
    method: str
    apparent: bool = False


class Written(NamedTuple):
    """What became of one figure.

    :param used: what is stored now, in bytes.
    :param before: what was stored, in bytes; None where nothing was.
    :param stale: whether changes were reported while the workspace was measured.
    """

    owner_id: uuid.UUID
    path: str
    used: int
    before: int | None
    stale: bool


class Drift(NamedTuple):
    """A user's total that was ``before``, and not the sum of what was used."""

    user_id: uuid.UUID
    before: int
    used: int


# The figures of runs, ``r``, with the runs, ``w``; runs that share a workspace have equal ones.
RUNS = """platform.workflow AS w
    LEFT JOIN platform.workflow_resource AS r
        ON r.owner_id = w.owner_id AND r.workflow_id = w.id_ AND r.resource_id = CAST(:resource AS uuid)"""


def read_statement(chosen: str) -> sa.TextClause:
    """Return the statement that reads workspaces; where ``:storing`` is false it draws no version, but 0.

    :param chosen: what follows :data:`RUNS`: conditions, the grouping by workspace, order and limit.
    """
    return sa.text(f"""
        WITH drawn AS MATERIALIZED (
            SELECT CASE WHEN :storing THEN platform.next_number('platform.quota_version')
                        ELSE 0 END AS version,
                   clock_timestamp() AS read_at
        ),
        page AS (
            SELECT w.owner_id, w.workspace_path AS path, count(*) AS runs,
                   bool_and(w.status = 'deleted') AS deleted, max(r.quota_used) AS used,
                   coalesce(max(r.delta), 0) AS delta
            FROM {RUNS}
            {chosen}
        )
        SELECT page.*, drawn.version, drawn.read_at FROM page CROSS JOIN drawn ORDER BY owner_id, path
        """)


_READ = read_statement(
    "WHERE w.owner_id = CAST(:owner AS uuid) AND w.workspace_path = :path "
    "GROUP BY w.owner_id, w.workspace_path"
)


def read_workspace(session: Session, resource: AnyResource, owner_id: uuid.UUID, path: str) -> Workspace:
    """Read what is stored of one workspace and draw a version, before measuring it.

    :raises errors.WorkflowNotFound: its runs are deleted.
    """
    parameters = {"resource": resource.id_, "owner": owner_id, "path": path, "storing": True}
    row = execute_for(session.connection(), owner_id, _READ, parameters).one_or_none()
    if row is None:
        raise errors.WorkflowNotFound(f"there is no workflow in {path!r} any more")
    return Workspace(**row._mapping)


_WRITE = sa.text(f"""
    WITH measured AS (
        SELECT * FROM unnest(
            CAST(:owners AS uuid[]), CAST(:paths AS text[]), CAST(:bytes AS bigint[]),
            CAST(:deltas AS bigint[]), CAST(:versions AS bigint[]), CAST(:read_at AS timestamptz[]),
            CAST(:methods AS text[]), CAST(:apparent AS boolean[])
        ) AS m (owner_id, path, bytes, delta, version, read_at, method, apparent)
    ),
    runs AS MATERIALIZED (
        SELECT m.owner_id, m.path, m.version, w.id_, r.quota_used, r.version AS stored_version, r.delta
        FROM {RUNS}
        JOIN measured AS m ON m.owner_id = w.owner_id AND m.path = w.workspace_path
    ),
    stored AS (
        SELECT owner_id, path, version, max(quota_used) AS used, coalesce(max(stored_version), 0) AS newest,
               coalesce(max(delta), 0) AS delta
        FROM runs GROUP BY owner_id, path, version
    ),
    figures AS MATERIALIZED (
        SELECT m.*, s.used AS before,
               least({MOST_BYTES}, greatest(0, CAST(m.bytes AS numeric) + s.delta - m.delta))::bigint AS used,
               s.delta AS current_delta, s.delta <> m.delta AS stale
        FROM measured AS m
        JOIN stored AS s ON s.owner_id = m.owner_id AND s.path = m.path AND s.version = m.version
        WHERE s.newest < m.version
    ),
    written AS (
        INSERT INTO platform.workflow_resource
            (owner_id, workflow_id, resource_id, quota_used, measured_at, version, delta, stale, method,
             apparent)
        SELECT f.owner_id, runs.id_, CAST(:resource AS uuid), f.used, f.read_at, f.version, f.current_delta,
               f.stale, f.method, f.apparent
        FROM figures AS f
        JOIN runs ON runs.owner_id = f.owner_id AND runs.path = f.path AND runs.version = f.version
        ORDER BY f.owner_id, runs.id_
        ON CONFLICT (owner_id, workflow_id, resource_id) DO UPDATE
        SET quota_used = excluded.quota_used, measured_at = excluded.measured_at, version = excluded.version,
            delta = excluded.delta, stale = excluded.stale, method = excluded.method,
            apparent = excluded.apparent
    )
    SELECT owner_id, path, used, before, stale FROM figures
    """)

_CHANGE_TOTALS = sa.text(f"""
    WITH locked AS MATERIALIZED ({locking("= ANY(CAST(:users AS uuid[]))")})
    UPDATE platform.user_resource AS total
    SET quota_used = least({MOST_BYTES}, greatest(0, total.quota_used + change.amount))
    FROM locked
    JOIN unnest(CAST(:users AS uuid[]), CAST(:amounts AS numeric[])) AS change (owner_id, amount)
        ON change.owner_id = locked.owner_id
    WHERE total.owner_id = locked.owner_id AND total.resource_id = locked.resource_id
      AND total.resource_id = CAST(:resource AS uuid)
    RETURNING locked.quota_used AS before
    """)


def write_figures(session: Session, resource: AnyResource, figures: Sequence[Figure]) -> list[Written]:
    """Store figures, and change their owners' totals by the differences; return those that were stored.

    A figure that is missing in the answer was not stored: a newer one is, or its runs are deleted. Three
    statements, whatever the number of figures; a workspace must not be in it twice.
    """
    figures = sorted(figures, key=lambda figure: (figure.workspace.owner_id.bytes, figure.workspace.path))
    lock_remaining_users(session, {figure.workspace.owner_id for figure in figures}, resource)
    connection, rows = session.connection(), list[Any]()
    for some in by_owner(connection, figures, lambda figure: figure.workspace.owner_id):
        parameters = {
            "resource": resource.id_,
            "owners": [figure.workspace.owner_id for figure in some],
            "paths": [figure.workspace.path for figure in some],
            "bytes": [figure.bytes for figure in some],
            "deltas": [figure.workspace.delta for figure in some],
            "versions": [figure.workspace.version for figure in some],
            "read_at": [figure.workspace.read_at for figure in some],
            "methods": [figure.method for figure in some],
            "apparent": [figure.apparent for figure in some],
        }
        rows += execute_for(connection, some[0].workspace.owner_id, _WRITE, parameters).all()
    written = [Written(*row) for row in rows]
    changes: Counter[uuid.UUID] = Counter()
    for figure in written:
        changes[figure.owner_id] += figure.used - (figure.before or 0)
    change_totals(session, resource, changes)
    return written


def change_totals(session: Session, resource: AnyResource, changes: Mapping[uuid.UUID, int]) -> list[int]:
    """Add to totals of users, never below zero or above :data:`MOST_BYTES`; return what they were.

    Those that do not change are not written.
    """
    changes = {user: amount for user, amount in changes.items() if amount}
    if not changes:
        return []
    connection, before = session.connection(), list[int]()
    for users in by_owner(connection, changes, lambda user: user):
        amounts = [changes[user] for user in users]
        parameters = {"users": users, "amounts": amounts, "resource": resource.id_}
        before += execute_for(connection, users[0], _CHANGE_TOTALS, parameters).scalars()
    return before


_CHANGE_FIGURE = sa.text(f"""
    WITH runs AS MATERIALIZED (
        SELECT w.id_, r.quota_used, r.version, r.delta, r.measured_at, r.method, r.stale, r.apparent
        FROM {RUNS}
        WHERE w.owner_id = CAST(:owner AS uuid) AND w.workspace_path = :path
    ),
    stored AS (
        -- Numeric, since a figure and a change may be more than a bigint holds.
        SELECT CAST(coalesce(max(quota_used), 0) AS numeric) AS used, coalesce(max(version), 0) AS version,
               CAST(coalesce(max(delta), 0) AS numeric) AS delta, max(measured_at) AS measured_at,
               max(method) AS method, coalesce(bool_or(stale), false) AS stale,
               coalesce(bool_or(apparent), false) AS apparent
        FROM runs
    )
    INSERT INTO platform.workflow_resource AS figure
        (owner_id, workflow_id, resource_id, quota_used, measured_at, version, delta, stale, method, apparent)
    SELECT CAST(:owner AS uuid), runs.id_, CAST(:resource AS uuid),
           least({MOST_BYTES}, greatest(0, s.used + :change)), s.measured_at, s.version,
           greatest(-{MOST_BYTES}, least({MOST_BYTES}, s.delta + :change)), s.stale, s.method, s.apparent
    FROM runs CROSS JOIN stored AS s
    ORDER BY runs.id_
    ON CONFLICT (owner_id, workflow_id, resource_id) DO UPDATE
    SET quota_used = excluded.quota_used, delta = excluded.delta
    RETURNING figure.workflow_id, (SELECT used FROM stored)::bigint AS before
    """)


def change_figure(
    session: Session, resource: AnyResource, owner_id: uuid.UUID, path: str, change: int
) -> None:
    """Add ``change`` to the figure of a workspace, never below zero or above :data:`MOST_BYTES`."""
    lock_users(session, [owner_id], resource)
    parameters = {"owner": owner_id, "path": path, "change": change, "resource": resource.id_}
    rows = execute_for(session.connection(), owner_id, _CHANGE_FIGURE, parameters).all()
    for row in rows:
        expire_row(session, WorkflowResource, (owner_id, row.workflow_id, resource.id_))
    if rows:
        _warn_where_cut(change, rows[0].before, f"workspace {path!r} of user {owner_id}")


def change_total(session: Session, resource: AnyResource, user_id: uuid.UUID, change: int) -> None:
    """Add ``change`` to a user's total in one statement; a row that is missing is created."""
    before = change_totals(session, resource, {user_id: change})
    if not before:
        lock_users(session, [user_id], resource)
        before = change_totals(session, resource, {user_id: change})
    expire_rows(session, UserResource, {user_id})
    for used in before:
        _warn_where_cut(change, used, f"{resource.name} of user {user_id}")


def _warn_where_cut(change: int, before: int, what: str) -> None:
    if not 0 <= before + change <= MOST_BYTES:
        end = 0 if change < 0 else MOST_BYTES
        logger.warning("%s: a change of %d stops at %d, because it was %d", what, change, end, before)


def set_totals(assignments: str, sums: str) -> sa.TextClause:
    """Return the statement that sets totals of ``:resource`` to sums, and tells of each user what was stored.

    :param sums: the query of each user's ``owner_id``, what is stored, ``before``, and the sum, ``used``.
    """
    return sa.text(f"""
        UPDATE platform.user_resource AS total SET {assignments} FROM ({sums}) AS sums
        WHERE total.owner_id = sums.owner_id AND total.resource_id = CAST(:resource AS uuid)
        RETURNING total.owner_id, sums.before, sums.used
        """)


def drifts(
    session: Session, statement: sa.TextClause, users: Iterable[uuid.UUID], resource: AnyResource
) -> list[Drift]:
    """Execute a statement that gives users' totals, and return those that were not the sums."""
    rows = execute_for_users(session.connection(), statement, users, {"resource": resource.id_})
    return [Drift(*row) for row in rows if row.before != row.used]
