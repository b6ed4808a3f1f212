"""The records that were used last, encoded, up to a number of bytes."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable

from platform_db.tasks.encoding import Encoded

# Of the dictionary and its values, beside their contents.
_OVERHEAD = 1500

LONGEST = 10.0
"""How many seconds a record is answered from memory."""


class RecentRecords:
    """Whole records by their ids.

    Other stores may change a record, too: so it is read again after :data:`LONGEST` seconds. An old one is
    what there is while the server does not answer.

    :param limit: bytes; the least recently used records go.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._records: OrderedDict[str, tuple[float, Encoded]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __contains__(self, msg_id: str) -> bool:
        return self.get(msg_id) is not None

    def get(self, msg_id: str, *, also_old: bool = False) -> Encoded | None:
        with self._lock:
            if msg_id not in self._records:
                return None
            since, record = self._records[msg_id]
            if not also_old and time.monotonic() - since > LONGEST:
                return None
            self._records.move_to_end(msg_id)
            return record

    def put(self, msg_id: str, record: Encoded, *, is_change: bool = False) -> None:
        """Remember a record; a change of one that is remembered leaves it as old as it was."""
        with self._lock:
            since = self._take(msg_id)
            if since is None or not is_change:
                since = time.monotonic()
            self._records[msg_id] = (since, record)
            self._bytes += record.size + _OVERHEAD
            while self._bytes > self.limit:
                self._take(next(iter(self._records)))

    def forget(self, msg_ids: Iterable[str]) -> None:
        with self._lock:
            for msg_id in msg_ids:
                self._take(msg_id)

    def _take(self, msg_id: str) -> float | None:
        """Forget a record, and return since when it was remembered."""
        since, record = self._records.pop(msg_id, (None, None))
        if record is not None:
            self._bytes -= record.size + _OVERHEAD
        return since
