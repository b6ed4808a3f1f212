"""Commands and groups whose help has an example, and a summary that is never cut off."""

from __future__ import annotations

import inspect
from typing import Any

import click

from platform_db.cli import COMMANDS
from platform_db.cli.outcomes import recorded


class Command(click.Command):
    """A command with an example.

    :param example: what follows ``platform-db``.
    :param is_job: whether it is for a schedule, so that how it ended is stored for metrics.
    """

    def __init__(self, *args: Any, example: str, is_job: bool = False, **options: Any) -> None:
        super().__init__(*args, **options)
        self.is_job = is_job
        self.example = f"platform-db {example}"
        # Click would cut a summary off that it takes from the help. And \b keeps lines as they are.
        self.short_help = inspect.cleandoc(self.help or "").partition("\n")[0]
        self.epilog = f"\b\nExample:\n  {self.example}"

    def invoke(self, ctx: click.Context) -> Any:
        """Run it; of a job store how it ended, unless it was run for a part of all, or changed nothing."""
        if not self.is_job or any(ctx.params.get(name) for name in ("dry_run", "node", "tables", "user")):
            return super().invoke(ctx)
        with recorded(ctx):
            return super().invoke(ctx)


class Group(click.Group):
    """A group of such commands."""

    command_class = Command


def group(name: str, more: str = "") -> Group:
    """Return the group of this name, whose help is its summary and ``more``."""
    return Group(name, help=f"{COMMANDS[name]}\n\n{more}")
