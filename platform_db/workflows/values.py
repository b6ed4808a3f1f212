"""What a run's columns hold: refused before the database is asked, which would end the transaction."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from platform_db import errors
from platform_db.bounds import require_amount


def require_priority(priority: int | None) -> None:
    """Raise :class:`errors.InvalidArgument` unless it is a whole number that an ``integer`` column holds."""
    if priority is not None:
        require_amount(priority, "priority", smallest=-(2**31), largest=2**31 - 1)


def require_labels(labels: Mapping[str, str] | None) -> None:
    """Raise :class:`errors.InvalidArgument` unless they have names."""
    if labels is not None and not isinstance(labels, Mapping):
        raise errors.InvalidArgument(f"labels are a mapping of values by their names, not {labels!r}")


def require_moment(start_after: datetime | None) -> None:
    """Raise :class:`errors.InvalidArgument` unless it is a time with its zone."""
    if start_after is not None and (not isinstance(start_after, datetime) or start_after.tzinfo is None):
        raise errors.InvalidArgument(f"start_after is a time with its time zone, not {start_after!r}")
