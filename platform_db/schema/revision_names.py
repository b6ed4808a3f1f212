"""How people name a revision, and which names a new one may have: Alembic cannot handle others."""

from __future__ import annotations

import re

from platform_db import errors
from platform_db.schema.status import next_revision

_ONE = r"((\w+@)?\w+([+-]\d{1,4})?|[+-]\d{1,4})"

REVISION = re.compile(f"{_ONE}(:{_ONE})?")
"""``0001``, ``head``, ``+1``, or a range of two such, ``0001:head``."""

RANGE = re.compile(f"{_ONE}?(:{_ONE}?)?")
"""A range of which either end may be left out: ``0001:``."""

IDENTIFIER = re.compile(r"(?!base$)\w+")
"""One revision that has a file: ``0001`` or ``head``, but no ``base`` and no steps."""


def require_revision(text: str, form: re.Pattern[str] = REVISION) -> str:
    """Return the name of a revision.

    :raises errors.InvalidArgument: it is something else, such as a variable that is not set.
    """
    if not text or not form.fullmatch(text):
        raise errors.InvalidArgument(f"{text!r} names no revision")
    return text


def require_new_number(text: str) -> str:
    """Return the number of a new revision.

    :raises errors.InvalidArgument: it does not follow those that are there; no command could load its file.
    """
    first = next_revision()
    if not (re.fullmatch("[0-9]{4}", text) and text >= first):
        raise errors.InvalidArgument(f"{text!r} is not a number from {first} to 9999")
    return text
