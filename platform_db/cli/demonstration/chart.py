"""The chart of a demonstration: how many runs had which status when, and how full each quota is."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from platform_db.cli.show import COLOURS
from platform_db.models import RunStatus
from platform_db.quota.report import UserUse

BLOCKS = " ▁▂▃▄▅▆▇█"
STATUS_COLOURS = {
    RunStatus.queued: "yellow",
    RunStatus.pending: "magenta",
    RunStatus.running: "blue",
    RunStatus.finished: "green",
    RunStatus.failed: "red",
}
BAR = 12  # columns


class Chart:
    """What was seen so far of runs and quotas.

    :param width: columns of the terminal.
    """

    def __init__(self, width: int) -> None:
        self.columns = max(20, min(60, width - 24))
        self.started = time.monotonic()
        self.samples: list[Counter[RunStatus]] = []

    @property
    def seconds(self) -> float:
        """How long the chart goes on."""
        return time.monotonic() - self.started

    def add(self, statuses: Iterable[RunStatus], users: Iterable[UserUse]) -> Group:
        """Return the chart with what is the case now."""
        self.samples.append(Counter(statuses))
        lines = Table.grid(padding=(0, 2))
        for status, colour in STATUS_COLOURS.items():
            lines.add_row(status.value, Text(self.line(status), colour), str(self.samples[-1][status]))
        end = f"{self.seconds:.1f} s"
        lines.add_row("", Text(f"0{end:>{self.columns - 1}}", "dim"))
        return Group(lines, "", quota_bars(users))

    def line(self, status: RunStatus) -> str:
        """Return how many runs had this status over time, in blocks of a height each."""
        most = max(max(sample.values(), default=1) for sample in self.samples)
        shown = [
            self.samples[column * len(self.samples) // self.columns][status] for column in range(self.columns)
        ]
        return "".join(BLOCKS[-(-count * (len(BLOCKS) - 1) // most)] for count in shown)


def quota_bars(users: Iterable[UserUse]) -> Table:
    """Return a bar for each limit of each user."""
    bars = Table.grid(padding=(0, 2))
    for user in users:
        row: list[object] = [user.email.partition("@")[0]]
        for resource in user.resources:
            if resource.limit is None:
                continue
            colour = COLOURS[resource.as_dict()["health"]]
            used, limit = (resource.human_readable(amount) for amount in (resource.used, resource.limit))
            row += [
                resource.type_,
                ProgressBar(resource.limit, resource.used, BAR, complete_style=colour, finished_style=colour),
                Text(f"{used} of {limit}", no_wrap=True),
            ]
        bars.add_row(*row)  # type: ignore[arg-type]
    return bars
