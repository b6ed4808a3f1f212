"""History: the status changes and notes of a run and of its jobs, page by page."""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.bounds import LARGEST_LIMIT, require_limit
from platform_db.cursors import Page
from platform_db.database.session import takes_session
from platform_db.identifiers import new_id
from platform_db.lifecycle.seen import pages_of, read_new
from platform_db.lifecycle.target import GuardedTarget
from platform_db.lifecycle.transitions import Guarded
from platform_db.models import Note
from platform_db.models.types import Json, storable
from platform_db.states import MACHINES

Level = Literal["workflow", "job"]


@dataclass(frozen=True)
class Entry:
    """A status change or a note.

    :param kind: ``status`` or ``note``.
    :param entity: the table of the row it speaks of, such as ``workflow`` or ``job``.
    :param revision: the revision that a status change led to.
    :param overridden: whether an override of the guard was in force.
    :param extra: true where an extra transition let it through, otherwise None.
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
    extra: bool | None = None
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
    parameters = {
        **target.parameters,
        "since": "-infinity" if since is None else since.isoformat(),
        "own_entries": level != "job" or target.table == "job",
        "job_entries": target.table == "workflow" and level != "workflow",
    }
    # First: if the life has ended, the page that is read after it has all that led there.
    ended = target.has_ended(session)
    query = ("history", target.table, target.id_, since, level)
    rows, drained, after = read_new(
        session.connection(), _PAGES, parameters, query=query, cursor=cursor, limit=limit
    )
    entries = [Entry(*(getattr(row, field.name) for field in fields(Entry))) for row in rows]
    return Page(entries, None if ended and drained else after)


@takes_session
def whole_history(
    session: Session, row: Guarded, *, since: datetime | None = None, level: Level | None = None
) -> list[Entry]:
    """Return all of the history of ``row``, as :func:`history` returns it, in as few pages as possible."""
    entries: list[Entry] = []
    cursor: str | None = None
    while True:
        page = history(session, row, since=since, level=level, limit=LARGEST_LIMIT, cursor=cursor)
        entries += page.rows
        cursor = page.cursor
        if cursor is None or len(page.rows) < LARGEST_LIMIT:
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
    parameters = {
        **target.parameters,
        "note_id": new_id(),
        "topic": storable(topic),
        "message": storable(message),
        "details": details,
    }
    note: Note | None = session.scalars(_ADD_NOTE[target.table], parameters).one_or_none()
    if note is None:
        raise target.not_found()
    return note


# It keeps the row from being deleted meanwhile.
_ADD_NOTE = {
    entity: sa.select(Note).from_statement(
        sa.text(f"""
            INSERT INTO platform.note (id_, owner_id, entity, entity_id, topic, message, details)
            SELECT CAST(:note_id AS uuid), owner_id, '{entity}', id_, :topic, :message, :details
            FROM platform.{entity} WHERE owner_id = CAST(:owner AS uuid) AND id_ = CAST(:id AS uuid)
            FOR KEY SHARE
            RETURNING *
            """).bindparams(sa.bindparam("note_id", type_=sa.Uuid), sa.bindparam("details", type_=Json))
    )
    for entity in MACHINES
}


# The columns of candidates have the names of an entry's attributes.
_CANDIDATES = """
    WITH entities AS MATERIALIZED (
        SELECT CAST(:id AS uuid) AS id_ WHERE :own_entries
        UNION ALL
        SELECT id_ FROM platform.job
        WHERE owner_id = CAST(:owner AS uuid) AND workflow_id = CAST(:id AS uuid) AND :job_entries
    ),
    candidates AS (
        SELECT 'status' AS kind, number, at, entity, entity_id, revision, from_status, to_status, actor,
               reason, overridden, extra, NULL AS topic, NULL AS message, NULL::jsonb AS details,
               transaction_id
        FROM platform.status_change
        WHERE owner_id = CAST(:owner AS uuid) AND entity_id IN (SELECT id_ FROM entities)
          AND at >= CAST(:since AS timestamptz)
        UNION ALL
        SELECT 'note', number, at, entity, entity_id, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
               topic, message, details, transaction_id
        FROM platform.note
        WHERE owner_id = CAST(:owner AS uuid) AND entity_id IN (SELECT id_ FROM entities)
          AND at >= CAST(:since AS timestamptz)
    )
"""
_PAGES = [sa.text(_CANDIDATES + page) for page in pages_of("candidates")]
