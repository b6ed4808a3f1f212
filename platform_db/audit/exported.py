"""Seals that were exported earlier, read along with the stored ones."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from platform_db import errors
from platform_db.models import AuditSeal


class ExportedSeals:
    """Compares stored seals, in their order, with lines that :func:`export_seals` gave earlier.

    :param lines: the lines, read one at a time.
    :ivar compared: how many seals were found to be as they had been exported.
    :ivar kept_from: the first seal whose rows were kept when the last of these was made.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self.compared = 0
        self.kept_from = 1
        self._seals = _read(lines)
        self._next = next(self._seals, None)

    def check(self, seal: AuditSeal) -> None:
        """Compare a stored seal with the exported one, where there is one.

        :raises errors.AuditLogChanged: they differ.
        """
        while self._next is not None and self._next[0] <= seal.number:
            number, hash_ = self._next
            if number == seal.number:
                if hash_ != seal.hash.hex():
                    raise errors.AuditLogChanged(seal.number, "altered")
                self.compared += 1
                self.kept_from = seal.first_kept_seal
            self._next = next(self._seals, None)

    def finish(self, last: int) -> None:
        """Refuse a chain that ends before the exported one, and an export with nothing to compare.

        :param last: the last stored seal.
        :raises errors.AuditLogChanged: a seal was exported that is not stored.
        :raises errors.InvalidExport: no seal was compared.
        """
        if self._next is not None:
            raise errors.AuditLogChanged(last + 1, "missing")
        if not self.compared:
            raise errors.InvalidExport("the exported seals have none in common with those that were read")


def _read(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Yield the numbers and the hashes of exported seals."""
    before = 0
    for line_number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            seal = json.loads(line)
            number, hash_ = seal["number"], seal["hash"]
        except (ValueError, TypeError, KeyError, RecursionError):
            number = hash_ = None
        if not isinstance(number, int) or not isinstance(hash_, str):
            raise errors.InvalidExport(f"line {line_number} is no exported seal")
        if number <= before:
            raise errors.InvalidExport(f"line {line_number}: seal {number} was to come before seal {before}")
        before = number
        yield number, hash_
