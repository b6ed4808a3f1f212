"""Patterns with ``*``, ``?`` and ``[a-z]``, as :mod:`fnmatch` has them, for PostgreSQL."""

from __future__ import annotations

from platform_db import errors
from platform_db.models.types import is_text


def glob_as_regex(pattern: str) -> str:
    """Return a pattern of :mod:`fnmatch` as a regular expression of PostgreSQL's; case matters.

    :raises errors.InvalidFilter: the database has no place for its text.
    """
    if not is_text(pattern):
        raise errors.InvalidFilter("a pattern has a NUL or half of a surrogate pair")
    regex, place = "^", 0
    while place < len(pattern):
        char = pattern[place]
        # The first character of a set is none that ends it.
        inside = place + (3 if pattern[place + 1 : place + 2] == "!" else 2)
        end = pattern.find("]", inside) if char == "[" else -1
        if end > 0:
            regex += _set(pattern[place + 1 : end])
            place = end
        else:
            regex += {"*": ".*", "?": "."}.get(char, _literal(char))
        place += 1
    return f"{regex}$"


def _set(members: str) -> str:
    negated = members.startswith("!")
    members = members[negated:]
    ranges, place = "", 0
    while place < len(members):
        if members[place + 1 : place + 2] == "-" and place + 2 < len(members):
            first, last = members[place], members[place + 2]
            ranges += f"{_literal(first)}-{_literal(last)}" if first <= last else ""
            place += 3
        else:
            ranges += _literal(members[place])
            place += 1
    if not ranges:
        return "." if negated else "(?!)"
    return f"[{'^' if negated else ''}{ranges}]"


def _literal(char: str) -> str:
    return char if char.isascii() and char.isalnum() else f"\\U{ord(char):08X}"
