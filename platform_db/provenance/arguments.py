"""The command line of an execution, without what is secret in it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from platform_db.errors import hide_secrets_in

_HIDDEN = "..."

_SECRET_NAME = re.compile(r"passw(or)?d|secret|token|credential|api[-_]?key|private[-_]?key", re.IGNORECASE)


def hide_secrets(arguments: Sequence[str]) -> list[str]:
    """Return a command line without passwords of URLs, tokens, and values of options that are named so."""
    shown: list[str] = []
    is_secret = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        named_so = _SECRET_NAME.search(name) is not None and "://" not in name
        if is_secret and not argument.startswith("-"):
            shown.append(_HIDDEN)
        elif equals and named_so:
            shown.append(f"{name}={_HIDDEN}")
        else:
            shown.append(hide_secrets_in(argument))
        is_secret = named_so and not equals and argument.startswith("-")
    return shown


def read_arguments(text: str) -> list[str]:
    """Return the command line of a stored execution, without what is secret in it."""
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):  # of another program's
        given = None
    if isinstance(given, list):
        return hide_secrets([str(part) for part in given])
    return [" ".join(hide_secrets(text.split()))]
