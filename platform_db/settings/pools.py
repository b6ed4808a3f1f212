"""How many connections a process keeps, by what it is there for."""

from __future__ import annotations

from typing import Literal, NamedTuple

Purpose = Literal["service", "job", "cron", "init"]


class Pool(NamedTuple):
    """The bounds of a process's connections.

    :ivar size: how many stay open; with 0, each is closed after its use.
    :ivar overflow: how many more may be open at a time.
    """

    size: int
    overflow: int


POOLS: dict[Purpose, Pool] = {
    # Threads that answer requests.
    "service": Pool(5, 10),
    # A run's own program: its work, and the heartbeat beside it.
    "job": Pool(1, 2),
    # A command that a timetable runs: its batches on one connection, a lock or a lease on another.
    "cron": Pool(1, 4),
    # What is done once: an init container, a look at a row.
    "init": Pool(0, 0),
}
