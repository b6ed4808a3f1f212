"""Which directories are the same ones, by whatever links and mounts they are reached."""

from __future__ import annotations

import os
from pathlib import Path

Identity = tuple[int, int]
"""The device and the inode of a directory: what it is, whatever it is called."""


class Places:
    """Tells which workspaces overlap; it looks for each one once, as soon as it is there."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Identity | None, ...]] = {}

    def overlap(self, one: str, other: str) -> bool:
        """Tell whether one of two paths names the other's directory, one above it or one in it."""
        mine, theirs = self._line(one), self._line(other)
        return (mine[0] is not None and mine[0] in theirs) or (theirs[0] is not None and theirs[0] in mine)

    def _line(self, path: str) -> tuple[Identity | None, ...]:
        """Return what ``path`` names, followed by the directories above that; None is one that is missing."""
        line = self._known.get(path)
        if line is None:
            real = Path(os.path.realpath(path))
            line = tuple(_identity(place) for place in (real, *real.parents))
            if line[0] is not None:
                self._known[path] = line
        return line


def _identity(place: Path) -> Identity | None:
    try:
        status = place.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
