"""History: the status changes and notes of a run and of its jobs, page by page."""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import cursors
from platform_db.bounds import LARGEST_LIMIT, require_limit
from platform_db.cursors import Page
from platform_db.database.session import takes_session
from platform_db.identifiers import new_id
from platform_db.lifecycle.seen import READERS, UNSEEN, WHAT_IS_SEEN, Seen
from platform_db.lifecycle.target import GuardedTarget
from platform_db.lifecycle.transitions import Guarded
from platform_db.models import Base, Note
from platform_db.models.types import Json
from platform_db.states import MACHINES

Level = Literal["workflow", "job"]


@dataclass(frozen=True)
class Entry:
    """A status change or a note.

    :param kind: ``status`` or ``note``.
    :param entity: the table of the row it speaks of, such as ``workflow`` or ``job``.
    :param revision: the revision that a status change led to.
    """

    kind: Literal["status", "note"]
    at: datetime
    entity: str
    entity_id: uuid.UUID
    revision: int | None = None
    from_status: str | None = None
    to_status: str | None = None
    actor: str | None = None
    reason: str | None = None
    overridden: bool | None = None
    topic: str | None = None
    message: str | None = None
    details: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the entry's values, for JSON."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        return {**values, "at": self.at.isoformat(), "entity_id": str(self.entity_id)}


@takes_session
def history(
    session: Session,
    row: Guarded,
    *,
    since: datetime | None = None,
    level: Level | None = None,
    limit: int = 100,
    cursor: str | None = None,
) -> Page[Entry]:
    """Return a page of the history of ``row``; a run's has that of its jobs in it.

    Nothing is missed and nothing comes twice, whatever the order in which others commit, as long as none of
    their transactions is older than a day. An entry whose transaction committed behind the page before comes
    with the next page, in front: there may then be more than ``limit``. The cursor is None once everything
    was read and the row's life has ended; until then it asks for what comes later, too.

    A page reads the whole history of a run and its jobs, because no index holds it in this order: to read all
    of a run with many jobs, ask for few large pages.

    :param since: leave out what was before; what was exactly then is in.
    :param level: leave out the jobs (``workflow``), or all but the jobs (``job``).
    :param limit: how many entries to return.
    :param cursor: where the page before ended, with the same ``since`` and ``level``.
    :raises errors.InvalidIdentifier: this history gave no such cursor.
    :raises errors.NotFound: there is no such row.
    :raises errors.InvalidArgument: rows of this kind have no status, and so no history.
    """
    require_limit(limit)
    session.flush()
    target = GuardedTarget.of(session, row)
    entity, owner_id, id_ = target.table, target.owner_id, target.id_
    query = ("history", entity, id_, since, level)
    number, seen = 0, None
    if cursor is not None:
        number, *parts = cursors.decode(query, cursor, cursors.number, *READERS)
        seen = Seen(*parts)
    parameters: dict[str, Any] = {
        "owner": str(owner_id),
        "id": str(id_),
        "since": "-infinity" if since is None else since.isoformat(),
        "number": number,
        "own_entries": level != "job" or entity == "job",
        "job_entries": entity == "workflow" and level != "workflow",
        "limit": limit,
        **(seen.parameters() if seen else {}),
    }
    connection = session.connection()
    # The status first: if it is an end, the page that is read after it has all that led there.
    found = connection.execute(_STATUS[entity], parameters).one_or_none()
    if found is None:
        raise target.not_found()
    rows = connection.execute(_PAGE if seen else _FIRST_PAGE, parameters).all()
    entries = [entry for entry in rows if entry.number is not None]
    ahead = [entry for entry in entries if not entry.late]
    machine = MACHINES[entity]
    if machine.statuses(found.status) in machine.ended and len(ahead) < limit:
        return Page([_entry(entry) for entry in entries], None)
    last = ahead[-1].number if ahead else number
    place = [last, *Seen.of(rows[0]).parts()]
    return Page([_entry(entry) for entry in entries], cursors.encode(query, place))


@takes_session
def whole_history(
    session: Session, row: Guarded, *, since: datetime | None = None, level: Level | None = None
) -> list[Entry]:
    """Return all of the history of ``row``, as :func:`history` returns it, in as few pages as possible."""
    entries: list[Entry] = []
    cursor, more = None, True
    while more:
        page = history(session, row, since=since, level=level, limit=LARGEST_LIMIT, cursor=cursor)
        entries += page.rows
        cursor = page.cursor
        more = cursor is not None and len(page.rows) >= LARGEST_LIMIT
    return entries


@takes_session
def add_note(
    session: Session, row: Guarded, topic: str, message: str, details: dict[str, Any] | None = None
) -> Note:
    """Add a note to the history of ``row``, and return it.

    :param topic: a word or two, to find notes of a kind by.
    :param details: further facts, as JSON.
    :raises errors.NotFound: the row is gone.
    :raises errors.InvalidArgument: rows of this kind have no status, and so no history.
    """
    session.flush()
    target = GuardedTarget.of(session, row)
    note: Note | None = session.scalars(
        _add_note(type(row)),
        {
            "note_id": new_id(),
            "owner": target.owner_id,
            "row_id": target.id_,
            "topic_text": _storable(topic),
            "message_text": _storable(message),
            "details_value": details,
        },
    ).one_or_none()
    if note is None:
        raise target.not_found()
    return note


@cache
def _add_note(model: type[Any]) -> sa.Executable:
    """Return the statement that adds a note to a row, which it keeps from being deleted meanwhile."""
    table, notes = model.__table__, Base.metadata.tables["platform.note"]
    values = {
        "id_": sa.bindparam("note_id", type_=sa.Uuid()),
        "owner_id": table.c.owner_id,
        "entity": sa.literal_column(f"'{table.name}'"),
        "entity_id": table.c.id_,
        "topic": sa.bindparam("topic_text", type_=sa.Text()),
        "message": sa.bindparam("message_text", type_=sa.Text()),
        "details": sa.bindparam("details_value", type_=Json),
    }
    row = sa.select(*values.values()).where(
        table.c.owner_id == sa.bindparam("owner", type_=sa.Uuid()),
        table.c.id_ == sa.bindparam("row_id", type_=sa.Uuid()),
    )
    found = row.with_for_update(read=True, key_share=True)
    added = sa.insert(notes).from_select(list(values), found).returning(*notes.columns)
    return sa.select(Note).from_statement(added)


def _storable(text: str) -> str:
    """Return the text without what PostgreSQL's text has no place for: NUL and lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")


def _entry(row: Any) -> Entry:
    common = {"at": row.at, "entity": row.entity, "entity_id": row.entity_id}
    if row.revision is None:
        return Entry("note", **common, topic=row.topic, message=row.message, details=row.details)
    changes = {"from_status": row.from_status, "to_status": row.to_status, "overridden": row.overridden}
    return Entry("status", **common, **changes, revision=row.revision, actor=row.actor, reason=row.reason)


_STATUS = {
    entity: sa.text(
        f"SELECT status FROM platform.{entity}"
        " WHERE owner_id = CAST(:owner AS uuid) AND id_ = CAST(:id AS uuid)"
    )
    for entity in MACHINES
}


def _page(late: str) -> sa.TextClause:
    """Return the statement that reads a page.

    :param late: the condition for rows behind the reader that the page reads as well.
    """
    return sa.text(
        f"""
        WITH entities AS MATERIALIZED (
            SELECT CAST(:id AS uuid) AS id_ WHERE :own_entries
            UNION ALL
            SELECT id_ FROM platform.job
            WHERE owner_id = CAST(:owner AS uuid) AND workflow_id = CAST(:id AS uuid) AND :job_entries
        ),
        candidates AS (
            SELECT number, at, entity, entity_id, revision, from_status, to_status, actor, reason, overridden,
                   NULL AS topic, NULL AS message, NULL::jsonb AS details, transaction_id
            FROM platform.status_change
            WHERE owner_id = CAST(:owner AS uuid) AND entity_id IN (SELECT id_ FROM entities)
              AND at >= CAST(:since AS timestamptz)
            UNION ALL
            SELECT number, at, entity, entity_id, NULL, NULL, NULL, NULL, NULL, NULL,
                   topic, message, details, transaction_id
            FROM platform.note
            WHERE owner_id = CAST(:owner AS uuid) AND entity_id IN (SELECT id_ FROM entities)
              AND at >= CAST(:since AS timestamptz)
        )
        SELECT seen.*, page.* FROM ({WHAT_IS_SEEN}) AS seen LEFT JOIN (
            {late}
            (SELECT *, false AS late FROM candidates WHERE number > :number ORDER BY number LIMIT :limit)
        ) AS page ON true
        ORDER BY late DESC, number
        """
    )


_FIRST_PAGE = _page("")
_PAGE = _page(
    f"""
            SELECT *, true AS late FROM candidates WHERE number <= :number AND {UNSEEN}
            UNION ALL
    """
)
