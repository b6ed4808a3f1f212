"""What a pass did: counts by table, and each row that is not moved as it was."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from platform_db import errors

OUTCOMES = ("written", "removed", "transformed", "refused", "left out")


@dataclass
class Report:
    """What a pass found and did, by table.

    :param rows: how many rows of the source are mapped, each of them compared with what is stored by then.
    :param counts: how many rows were written, removed, transformed, refused and left out.
    """

    rows: Counter[str] = field(default_factory=Counter)
    counts: dict[str, Counter[str]] = field(
        default_factory=lambda: {outcome: Counter() for outcome in OUTCOMES}
    )
    file: IO[str] | None = None

    @classmethod
    @contextmanager
    def to(cls, path: Path | None) -> Iterator[Report]:
        """Give a report that writes its lines to a file, where one is given.

        :raises errors.InvalidArgument: the file holds something else, such as the database to read.
        """
        if path is None:
            yield cls()
            return
        if path.is_file() and not _is_report(path):
            raise errors.InvalidArgument(f"{path} is there and is no report: name another file")
        with path.open("w", encoding="utf-8") as file:
            yield cls(file=file)

    def note(self, table: str, id_: str, outcome: str, reason: str | None = None, rows: int = 1) -> None:
        """Write a line, JSON with table, id, outcome and reason, and count its rows."""
        self.counts[outcome][table] += rows
        if self.file is not None:
            line = {"table": table, "id": id_, "outcome": outcome, "reason": reason}
            self.file.write(
                json.dumps({name: value for name, value in line.items() if value is not None}) + "\n"
            )

    def summary(self) -> list[dict[str, object]]:
        """Return a line for each table, with its counts."""
        tables = dict.fromkeys(
            [*self.rows, *(table for counter in self.counts.values() for table in counter)]
        )
        return [
            {"table": table, "rows": self.rows[table]}
            | {outcome.replace(" ", "_"): self.counts[outcome][table] for outcome in OUTCOMES}
            for table in tables
        ]


def _is_report(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_BEGIN)) in (b"", _BEGIN)


_BEGIN = b'{"table": '
