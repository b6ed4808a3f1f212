"""Reading the audit log, newest first, and exporting it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.cursors import Page
from platform_db.database.session import takes_session
from platform_db.identifiers import parse_id
from platform_db.models import AuditLog, AuditLogAction
from platform_db.query.find import find, select_rows

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
    chosen = _filter(user_id, actor_id, action, since, until)
    return find(session, AuditLog, chosen, limit=limit, cursor=cursor, scan=True)


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
    """Yield audit rows as plain values, oldest first, in flat memory.

    The filters are those of :func:`list_audit`.
    """
    query = select_rows(AuditLog, _filter(user_id, actor_id, action, since, until), sort="created")
    # The time as text: it may be one that Python cannot hold.
    place = (sa.cast(AuditLog.created, sa.Text).label("place"), AuditLog.id_)
    page = query.with_only_columns(*AuditLog.__table__.columns, place[0]).limit(PAGE)
    rows = session.execute(page).all()
    while rows:
        yield from map(as_values, rows)
        after = sa.tuple_(sa.cast(rows[-1].place, sa.DateTime(timezone=True)), sa.literal(rows[-1].id_))
        rows = session.execute(page.where(sa.tuple_(AuditLog.created, AuditLog.id_) > after)).all()


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


def _filter(
    user_id: uuid.UUID | str | None,
    actor_id: uuid.UUID | str | None,
    action: AuditLogAction | str | None,
    since: datetime | None,
    until: datetime | None,
) -> dict[str, Any]:
    equal = {
        "owner_id": None if user_id is None else parse_id(user_id, "user id"),
        "actor_id": None if actor_id is None else parse_id(actor_id, "user id"),
        "action": None if action is None else str(getattr(action, "value", action)),
    }
    created = {name: time for name, time in {"$gte": since, "$lt": until}.items() if time is not None}
    return {
        **{name: value for name, value in equal.items() if value is not None},
        **({"created": created} if created else {}),
    }
