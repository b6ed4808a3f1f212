"""The records that were used last, encoded, up to a number of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable

from platform_db.tasks.encoding import Encoded

# Of the dictionary and its values, beside their contents.
_OVERHEAD = 1500


class RecentRecords:
    """Whole records by their ids.

    :param limit: bytes; the least recently used records go.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._records: OrderedDict[str, Encoded] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __contains__(self, msg_id: str) -> bool:
        return msg_id in self._records

    def get(self, msg_id: str) -> Encoded | None:
        with self._lock:
            if msg_id in self._records:
                self._records.move_to_end(msg_id)
            return self._records.get(msg_id)

    def put(self, msg_id: str, record: Encoded) -> None:
        with self._lock:
            self._take(msg_id)
            self._records[msg_id] = record
            self._bytes += record.size + _OVERHEAD
            while self._bytes > self.limit:
                self._take(next(iter(self._records)))

    def forget(self, msg_ids: Iterable[str]) -> None:
        with self._lock:
            for msg_id in msg_ids:
                self._take(msg_id)

    def _take(self, msg_id: str) -> None:
        record = self._records.pop(msg_id, None)
        if record is not None:
            self._bytes -= record.size + _OVERHEAD
