"""What a process has written or read lately, which it need not write again."""

from __future__ import annotations

import time

# A hash is forgotten by then. Pruning leaves values alone for a day, so what a process relies on is there.
LONGEST = 3600.0  # seconds
LARGEST = 500_000  # hashes


class Known:
    """Hashes in two generations: the older one is forgotten when the younger one is old, or large."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self._young: set[str] = set()
        self._old: set[str] = set()
        self._begun = time.monotonic()

    def add(self, hash_: str) -> None:
        self._turn()
        self._young.add(hash_)

    def __contains__(self, hash_: str | None) -> bool:
        self._turn()
        return hash_ in self._young or hash_ in self._old

    def _turn(self) -> None:
        age = time.monotonic() - self._begun
        if age > LONGEST / 2 or len(self._young) >= LARGEST / 2:
            self._old = self._young if age < LONGEST else set()
            self._young = set()
            self._begun = time.monotonic()
