"""What is looked at before anything is written: the target, and each row of the source."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors

_USED = sa.text("""
    SELECT EXISTS (SELECT FROM platform.status_change) OR EXISTS (SELECT FROM platform.row_event)
""")


def require_unused(session: Session) -> None:
    """Refuse a target whose runs have changed here: a pass would take that back.

    An import leaves neither history nor events, so what has left some was not an import.

    :raises errors.Refused: services have worked with it.
    """
    if session.connection().scalar(_USED):
        raise errors.Refused(
            "runs were created or changed here, and a pass would take that back",
            hint="once services work here the move is over; to try it again, begin with a new database",
        )


def require_zone(session: Session, zone: str) -> None:
    """Refuse a time zone that the database does not know.

    :raises errors.InvalidArgument: names it.
    """
    known = sa.text("SELECT EXISTS (SELECT FROM pg_timezone_names WHERE name = :zone)")
    if not session.connection().scalar(known, {"zone": zone}):
        raise errors.InvalidArgument(f"{zone!r} is no time zone such as UTC or Europe/Zurich")
