"""Keeping a history within its limits, as a scheduler asks for them."""

from __future__ import annotations

from typing import Any

from platform_db.bounds import require_amount
from platform_db.tasks.statements import TABLE, History
from platform_db.tasks.writer import Batch


class Culling:
    """Tells when a history is to be culled, and how.

    A sweep leaves room for ``fraction`` of the limits, and the next one comes when as much was added: so it
    costs little for each record, and the limits hold.
    """

    def __init__(self, history: History, record_limit: int, size_limit: int, fraction: float) -> None:
        self.history = history
        self.limits = (require_amount(record_limit, "record limit"), require_amount(size_limit, "size limit"))
        self.room = tuple(max(1, int(limit * fraction)) for limit in self.limits)
        # What other processes left is looked at with the first batch.
        self._added = list(self.room)

    def is_due(self, batch: Batch) -> bool:
        """Tell whether so much was added that the limits may be reached."""
        self._added[0] += len(batch.new)
        self._added[1] += batch.bytes
        return any(
            limit and added >= room
            for limit, added, room in zip(self.limits, self._added, self.room, strict=True)
        )

    def statement(self) -> tuple[str, tuple[Any, ...]]:
        """Return the statement of a sweep, which returns the ids of what went."""
        self._added = [0, 0]
        keep = [limit - room if limit else None for limit, room in zip(self.limits, self.room, strict=True)]
        return _SWEEP, (*self.history, keep[0], keep[1], self.history.owner_id)


_SWEEP = f"""
    WITH ranked AS MATERIALIZED (
        SELECT msg_id, completed IS NOT NULL AS is_complete,
               row_number() OVER newest AS place, sum(size) OVER newest AS bytes
        FROM {TABLE} WHERE owner_id = %s::uuid AND cluster = %s
        WINDOW newest AS (ORDER BY completed IS NOT NULL, submitted DESC, msg_id DESC)
    )
    DELETE FROM {TABLE} AS record
    USING (SELECT msg_id FROM ranked WHERE is_complete AND (place > %s OR bytes > %s)) AS old
    WHERE record.owner_id = %s::uuid AND record.msg_id = old.msg_id
    RETURNING record.msg_id
"""
