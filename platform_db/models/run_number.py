"""Run numbers: 1, 2, 3 … for each owner and name; a restart of run 2 is 2.1, 2.2 …

The database gives them (``schema/sql/run_numbers.sql``), whatever writes the run.
"""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from platform_db import errors
from platform_db.models.base import REWRITTEN_OFTEN, STORAGE, Base

if TYPE_CHECKING:
    from platform_db.models.workflow import Workflow

RUN_NUMBER = re.compile(r"([1-9][0-9]{0,8})(?:\.(0|[1-9][0-9]{0,8}))?", re.ASCII)


class RunCounter(Base):
    """The last number given to runs of a name (``run_number_major`` 0), or to restarts of one of them."""

    # Deferred, because the counter of a new user's first run is written before that user's row.
    owner_id: Mapped[uuid.UUID] = mapped_column(
        sa.ForeignKey("platform.user_.id_", ondelete="CASCADE", deferrable=True, initially="DEFERRED")
    )
    name: Mapped[str] = mapped_column(sa.Text)
    run_number_major: Mapped[int]
    last: Mapped[int]

    __table_args__ = (
        sa.PrimaryKeyConstraint("owner_id", "name", "run_number_major"),
        # Room for HOT updates: every new run rewrites a counter.
        {"info": {STORAGE: f"fillfactor = 50, {REWRITTEN_OFTEN}"}},
    )


def split_run_number(run_number: str) -> tuple[int, int]:
    """Return the major and the minor number: ``split_run_number("2.10") == (2, 10)``.

    :raises errors.RunNumberError: it is not a run number.
    """
    match = RUN_NUMBER.fullmatch(run_number)
    if match is None:
        raise errors.RunNumberError(f"{run_number!r} is not a run number such as 2 or 2.1")
    return int(match[1]), int(match[2] or 0)


def format_run_number(major: int, minor: int) -> str:
    """Return ``"2"`` or ``"2.1"``."""
    return f"{major}.{minor}" if minor else str(major)


def asked_number(run_number: str, *, restart: bool) -> tuple[int, int | None]:
    """Return the major and the minor number to write; the minor one is None where the database gives it.

    :param run_number: the number that is asked for; of a restart it is that of the run that it restarts.
    :raises errors.RunNumberError: it is not a run number.
    """
    major, minor = split_run_number(run_number)
    return major, None if restart else minor


def take_run_number(session: Session, workflow: Workflow) -> None:
    """Give a run its number before it is written.

    :raises errors.RunNumberError: it restarts a run that has never been.
    """
    values = {
        "owner_id": str(workflow.owner_id),
        "name": workflow.name,
        "restart": bool(workflow.restart),
        "major": workflow.run_number_major,
    }
    workflow.run_number_major, workflow.run_number_minor = session.connection().execute(_TAKE, values).one()


_TAKE = sa.text("""
    SELECT major, minor
    FROM platform.take_run_number(CAST(:owner_id AS uuid), :name, :restart, CAST(:major AS integer))
    """)
