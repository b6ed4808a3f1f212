"""The audit log: who did what, with no e-mail address and no token's value in it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.identifiers import parse_id
from platform_db.integrations.reana.expressions import BEYOND_CALENDAR, beyond_calendar, utc
from platform_db.integrations.reana.source import Source
from platform_db.integrations.reana.table import Page
from platform_db.models import AuditLog
from platform_db.models.types import is_text

_TOKEN = re.compile(r"(token[\"']?\s*[:=]\s*)\S+", re.IGNORECASE)
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]+")
_LARGEST = 65536  # bytes, as the table's constraint has it


@dataclass(frozen=True)
class Entry:
    """An audit row of REANA's, as it is to be here."""

    id_: str
    owner_id: str
    actor_id: str | None
    action: str
    details: dict[str, Any] | None
    created: Any
    notes: tuple[str, ...]


class Audits:
    """The table of audit rows, whose keys are their ids. They are appended: none is changed or deleted."""

    name, kept = "audit_log", True

    def read(self, source: Source, condition: str = "true") -> Iterator[Entry]:
        """Yield the rows that meet a condition, oldest first."""
        query = f"""
            SELECT a.id_, a.user_id, a.action::text AS action, a.details::text AS details,
                   {utc("a.created")} AS created, {beyond_calendar("a.created")} AS beyond
            FROM __reana.audit_log AS a WHERE {condition.format(key="a.id_")} ORDER BY a.created, a.id_
        """
        for row in source.stream(query):
            yield mapped(row)

    def notes(self, source: Source) -> Iterator[tuple[str, str, str]]:
        """Yield the id, the outcome and the reason for what the report says."""
        for entry in self.read(source):
            for reason in entry.notes:
                yield entry.id_, "transformed", reason

    def source_digests(self, source: Source, page: Page) -> dict[str, tuple[int, str]]:
        """Return 1 and the digest of each row."""
        return {entry.id_: (1, _digest(entry)) for entry in self.read(source, page.condition("{key}"))}

    def target_digests(self, session: Session, page: Page) -> dict[str, tuple[int, str]]:
        """Return the same of what is stored; rows that were recorded here have keys that the source lacks."""
        query = f"""
            SELECT id_, owner_id, actor_id, action, details, created FROM platform.audit_log
            WHERE {page.condition("id_")}
        """
        found = session.connection().exec_driver_sql(query)
        return {
            str(id_): (
                1,
                _digest(Entry(str(id_), str(owner), actor and str(actor), action, details, created, ())),
            )
            for id_, owner, actor, action, details, created in found
        }

    def delete(self, session: Session, keys: list[str]) -> int:
        """Delete nothing: the log is append-only."""
        return 0

    def copy(self, source: Source, session: Session, keys: list[str]) -> int:
        """Append the rows with these keys."""
        chosen = "{key} = ANY(ARRAY[" + ", ".join(f"'{key}'" for key in keys) + "]::uuid[])"
        columns = ("id_", "owner_id", "actor_id", "action", "details", "created")
        rows = [{name: getattr(entry, name) for name in columns} for entry in self.read(source, chosen)]
        if rows:
            session.connection().execute(sa.insert(AuditLog), rows)
            # No index of the inbox begins with the id: if it grew, each page would read all pages before.
            session.connection().execute(_COLLECT, {"rows": len(rows)})
        return len(rows)


_COLLECT = sa.text("SELECT platform.collect_audit_rows(:rows)")


def mapped(row: Any) -> Entry:
    """Return what a row becomes. Its user is who acted, where the details name another one it was about."""
    try:
        return _mapped(row, None if row.details is None else json.loads(row.details))
    except (ValueError, RecursionError):  # A number is longer, or the nesting deeper, than Python takes.
        return _mapped(row, {}, TOO_LARGE)


TOO_LARGE = "its details were too large or too deeply nested: they are dropped"


def _mapped(row: Any, details: Any, *noted: str) -> Entry:
    notes = [*noted, *([BEYOND_CALENDAR] if row.beyond else [])]
    owner_id, actor_id = str(row.user_id), None
    if details is not None and not isinstance(details, dict):
        details = {"details": details}
    if details is not None:
        about = _user_of(details.get("user_id"))
        if about is not None:
            owner_id, actor_id = about, owner_id
            notes.append("who did it and whom it is about are columns now")
        kept = {
            name: value
            for name, value in details.items()
            if name != "user_email" and (about is None or name != "user_id")
        }
        cleaned = _cleaned(kept)
        if "user_email" in details or cleaned != kept:
            notes.append("e-mail addresses, tokens' values and what cannot be stored are cut")
        if len(json.dumps(cleaned).encode()) > _LARGEST // 2 or _depth(cleaned) > 30:
            cleaned = {}
            notes.append(TOO_LARGE)
        details = cleaned
    return Entry(str(row.id_), owner_id, actor_id, row.action, details, row.created, tuple(notes))


def _user_of(value: Any) -> str | None:
    try:
        return str(parse_id(value)) if isinstance(value, str) else None
    except errors.InvalidIdentifier:
        return None


def _cleaned(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            _cleaned(name): "…" if "token" in name.lower() and isinstance(part, str) else _cleaned(part)
            for name, part in value.items()
        }
    if isinstance(value, list):
        return [_cleaned(part) for part in value]
    if isinstance(value, float):
        return str(value)  # Two servers and JSON may write it in two ways.
    if not isinstance(value, str):
        return value
    text = value if is_text(value) else value.encode("utf-8", "replace").decode().replace("\0", "")
    return errors.hide_tokens(_EMAIL.sub("…", _TOKEN.sub(r"\1…", text)))


def _depth(value: Any) -> int:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, parts), default=0)


def _digest(entry: Entry) -> str:
    details = None if entry.details is None else json.dumps(entry.details, sort_keys=True)
    values = (entry.id_, entry.owner_id, entry.actor_id, entry.action, details, entry.created)
    return hashlib.sha256(repr(values).encode()).hexdigest()
