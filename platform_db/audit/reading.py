"""Reading the audit log, newest first, and exporting it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.cursors import Page
from platform_db.database.paging import read_page
from platform_db.database.session import takes_session
from platform_db.identifiers import parse_id
from platform_db.models import AuditLog, AuditLogAction

# Rows that an export fetches at a time: 64 KiB of details each, at most.
PAGE = 100


@takes_session
def list_audit(
    session: Session,
    *,
    user_id: uuid.UUID | str | None = None,
    actor_id: uuid.UUID | str | None = None,
    action: AuditLogAction | str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int = 100,
    cursor: str | None = None,
) -> Page[AuditLog]:
    """Return a page of audit rows, newest first.

    :param user_id: only those about this user.
    :param actor_id: only what this user did.
    :param action: only this action.
    :param since: only what was recorded at this time or later.
    :param until: only what was recorded before this time.
    :param cursor: where the page before ended, with the same filters.
    :raises errors.InvalidIdentifier: this list gave no such cursor.
    """
    return read_page(
        session,
        _filtered(user_id, actor_id, action, since, until),
        (AuditLog.created, AuditLog.number),
        query=("audit", user_id, actor_id, action, since, until),
        limit=limit,
        cursor=cursor,
    )


@takes_session
def export_audit(
    session: Session,
    *,
    user_id: uuid.UUID | str | None = None,
    actor_id: uuid.UUID | str | None = None,
    action: AuditLogAction | str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield audit rows as plain values, in the order of their numbers, in flat memory.

    The filters are those of :func:`list_audit`.
    """
    query = _filtered(user_id, actor_id, action, since, until).order_by(AuditLog.number).limit(PAGE)
    query = query.with_only_columns(*AuditLog.__table__.columns)
    last = 0
    while True:
        rows = session.execute(query.where(AuditLog.number > last)).all()
        yield from map(as_values, rows)
        if len(rows) < PAGE:
            return
        last = rows[-1].number


def as_values(row: Any) -> dict[str, Any]:
    """Return an audit row as plain values."""
    return {
        "number": row.number,
        "id": str(row.id_),
        "created": row.created.isoformat(),
        "user_id": str(row.owner_id),
        "actor_id": str(row.actor_id) if row.actor_id else None,
        "action": row.action,
        "details": row.details,
        "request_id": row.request_id,
        "address": str(row.address) if row.address else None,
        "service": row.service,
    }


def _filtered(
    user_id: uuid.UUID | str | None,
    actor_id: uuid.UUID | str | None,
    action: AuditLogAction | str | None,
    since: datetime | None,
    until: datetime | None,
) -> sa.Select[Any]:
    query = sa.select(AuditLog)
    for column, id_ in ((AuditLog.owner_id, user_id), (AuditLog.actor_id, actor_id)):
        if id_ is not None:
            query = query.where(column == parse_id(id_, "user id"))
    if action is not None:
        query = query.where(AuditLog.action == str(getattr(action, "value", action)))
    if since is not None:
        query = query.where(AuditLog.created >= since)
    if until is not None:
        query = query.where(AuditLog.created < until)
    return query
