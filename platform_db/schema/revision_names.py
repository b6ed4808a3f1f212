"""How people name a revision, and what a new one may be called: Alembic stumbles over everything else."""

from __future__ import annotations

import re

from platform_db import errors
from platform_db.schema.status import next_revision

_ONE = r"((\w+@)?\w+([+-]\d{1,4})?|[+-]\d{1,4})"
_RANGE = re.compile(f"{_ONE}(:{_ONE})?")
_OPEN_RANGE = re.compile(f"{_ONE}?(:{_ONE}?)?")
_IDENTIFIER = re.compile(r"(?!base$)\w+")
_NUMBER = re.compile(r"[0-9]{4}")


def require_revision(text: str) -> str:
    """Return the name of a revision (``0001``, ``head``, ``+1``), or of a range (``0001:head``).

    :raises errors.InvalidValue: it is something else, such as a variable that is not set.
    """
    return _require(_RANGE, text)


def require_range(text: str) -> str:
    """Return the name of a range of revisions, of which either end may be left out: ``0001:``.

    :raises errors.InvalidValue: it is something else.
    """
    return _require(_OPEN_RANGE, text)


def require_identifier(text: str) -> str:
    """Return the name of one revision that has a file: ``0001`` or ``head``, but no ``base`` and no steps.

    :raises errors.InvalidValue: it is something else.
    """
    return _require(_IDENTIFIER, text)


def require_new_number(text: str) -> str:
    """Return the number of a new revision.

    :raises errors.InvalidValue: it does not follow those that are there; no command could load its file.
    """
    first = next_revision()
    if not (_NUMBER.fullmatch(text) and text >= first):
        raise errors.InvalidValue(f"{text!r} is not a number from {first} to 9999")
    return text


def _require(pattern: re.Pattern[str], text: str) -> str:
    if not text or not pattern.fullmatch(text):
        raise errors.InvalidValue(f"{text!r} names no revision")
    return text
