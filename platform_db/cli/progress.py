"""Showing how far a long command is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

SECONDS_PER_LINE = 10.0

Progress = Callable[[int, int], None]


@contextmanager
def show_progress(what: str, *, quiet: bool = False) -> Iterator[Progress | None]:
    """Give a function that is told how many items are done, and of how many; it writes to stderr.

    :param what: the items, such as ``workspaces``.
    :param quiet: show nothing, and give nothing.
    """
    if quiet:
        yield None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
    else:
        started = written = time.monotonic()

        def write_line(done: int, total: int) -> None:
            nonlocal written
            now = time.monotonic()
            if now - written >= SECONDS_PER_LINE:
                written = now
                click.echo(f"{done} of {total} {what}, {done / (now - started):.0f} a second", err=True)

        yield write_line
