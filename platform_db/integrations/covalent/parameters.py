"""What the UI may ask for, and what of it is refused: the caller answers 422 to these errors."""

from __future__ import annotations

from collections.abc import Sequence

from platform_db import errors
from platform_db.bounds import require_amount

LARGEST_COUNT = 99


def require_choice(value: str, what: str, choices: Sequence[str]) -> str:
    """Return the choice that is meant, whatever its case.

    :raises errors.InvalidArgument: it is none of them.
    """
    for choice in choices:
        if isinstance(value, str) and choice.lower() == value.lower():
            return choice
    raise errors.InvalidArgument(f"the {what} must be one of {', '.join(choices)}, not {value!r:.60}")


def is_descending(direction: str) -> bool:
    """Tell whether the greatest comes first.

    :raises errors.InvalidArgument: it is neither ``ASC`` nor ``DESC``.
    """
    return require_choice(direction, "sort direction", ("ASC", "DESC")) == "DESC"


def require_page(count: int, offset: int) -> None:
    """Refuse a page that the UI cannot ask for.

    :raises errors.InvalidArgument: the count is not from 1 to 99, or the offset below 0.
    """
    require_amount(count, "count", smallest=1, largest=LARGEST_COUNT)
    require_amount(offset, "offset")


def require_search(search: str | None) -> str:
    """Return the text to search for; None is none.

    :raises errors.InvalidArgument: it is no text.
    """
    if not isinstance(search, str | None):
        raise errors.InvalidArgument(f"the text to search for must be text, not {search!r:.60}")
    return search or ""
