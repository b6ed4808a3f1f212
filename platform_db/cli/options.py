"""The options, arguments and types of values that commands share. Their bounds are the library's."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any, TypeVar

import click

from platform_db.bounds import require_seconds
from platform_db.cli.secret_values import refuse_value
from platform_db.units import parse_duration_seconds

F = TypeVar("F", bound=Callable[..., Any])

json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON document: an object, or a list with one row per line.",
)

user_argument = click.argument("user", metavar="USER", callback=refuse_value)

limit_option = click.option("--limit", type=int, default=50, show_default=True, help="How many rows at most.")


def user_option(help_: str, name: str = "--user", *, required: bool = False) -> Callable[[F], F]:
    """Return an option that takes a user's id or e-mail address."""
    help_ = f"{help_}, by id or e-mail address."
    return click.option(name, metavar="USER", callback=refuse_value, required=required, help=help_)


def options(*given: Callable[[F], F]) -> Callable[[F], F]:
    """Make one decorator of several."""

    def decorate(command: F) -> F:
        for option in reversed(given):
            command = option(command)
        return command

    return decorate


def duration_option(name: str, help_: str, *, in_days: bool = False, **settings: Any) -> Callable[[F], F]:
    """Return an option that takes a duration such as ``90d``, ``12h`` or ``2h 30m``.

    :param in_days: take a number without a unit for days.
    """
    unit, help_ = ("d", f"{help_}; a number without a unit is days.") if in_days else ("s", f"{help_}.")

    def read(ctx: click.Context, param: click.Parameter, value: str | None) -> timedelta | None:
        if value is None:
            return None
        return timedelta(seconds=require_seconds(parse_duration_seconds(value, unit), param.opts[0]))

    return click.option(name, metavar="DURATION", callback=read, help=help_, show_default=True, **settings)


class Time(click.ParamType):  # type: ignore[type-arg] # generic in newer releases only
    """A time in ISO 8601; without an offset it is UTC."""

    name = "time"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            time = datetime.fromisoformat(value.replace("Z", "+00:00"))
        except ValueError:
            self.fail(f"{value!r} is not a time such as 2026-11-21T07:30:00Z", param, ctx)
        return time if time.tzinfo else time.replace(tzinfo=timezone.utc)
