"""Deleting old task records, of all owners, in small transactions."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from platform_db import errors
from platform_db.audit import record_action
from platform_db.bounds import require_amount, require_limit, require_seconds
from platform_db.database.session import SessionFactory
from platform_db.models import NOBODY, AuditLogAction
from platform_db.models.identity import UserOrId, user_id_of
from platform_db.quota.resources import LOCK_USERS
from platform_db.tasks.statements import TABLE


def prune_tasks(
    factory: SessionFactory,
    *,
    older_than: timedelta | None = None,
    keep_bytes: int | None = None,
    owner: UserOrId | None = None,
    batch: int = 1000,
    dry_run: bool = False,
) -> int:
    """Delete completed tasks by age, by size or by both, and return how many; an audit row says so.

    Each batch is a transaction, and leaves alone what others have locked. What has not completed stays.

    :param older_than: what was submitted so long ago goes.
    :param keep_bytes: so many bytes of each owner's newest tasks stay.
    :param owner: only this owner's tasks.
    :param batch: how many go in one transaction.
    :param dry_run: only count.
    :raises errors.InvalidArgument: neither an age nor a size is given, or one is out of bounds.
    """
    if older_than is None and keep_bytes is None:
        raise errors.InvalidArgument("give an age, a size or both: otherwise no task is old")
    require_limit(batch, "batch size")
    owner_id = None if owner is None else user_id_of(owner)
    gone = 0
    try:
        if older_than is not None:
            for rows in prune_by_age(factory, older_than, owner_id, batch=batch, dry_run=dry_run):
                gone += rows
        if keep_bytes is not None:
            for rows in _prune_by_size(factory, keep_bytes, owner_id, batch, dry_run):
                gone += rows
    finally:
        if gone and not dry_run:
            details = {
                "table": "task_record",
                "rows": gone,
                "older_than_seconds": None if older_than is None else int(older_than.total_seconds()),
                "keep_bytes": keep_bytes,
            }
            with factory() as session, session.begin():
                record_action(session, owner_id or NOBODY, AuditLogAction.apply_retention, details)
    return gone


def prune_by_age(
    factory: SessionFactory,
    age: timedelta,
    owner_id: uuid.UUID | None = None,
    *,
    batch: int,
    dry_run: bool = False,
) -> Iterator[int]:
    """Delete completed tasks that were submitted so long ago, and yield how many, batch by batch.

    It reads each history from its old end, so what is kept costs nothing.
    """
    require_seconds(age, "age")
    with factory() as session:
        histories = session.connection().execute(_HISTORIES).all()
    for history in histories:
        if owner_id in (None, history.owner_id):
            values = {"owner": history.owner_id, "cluster": history.cluster, "age": age}
            yield from _prune(factory, _BY_AGE, values, batch, dry_run)


def _prune_by_size(
    factory: SessionFactory, keep: int, owner_id: uuid.UUID | None, batch: int, dry_run: bool
) -> Iterator[int]:
    require_amount(keep, "number of bytes")
    with factory() as session:
        beyond = session.connection().execute(_BEYOND, {"keep": keep}).scalars().all()
    for owner in beyond:
        if owner_id in (None, owner):
            yield from _prune(factory, _BY_SIZE, {"owner": owner, "keep": keep}, batch, dry_run)


def _prune(
    factory: SessionFactory, old: str, values: dict[str, Any], batch: int, dry_run: bool
) -> Iterator[int]:
    if dry_run:
        with factory() as session:
            yield session.connection().execute(_count(old), values).scalar_one()
        return
    while True:
        with factory() as session, session.begin():
            # The totals first, as a store that writes has them before it changes a task that is old by now.
            session.connection().execute(LOCK_USERS, {"users": [values["owner"]]})
            gone = session.connection().execute(_delete(old), {**values, "batch": batch}).rowcount
        if not gone:
            return
        yield gone


def _count(old: str) -> sa.TextClause:
    return sa.text(f"SELECT count(*) FROM ({old}) AS old")


def _delete(old: str) -> sa.TextClause:
    return sa.text(f"""
        WITH old AS MATERIALIZED ({old} LIMIT :batch),
        free AS MATERIALIZED (
            SELECT record.owner_id, record.msg_id FROM {TABLE} AS record
            JOIN old ON record.owner_id = old.owner_id AND record.msg_id = old.msg_id
            ORDER BY record.owner_id, record.msg_id FOR UPDATE OF record SKIP LOCKED
        )
        DELETE FROM {TABLE} AS record USING free
        WHERE record.owner_id = free.owner_id AND record.msg_id = free.msg_id
        """)


_BY_AGE = f"""
    SELECT owner_id, msg_id FROM {TABLE}
    WHERE owner_id = CAST(:owner AS uuid) AND cluster = :cluster AND completed IS NOT NULL
      AND submitted < now() - CAST(:age AS interval)
    ORDER BY submitted
"""

_BY_SIZE = f"""
    SELECT owner_id, msg_id FROM (
        SELECT owner_id, msg_id, completed, sum(size) OVER (ORDER BY submitted DESC, msg_id DESC) AS bytes
        FROM {TABLE} WHERE owner_id = CAST(:owner AS uuid)
    ) AS newest
    WHERE completed IS NOT NULL AND bytes > :keep
    ORDER BY bytes DESC
"""

_BEYOND = sa.text(f"""
    SELECT owner_id FROM {TABLE} GROUP BY owner_id HAVING sum(size) > :keep ORDER BY owner_id
    """)

# From one history to the next by the index, however many tasks each has.
_HISTORIES = sa.text(f"""
    WITH RECURSIVE history AS (
        (SELECT owner_id, cluster FROM {TABLE} ORDER BY owner_id, cluster LIMIT 1)
        UNION ALL
        SELECT next.owner_id, next.cluster FROM history CROSS JOIN LATERAL (
            SELECT record.owner_id, record.cluster FROM {TABLE} AS record
            WHERE (record.owner_id, record.cluster) > (history.owner_id, history.cluster)
            ORDER BY record.owner_id, record.cluster LIMIT 1
        ) AS next
    )
    SELECT owner_id, cluster FROM history
    """)
