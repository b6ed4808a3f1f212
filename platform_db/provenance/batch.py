"""Rows that are written together, by table and key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import takewhile
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


class Held(NamedTuple):
    """A row that waits for another of its key.

    :param size: bytes, roughly.
    :param due: when it waits no longer, on the monotonic clock.
    """

    entry: Entry
    size: int
    due: float


class Batch:
    """Rows in the order of recording; the last row of a key counts.

    Rows of ``HELD`` may be held back: they are written when they are due, if no other has taken their place.
    """

    HELD = "call_job"

    def __init__(self) -> None:
        self.rows: dict[str, dict[Any, Entry]] = {}
        self.bytes = 0
        self.count = 0  # without those that are held
        self._due = 0.0
        self._held: dict[Any, Held] = {}

    def __len__(self) -> int:
        return self.count + len(self._held)

    @property
    def due(self) -> float:
        if self.count:
            return self._due
        return next((held.due for held in self._held.values()), 0.0)

    def put(self, table: str, key: Any, entry: Entry, size: int, due: float) -> None:
        rows = self.rows.get(table)
        if rows is None:
            rows = self.rows[table] = {}
        if table == self.HELD:
            self._held.pop(key, None)
        if not self.count:
            self._due = due
        if key not in rows:
            self.count += 1
        rows[key] = entry
        self.bytes += size

    def hold(self, key: Any, entry: Entry, size: int, due: float) -> None:
        """Put a row of ``HELD`` that may wait; each one is due no sooner than the one before."""
        self._held[key] = Held(entry, size, due)

    def release(self, key: Any) -> None:
        """Have a row written with the others, if it is held."""
        if key in self._held:
            entry, size, _ = self._held[key]
            self.put(self.HELD, key, entry, size, 0.0)

    def release_until(self, moment: float) -> None:
        """Have the rows written that are due by then."""
        for key in list(takewhile(lambda key: self._held[key].due <= moment, self._held)):
            self.release(key)

    def hand_on(self, batch: Batch) -> None:
        """Give another batch the rows that are held still."""
        batch._held, self._held = self._held, {}

    def find(self, table: str, key: Any) -> Entry | None:
        """Return the row of a key."""
        entry = self.rows.get(table, {}).get(key)
        if entry is None and table == self.HELD and key in self._held:
            entry = self._held[key].entry
        return entry

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
                self.count -= 1
                yield Refusal(table, key, self.rows[table].pop(key).method, reasons[whole])

    def _whole(self, table: str, key: Any) -> tuple[str, Any]:
        """Return the table and the key of the row that this one is finally a part of, or its own."""
        whole = TABLES[table].whole
        entry = self.rows.get(table, {}).get(key)
        if whole is None or entry is None:
            return table, key
        return self._whole(whole[0], entry.values[list(TABLES[table].types).index(whole[1])])
