"""The records that were used last, encoded, up to a number of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable

from platform_db.tasks.encoding import Encoded, size_of

# Of the dictionary and its values, beside their contents.
_OVERHEAD = 1500


class RecentRecords:
    """Whole records by their ids.

    :param limit: bytes; the least recently used records go.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._records: OrderedDict[str, tuple[Encoded, int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __contains__(self, msg_id: str) -> bool:
        return msg_id in self._records

    def get(self, msg_id: str) -> Encoded | None:
        with self._lock:
            if msg_id not in self._records:
                return None
            self._records.move_to_end(msg_id)
            return self._records[msg_id][0]

    def put(self, msg_id: str, encoded: Encoded) -> None:
        size = size_of(encoded) + _OVERHEAD
        with self._lock:
            _, before = self._records.pop(msg_id, (None, 0))
            self._records[msg_id] = encoded, size
            self._bytes += size - before
            while self._bytes > self.limit:
                _, (_, gone) = self._records.popitem(last=False)
                self._bytes -= gone

    def forget(self, msg_ids: Iterable[str]) -> None:
        with self._lock:
            for msg_id in msg_ids:
                _, gone = self._records.pop(msg_id, (None, 0))
                self._bytes -= gone
