"""Secret values on the command line: read from stdin or a prompt, never from an argument; shown once."""

from __future__ import annotations

import sys

import click

from platform_db.errors import TOKEN_PREFIX, hide_tokens


def read_value() -> str:
    """Read one line from stdin, or ask for it where stdin is a terminal, without showing it.

    Arguments would stand in the process list and in the shell's history.
    """
    if sys.stdin.isatty():
        return str(click.prompt("Value", hide_input=True, err=True))
    return sys.stdin.readline().rstrip("\r\n")


def refuse_value(context: click.Context, parameter: click.Parameter, argument: str | None) -> str | None:
    """Refuse an argument that holds a token's value, even a mistyped one, without showing it again."""
    if argument is None:
        return None
    # An e-mail address may begin like a token.
    if hide_tokens(argument) != argument or (argument.startswith(TOKEN_PREFIX) and "@" not in argument):
        raise click.BadParameter(
            "this is a token's value, which other users of the machine have now seen: revoke it. "
            "Values come on stdin or by prompt."
        )
    return argument
