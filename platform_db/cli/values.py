"""Secret values on the command line: read from stdin or a prompt, never from an argument; shown once."""

from __future__ import annotations

import math
import sys
from typing import Any

import click

from platform_db.errors import TOKEN_PREFIX, hide_tokens

DAY = 86_400  # seconds

# A hundred years: what is longer leads out of the range of times.
LONGEST_DAYS = 36_500


def read_value(prompt: str = "Value") -> str:
    """Read one line from stdin, or ask for it where stdin is a terminal, without showing it.

    Arguments would stand in the process list and in the shell's history.
    """
    if sys.stdin.isatty():
        value: str = click.prompt(prompt, hide_input=True, err=True)
        return value
    return sys.stdin.readline().rstrip("\r\n")


def refuse_value(context: click.Context, parameter: click.Parameter, argument: str | None) -> str | None:
    """Refuse an argument that holds a token's value, be it mistyped, without showing it again."""
    if argument is None:
        return None
    # An e-mail address may begin like a token.
    if hide_tokens(argument) != argument or (argument.startswith(TOKEN_PREFIX) and "@" not in argument):
        raise click.BadParameter(
            "this is a token's value, which other users of the machine have now seen: revoke it. "
            "Values come on stdin or by prompt."
        )
    return argument


def duration_seconds(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """Read a duration such as ``90d`` or ``12h``."""
    from platform_db.units import parse_duration_seconds

    try:
        seconds = None if value is None else parse_duration_seconds(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if seconds is not None and seconds < 0:
        raise click.BadParameter("a duration is not negative")
    if seconds is not None and seconds > LONGEST_DAYS * DAY:
        raise click.BadParameter(f"a duration is at most {LONGEST_DAYS} days")
    return seconds


class Seconds(click.FloatRange):
    """A number of seconds, neither infinite nor NaN, which a range alone lets pass."""

    def __init__(self, min: float) -> None:  # noqa: A002 (as in the class above)
        super().__init__(min=min, max=LONGEST_DAYS * DAY)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it."""
        seconds: float = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        return seconds
