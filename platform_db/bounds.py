"""How large a number from outside may be: what is beyond is refused before the database is asked."""

from __future__ import annotations

from datetime import timedelta
from types import UnionType

from platform_db import errors

LARGEST_LIMIT = 10_000
LONGEST = timedelta(days=36_500)  # What is longer leads out of the range of times.
LARGEST_AMOUNT = 2**63 - 1  # of a bigint column


def require_limit(limit: int, what: str = "limit") -> int:
    """Return how many rows to read or change at once, from 1 to ten thousand.

    :param what: what the error calls it.
    :raises errors.InvalidArgument: it is something else.
    """
    return require_amount(limit, what, smallest=1, largest=LARGEST_LIMIT)


def require_seconds(
    duration: timedelta | float, what: str = "duration", *, longest: timedelta = LONGEST
) -> float:
    """Return a duration in seconds: from 0 to a hundred years.

    :param duration: seconds where it is a number.
    :param what: what the error calls it.
    :param longest: a narrower bound.
    :raises errors.InvalidArgument: it is something else, such as NaN or text.
    """
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else duration
    if not _is_a(float | int, seconds) or not 0 <= seconds <= longest.total_seconds():
        raise errors.InvalidArgument(f"the {what} must be from 0 seconds to {longest.days} days")
    return seconds


def require_amount(
    amount: int, what: str = "amount", *, smallest: int = 0, largest: int = LARGEST_AMOUNT
) -> int:
    """Return an amount, of bytes or milliseconds for instance: by default one that a ``bigint`` column holds.

    :param what: what the error calls it.
    :raises errors.InvalidArgument: it is something else.
    """
    if not _is_a(int, amount) or not smallest <= amount <= largest:
        raise errors.InvalidArgument(f"the {what} must be a number from {smallest} to {largest}")
    return amount


def _is_a(kind: type[object] | UnionType, number: object) -> bool:
    """Tell whether it is a number of this kind; to Python, True and False are, too."""
    return isinstance(number, kind) and not isinstance(number, bool)
