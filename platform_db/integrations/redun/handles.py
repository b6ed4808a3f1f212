"""Recording the states of handles."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from redun.backends.db import db_retry, use_acquire
from redun.handle import Handle

from platform_db.integrations.redun.part import Part

_METHOD = "advance_handle"


class Handles(Part):
    """The methods about handles."""

    @db_retry
    @use_acquire
    def advance_handle(self, parent_handles: list[Handle], child_handle: Handle) -> None:
        """Record that a state of a handle came of others. All of them are valid again."""
        self.end_transaction()
        # States between, which a chain of forks went through without recording them.
        earlier = [
            parent.__handle__.fork_parent for parent in parent_handles if not parent.__handle__.is_recorded
        ]
        while earlier:
            handle = earlier.pop()
            if handle is not None:
                self._put_handle(handle)
                earlier.append(handle.__handle__.fork_parent)
        self._put_handle(child_handle)
        child = child_handle.__handle__.hash
        for handle in parent_handles:
            self._put_handle(handle)
            parent = handle.__handle__.hash
            self.recorder.put(
                "handle_edge", (parent, child), {"parent_id": parent, "child_id": child}, _METHOD
            )

    def _put_handle(self, handle: Handle) -> None:
        state = handle.__handle__
        row = {
            "hash": state.hash,
            "fullname": state.fullname,
            "value_hash": self.put_value(handle, None, _METHOD),
            "key": state.key,
            "is_valid": True,
        }
        self.recorder.put("handle", state.hash, row, _METHOD)
        state.is_recorded = True

    @db_retry
    @use_acquire
    def rollback_handle(self, handle: Handle) -> None:
        """Mark all states that came of this one as invalid, at once: what runs next relies on it."""
        self.end_transaction()
        state = handle.__handle__
        self.session.execute(_ROLL_BACK, {"hash": state.hash, "fullname": state.fullname})
        self.session.commit()

    @db_retry
    def is_valid_handle(self, handle: Handle) -> bool:
        """Tell whether this is the handle's current state or one before it."""
        hash_: Any = handle.__handle__.hash
        row = self.recorder.pending("handle", hash_)
        if row is not None:
            return bool(row["is_valid"])
        found = self.recorder.reading.execute(_IS_VALID, (str(self.owner_id), hash_))
        return list(found) == [(True,)]


_ROLL_BACK = sa.text("""
    WITH RECURSIVE later (hash) AS (
        SELECT edge.child_id FROM redun.handle_edge AS edge WHERE edge.parent_id = :hash
        UNION
        SELECT edge.child_id
        FROM later
        JOIN redun.handle ON handle.hash = later.hash AND handle.is_valid AND handle.fullname = :fullname
        JOIN redun.handle_edge AS edge ON edge.parent_id = later.hash
    )
    UPDATE redun.handle SET is_valid = false
    WHERE hash IN (SELECT later.hash FROM later) AND is_valid
""")

_IS_VALID = "SELECT is_valid FROM platform.handle WHERE owner_id = %s::uuid AND hash = %s"
