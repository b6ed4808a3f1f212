"""Rows that are written together, by table and key."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from platform_db.provenance.statements import Values
from platform_db.provenance.tables import TABLES


class Entry(NamedTuple):
    """A row, and the method that recorded it."""

    values: Values
    method: str


class Refusal(NamedTuple):
    """A row that was put aside.

    :param key: its key, beside the owner.
    :param method: what recorded it.
    :param reason: why it could not be stored.
    """

    table: str
    key: Any
    method: str
    reason: str


class Batch:
    """Rows in the order of recording; the last row of a key counts."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[Any, Entry]] = {}
        self.bytes = 0
        self.begun = 0.0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, table: str, key: Any, entry: Entry, size: int) -> None:
        rows = self.rows.get(table)
        if rows is None:
            rows = self.rows[table] = {}
        if not self._count:
            self.begun = time.monotonic()
        if key not in rows:
            self._count += 1
        rows[key] = entry
        self.bytes += size

    def values(self) -> dict[str, list[Values]]:
        return {table: [entry.values for entry in rows.values()] for table, rows in self.rows.items()}

    def refuse(self, reason: str) -> list[Refusal]:
        """Return all rows as put aside."""
        return [
            Refusal(table, key, entry.method, reason)
            for table, rows in self.rows.items()
            for key, entry in rows.items()
        ]

    def remove(self, refused: Iterable[tuple[str, Any, str]]) -> Iterator[Refusal]:
        """Take rows out that are given with their reasons, each with what it is a part of, and all parts."""
        reasons: dict[tuple[str, Any], str] = {}
        for table, key, reason in refused:
            reasons.setdefault(self._whole(table, key), reason)
        wholes = {(table, key): self._whole(table, key) for table, rows in self.rows.items() for key in rows}
        for (table, key), whole in wholes.items():
            if whole in reasons:
                self._count -= 1
                yield Refusal(table, key, self.rows[table].pop(key).method, reasons[whole])

    def _whole(self, table: str, key: Any) -> tuple[str, Any]:
        """Return the table and the key of the row that this one is finally a part of, or its own."""
        whole = TABLES[table].whole
        entry = self.rows.get(table, {}).get(key)
        if whole is None or entry is None:
            return table, key
        return self._whole(whole[0], entry.values[list(TABLES[table].types).index(whole[1])])
