"""Deleting old task records, of all owners, in small transactions."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import timedelta
from functools import cache

import sqlalchemy as sa

from platform_db import errors
from platform_db.audit import record_action
from platform_db.bounds import require_amount, require_limit, require_seconds
from platform_db.database.distribution import execute_everywhere, execute_for, execute_for_users
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

    Each batch is a transaction, and leaves alone what others have locked. What has not completed stays, and
    so does what was never submitted.

    :param older_than: what was submitted so long ago goes.
    :param keep_bytes: so many bytes of each owner's newest tasks stay.
    :param owner: only this owner's tasks.
    :param batch: how many go in one transaction.
    :param dry_run: only count.
    :raises errors.InvalidArgument: neither an age nor a size is given, or one is out of bounds.
    """
    if older_than is None and keep_bytes is None:
        raise errors.InvalidArgument(
            "give an age, a size or both: otherwise no task is old",
            hint="older_than and keep_bytes, on the command line --older-than and --keep-bytes",
        )
    require_limit(batch, "batch size")
    owner_id = None if owner is None else user_id_of(owner)
    gone = 0
    try:
        for rows in delete_old_tasks(factory, older_than, keep_bytes, owner_id, batch=batch, dry_run=dry_run):
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


def delete_old_tasks(
    factory: SessionFactory,
    age: timedelta | None = None,
    keep_bytes: int | None = None,
    owner_id: uuid.UUID | None = None,
    *,
    batch: int,
    dry_run: bool = False,
) -> Iterator[int]:
    """Delete completed tasks by age, by size or by both, and yield how many, batch by batch.

    It reads each history from its old end, so what is kept costs nothing; with ``keep_bytes`` it reads all of
    an owner's tasks once, where these have more.
    """
    limits = {
        "age": None if age is None else timedelta(seconds=require_seconds(age, "age")),
        "keep": None if keep_bytes is None else require_amount(keep_bytes, "number of bytes"),
        "owner": owner_id,
    }
    with factory() as session:
        rows = execute_everywhere(session.connection(), _cuts(owner_id is not None), limits)
        cuts = [row._mapping for row in rows]
    for cut in cuts:
        if dry_run:
            with factory() as session:
                yield execute_for(session.connection(), cut["owner_id"], _COUNT, dict(cut)).scalar_one()
            continue
        while True:
            with factory() as session, session.begin():
                # The totals first, as a store that writes has them before it changes an old task.
                connection, owner = session.connection(), cut["owner_id"]
                execute_for_users(connection, LOCK_USERS, [owner])
                gone = len(execute_for(connection, owner, _DELETE, {**cut, "batch": batch}).all())
            if not gone:
                break
            yield gone


_OLD = f"""
    SELECT owner_id, msg_id FROM {TABLE}
    WHERE owner_id = CAST(:owner_id AS uuid) AND cluster = :cluster AND completed IS NOT NULL
      AND submitted <= :submitted AND (submitted, msg_id) <= (:submitted, :msg_id)
    ORDER BY submitted
"""

_COUNT = sa.text(f"SELECT count(*) FROM ({_OLD}) AS old")

_DELETE = sa.text(f"""
    WITH old AS MATERIALIZED ({_OLD} LIMIT :batch),
    free AS MATERIALIZED (
        SELECT record.owner_id, record.msg_id FROM {TABLE} AS record
        JOIN old ON record.owner_id = old.owner_id AND record.msg_id = old.msg_id
        ORDER BY record.owner_id, record.msg_id FOR UPDATE OF record SKIP LOCKED
    )
    DELETE FROM {TABLE} AS record USING free
    WHERE record.owner_id = free.owner_id AND record.msg_id = free.msg_id
    RETURNING record.msg_id
    """)


# An age cuts at a time, so no id is at the cut; a size cuts at an owner's newest record that no longer fits.
# From one history to the next by the index, however many tasks each has.
@cache
def _cuts(owner_is_known: bool) -> sa.TextClause:
    owned = "record.owner_id = CAST(:owner AS uuid)" if owner_is_known else "true"
    return sa.text(f"""
        WITH RECURSIVE history AS (
            (SELECT owner_id, cluster FROM {TABLE} AS record WHERE {owned} ORDER BY 1, 2 LIMIT 1)
            UNION ALL
            SELECT next.owner_id, next.cluster FROM history CROSS JOIN LATERAL (
                SELECT record.owner_id, record.cluster FROM {TABLE} AS record
                WHERE {owned} AND (record.owner_id, record.cluster) > (history.owner_id, history.cluster)
                ORDER BY record.owner_id, record.cluster LIMIT 1
            ) AS next
        ),
        owner AS (SELECT DISTINCT owner_id FROM history),
        cut AS (
            SELECT owner_id, now() - CAST(:age AS interval) AS submitted, '' AS msg_id FROM owner
            WHERE CAST(:age AS interval) IS NOT NULL
            UNION ALL
            SELECT beyond.owner_id, newest.submitted, newest.msg_id FROM (
                SELECT owner_id FROM {TABLE} JOIN owner USING (owner_id)
                GROUP BY owner_id HAVING sum(size) > CAST(:keep AS bigint)
            ) AS beyond CROSS JOIN LATERAL (
                SELECT submitted, msg_id FROM (
                    SELECT submitted, msg_id, sum(size) OVER (ORDER BY submitted DESC, msg_id DESC) AS bytes
                    FROM {TABLE} AS record WHERE record.owner_id = beyond.owner_id
                ) AS record
                WHERE submitted IS NOT NULL AND bytes > CAST(:keep AS bigint)
                ORDER BY submitted DESC, msg_id DESC LIMIT 1
            ) AS newest
        )
        SELECT owner_id, cluster, submitted, msg_id FROM history JOIN (
            SELECT DISTINCT ON (owner_id) * FROM cut ORDER BY owner_id, submitted DESC, msg_id DESC
        ) AS last USING (owner_id)
        ORDER BY owner_id, cluster
        """)
