"""History: the status changes and notes of a run and of its jobs, page by page."""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.bounds import LARGEST_LIMIT, require_limit
from platform_db.database.session import takes_session
from platform_db.identifiers import new_id
from platform_db.lifecycle import cursors
from platform_db.lifecycle.cursors import Seen
from platform_db.lifecycle.transitions import Guarded
from platform_db.models import Base, Note
from platform_db.models.base import identity_of
from platform_db.models.types import Json

ENDED = frozenset({"finished", "failed", "stopped", "deleted", "revoked", "applied"})
"""Statuses in which a row is no longer alive: its history's pages come to an end."""

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
        """Return what there is to know, for JSON."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        return {**values, "at": self.at.isoformat(), "entity_id": str(self.entity_id)}


@dataclass(frozen=True)
class Page:
    """A page of a history.

    :param entries: ordered by time. An entry whose transaction committed behind the page before comes with
        the next page, in front: there may then be more than ``limit``.
    :param token: to ask for the next page with, now or later; None once everything was read and the row's
        life has ended.
    """

    entries: list[Entry]
    token: str | None


def history(
    session: Session,
    row: Guarded,
    *,
    since: datetime | None = None,
    level: Level | None = None,
    limit: int = 100,
    token: str | None = None,
) -> Page:
    """Return a page of the history of ``row``; a run's has that of its jobs in it.

    Nothing is missed and nothing comes twice, whatever the order in which others commit, as long as none of
    their transactions is older than a day.

    A page reads the whole story of a run and its jobs, for want of an index that holds it in the order of
    time: to read all of a run with many jobs, ask for few large pages.

    :param since: leave out what was before; what was exactly then is in.
    :param level: leave out the jobs (``workflow``), or all but the jobs (``job``).
    :param limit: how many entries to return.
    :param token: where the page before ended; ``since`` and ``level`` go on as they were for that one.
    :raises errors.InvalidIdentifier: the token is none, or that of another row.
    :raises errors.NotFound: there is no such row.
    """
    session.flush()
    entity, id_ = row.__tablename__, identity_of(row)
    place = _Place.start(id_, since, level) if token is None else _Place.read(token, id_)
    connection = session.connection()
    # The status first: if it is an end, the page that is read after it has all that led there.
    found = connection.execute(_STATUS[entity], {"id": str(id_)}).one_or_none()
    if found is None:
        raise errors.NotFound(f"there is no {entity} {id_}")
    rows = connection.execute(
        _PAGE if place.seen is not None else _FIRST_PAGE,
        {
            **place.parameters(),
            "owner": str(found.owner_id),
            "id": str(id_),
            "own_entries": place.level != "job" or entity == "job",
            "job_entries": entity == "workflow" and place.level != "workflow",
            "limit": require_limit(limit),
        },
    ).all()
    entries = [entry for entry in rows if entry.at is not None]
    ahead = [entry for entry in entries if not entry.late]
    place = place.move(rows[0], ahead[-1] if ahead else None)
    ended = found.status in ENDED and len(ahead) < limit
    return Page([_entry(entry) for entry in entries], None if ended else place.token())


@takes_session
def whole_history(
    session: Session, row: Guarded, *, since: datetime | None = None, level: Level | None = None
) -> list[Entry]:
    """Return all of the history of ``row``, as :func:`history` returns it, in as few pages as possible."""
    page = history(session, row, since=since, level=level, limit=LARGEST_LIMIT)
    entries = page.entries
    while page.token is not None and len(page.entries) >= LARGEST_LIMIT:
        page = history(session, row, limit=LARGEST_LIMIT, token=page.token)
        entries += page.entries
    return entries


def add_note(
    session: Session, row: Guarded, topic: str, message: str, details: dict[str, Any] | None = None
) -> Note:
    """Note something about ``row`` that is no status change, and return the note.

    :param topic: a word or two, to find notes of a kind by.
    :param details: what else there is to know, as JSON.
    :raises errors.NotFound: the row is gone.
    """
    session.flush()
    id_ = identity_of(row)
    note: Note | None = session.scalars(
        _add_note(type(row)),
        {
            "note_id": new_id(),
            "row_id": id_,
            "topic_text": _storable(topic),
            "message_text": _storable(message),
            "details_value": details,
        },
    ).one_or_none()
    if note is None:
        raise errors.NotFound(f"there is no {row.__tablename__} {id_}")
    return note


@cache
def _add_note(model: type[Any]) -> sa.Executable:
    """Return the statement that adds a note to a row, which it keeps from being deleted meanwhile."""
    table, notes = model.__table__, Base.metadata.tables["platform.note"]
    values = {
        "id_": sa.bindparam("note_id", type_=sa.Uuid()),
        "owner_id": table.c[model.tenant_column],
        "entity": sa.literal_column(f"'{table.name}'"),
        "entity_id": table.c.id_,
        "topic": sa.bindparam("topic_text", type_=sa.Text()),
        "message": sa.bindparam("message_text", type_=sa.Text()),
        "details": sa.bindparam("details_value", type_=Json),
    }
    row = sa.select(*values.values()).where(table.c.id_ == sa.bindparam("row_id", type_=sa.Uuid()))
    found = row.with_for_update(read=True, key_share=True)
    added = sa.insert(notes).from_select(list(values), found).returning(*notes.columns)
    return sa.select(Note).from_statement(added)


def _storable(text: str) -> str:
    """Return the text without what PostgreSQL's text has no place for: NUL and lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")


_NO_ID = str(uuid.UUID(int=0))
_KEY = ("at", "kind", "entity_id", "number", "id_")


@dataclass(frozen=True)
class _Place:
    """Where a reader stands: behind the entry with this key, having seen what it has seen."""

    id_: uuid.UUID
    since: str
    level: Level | None
    key: tuple[str, int, str, int, str] = ("-infinity", 0, _NO_ID, -1, _NO_ID)
    seen: Seen | None = None

    @classmethod
    def start(cls, id_: uuid.UUID, since: datetime | None, level: Level | None) -> _Place:
        return cls(id_, "-infinity" if since is None else since.isoformat(), level)

    @classmethod
    def read(cls, token: str, id_: uuid.UUID) -> _Place:
        try:
            entity_id, since, level, key, seen = cursors.from_token("history", token)
            place = cls(uuid.UUID(entity_id), since, level, tuple(key), Seen.unpack(seen))
        except (ValueError, TypeError):
            raise errors.InvalidIdentifier("this token was not given by the page before") from None
        if place.id_ != id_:
            raise errors.InvalidIdentifier("this token is that of another history")
        return place

    def token(self) -> str:
        seen = self.seen.pack() if self.seen else []
        return cursors.to_token("history", [str(self.id_), self.since, self.level, self.key, seen])

    def move(self, read: Any, last: Any | None) -> _Place:
        key = self.key
        if last is not None:
            key = (last.at.isoformat(), last.kind, str(last.entity_id), last.number, str(last.id_))
        return _Place(self.id_, self.since, self.level, key, Seen.of(read))

    def parameters(self) -> dict[str, Any]:
        seen = self.seen.parameters() if self.seen else {}
        return {"since": self.since, **dict(zip(_KEY, self.key, strict=True)), **seen}


def _entry(row: Any) -> Entry:
    common = {"at": row.at, "entity": row.entity, "entity_id": row.entity_id}
    if row.kind:
        return Entry("note", **common, topic=row.topic, message=row.message, details=row.details)
    changes = {"from_status": row.from_status, "to_status": row.to_status, "overridden": row.overridden}
    return Entry("status", **common, **changes, revision=row.number, actor=row.actor, reason=row.reason)


_STATUS = {
    entity: sa.text(
        f"SELECT {'user_id AS ' if entity == 'user_token' else ''}owner_id, status"
        f" FROM platform.{entity} WHERE id_ = CAST(:id AS uuid)"
    )
    for entity in (
        "workflow",
        "job",
        "interactive_session",
        "service",
        "user_token",
        "workspace_retention_rule",
    )
}

_AFTER = """
    (at, kind, entity_id, number, id_) > (
        CAST(:at AS timestamptz), CAST(:kind AS integer), CAST(:entity_id AS uuid),
        CAST(:number AS integer), CAST(:id_ AS uuid))
"""


def _page(late: str) -> sa.TextClause:
    """Return the statement that reads a page.

    :param late: what stands behind the reader, and is to be read all the same.
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
            SELECT at, 0 AS kind, entity, entity_id, revision AS number, CAST('{_NO_ID}' AS uuid) AS id_,
                   from_status, to_status, actor, reason, overridden,
                   NULL AS topic, NULL AS message, NULL::jsonb AS details, transaction_id
            FROM platform.status_change
            WHERE owner_id = CAST(:owner AS uuid) AND entity_id IN (SELECT id_ FROM entities)
              AND at >= CAST(:since AS timestamptz)
            UNION ALL
            SELECT at, 1, entity, entity_id, 0, id_,
                   NULL, NULL, NULL, NULL, NULL, topic, message, details, transaction_id
            FROM platform.note
            WHERE owner_id = CAST(:owner AS uuid) AND entity_id IN (SELECT id_ FROM entities)
              AND at >= CAST(:since AS timestamptz)
        )
        SELECT seen.*, page.* FROM ({cursors.WHAT_IS_SEEN}) AS seen LEFT JOIN (
            {late}
            (SELECT *, false AS late FROM candidates WHERE {_AFTER}
             ORDER BY at, kind, entity_id, number, id_ LIMIT :limit)
        ) AS page ON true
        ORDER BY late DESC, at, kind, entity_id, number, id_
        """
    )


_FIRST_PAGE = _page("")
_PAGE = _page(
    f"""
            SELECT *, true AS late FROM candidates
            WHERE NOT {_AFTER} AND {cursors.UNSEEN}
            UNION ALL
    """
)
