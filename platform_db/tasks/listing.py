"""Reading task records with a session: lists, single records, and how much is stored."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import cursors, errors
from platform_db.bounds import require_limit
from platform_db.cursors import Page
from platform_db.database.session import takes_session
from platform_db.models.identity import UserOrId, user_id_of
from platform_db.tasks.conditions import filter_condition, read_filter
from platform_db.tasks.encoding import TEXTS, TIMES, Record, decode_record, decode_text, encode_text
from platform_db.tasks.statements import TABLE, WRITTEN, select_text


class Task(NamedTuple):
    """What a list shows of a task.

    :param size: bytes of the record.
    """

    msg_id: str
    cluster: str
    label: str | None
    submitted: datetime | None
    started: datetime | None
    completed: datetime | None
    client_uuid: str | None
    engine_uuid: str | None
    size: int


@takes_session
def list_tasks(
    session: Session,
    owner: UserOrId,
    *,
    cluster: str | None = None,
    filter_: Mapping[str, Any] | None = None,
    limit: int = 100,
    cursor: str | None = None,
) -> Page[Task]:
    """Return a page of an owner's tasks, the last submitted first.

    :param cluster: only this history; an index has its tasks in this order.
    :param filter_: as :meth:`platform_db.tasks.TaskStore.find` takes it, over texts and times.
    :param cursor: where the page before ended.
    :raises errors.InvalidFilter: the filter is wrong, or looks into messages.
    :raises errors.InvalidIdentifier: this list gave no such cursor.
    """
    require_limit(limit)
    owner_id = str(user_id_of(owner))
    node = read_filter(filter_)
    found = filter_condition(node)
    if not found.is_exact:
        raise errors.InvalidFilter(
            f"a list of tasks is filtered by texts and times alone: {', '.join(('msg_id', *TEXTS, *TIMES))}"
        )
    conditions, values = ["owner_id = %s::uuid"], [owner_id]
    if cluster is not None:
        conditions.append("cluster = %s")
        values.append(encode_text(cluster))
    conditions.append(found.sql)
    values.extend(found.values)
    query = ("tasks", owner_id, repr(cluster), node)
    if cursor is not None:
        submitted, msg_id = cursors.decode(query, cursor, _time_or_none, cursors.text)
        if submitted is None:
            conditions.append("(submitted IS NOT NULL OR msg_id < %s)")
            values.append(msg_id)
        else:
            conditions.append("(submitted, msg_id) < (%s::timestamptz, %s)")
            values.extend((submitted.isoformat(), msg_id))
    rows = session.connection().exec_driver_sql(
        f"SELECT {', '.join(Task._fields)} FROM {TABLE} WHERE {' AND '.join(conditions)}"
        f" ORDER BY submitted DESC, msg_id DESC LIMIT {limit + 1}",
        tuple(values),
    )
    tasks = [Task(*row) for row in rows.all()]
    after = None
    if len(tasks) > limit:
        last = tasks[limit - 1]
        after = cursors.encode(query, (last.submitted.isoformat() if last.submitted else "", last.msg_id))
    return Page([_decoded(task) for task in tasks[:limit]], after)


@takes_session
def get_task(session: Session, owner: UserOrId, msg_id: str) -> Record:
    """Return an owner's task record, as it is on the disk.

    :raises errors.NotFound: there is none of this id.
    """
    row = (
        session.connection()
        .exec_driver_sql(
            f"SELECT cluster, {select_text(WRITTEN)} FROM {TABLE}"
            " WHERE owner_id = (SELECT %s::uuid) AND msg_id = %s",
            (str(user_id_of(owner)), encode_text(msg_id)),
        )
        .one_or_none()
    )
    if row is None:
        raise errors.NotFound(f"there is no task {msg_id}")
    return {"cluster": decode_text(row[0]), **decode_record(msg_id, zip(WRITTEN, row[1:], strict=True))}


@takes_session
def stored_bytes(session: Session, owner: UserOrId) -> int:
    """Return how many bytes an owner's task records have."""
    return int(session.connection().execute(_STORED, {"owner": user_id_of(owner)}).scalar_one())


def _time_or_none(part: str) -> datetime | None:
    return cursors.time(part) if part else None


def _decoded(task: Task) -> Task:
    texts: dict[str, Any] = {
        name: decode_text(value) for name, value in task._asdict().items() if isinstance(value, str)
    }
    return task._replace(**texts)


_STORED = sa.text(f"SELECT coalesce(sum(size), 0) FROM {TABLE} WHERE owner_id = CAST(:owner AS uuid)")
