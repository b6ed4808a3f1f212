"""What a watcher is told, and which of it it wants."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal, get_args

from platform_db import errors
from platform_db.models.identity import UserOrId, user_id_of
from platform_db.states import MACHINES

Kind = Literal["created", "status", "note", "deleted"]


@dataclass(frozen=True)
class Event:
    """Something that happened to a row.

    :param number: its place among all events. The events of one row come in this order, others may not.
    :param kind: ``created``, ``status`` (a change of the status, or a new version of what a run is asked to
        do: then the status stays), ``note``, or ``deleted``: the row is gone, and its history with it.
    :param entity: the row's table, such as ``workflow`` or ``job``.
    :param at: when it was written, by the database's clock.
    :param revision: the revision that the row had then; a note has none.
    :param before: the status before; None for a row that was created, and for a note.
    :param after: the status after; None for a row that was deleted, and for a note.
    :param actor: who changed the status, where the transaction said so.
    :param reason: why, where that was said.
    :param topic: of a note, like the next two.
    """

    number: int
    kind: Kind
    entity: str
    entity_id: uuid.UUID
    owner_id: uuid.UUID
    at: datetime
    revision: int | None = None
    before: str | None = None
    after: str | None = None
    actor: str | None = None
    reason: str | None = None
    topic: str | None = None
    message: str | None = None
    details: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the event's values, for JSON."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        ids = {name: str(values[name]) for name in ("entity_id", "owner_id")}
        return {**values, **ids, "at": self.at.isoformat()}


def filters(
    kinds: Collection[str] | None, entities: Collection[str] | None, owners: Collection[UserOrId] | None
) -> dict[str, list[Any] | None]:
    """Return the parameters that say which events are wanted; None is all.

    :raises errors.InvalidArgument: there are no such events.
    """
    return {
        "kinds": _known("kind", kinds, get_args(Kind)),
        "entities": _known("entity", entities, MACHINES),
        "owners": None if owners is None else [user_id_of(owner) for owner in owners],
    }


def _known(what: str, wanted: Collection[str] | None, known: Collection[str]) -> list[str] | None:
    if wanted is None:
        return None
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    if unknown := sorted(set(names).difference(known)):
        raise errors.InvalidArgument(
            f"no event has the {what} {', '.join(unknown)}; choose from {', '.join(known)}"
        )
    return names
