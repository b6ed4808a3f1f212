"""Covalent's statuses, what they are here, and what a stored row's status is to Covalent.

A row keeps Covalent's status beside its own, because several are one status here. Where another writer has
changed the row's own status since, such as ``platform-db workflow stop``, that one is told.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from platform_db import errors
from platform_db.models import Workflow
from platform_db.states import Machine, S, Status


class DispatchStatus(str, enum.Enum):
    """A status of a dispatch or of an electron. They stand in the order in which the UI sorts them."""

    NEW_OBJECT = "NEW_OBJECT"
    PENDING_REPLACEMENT = "PENDING_REPLACEMENT"
    PENDING_REUSE = "PENDING_REUSE"
    STARTING = "STARTING"
    DISPATCHING = "DISPATCHING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    POSTPROCESSING = "POSTPROCESSING"
    POSTPROCESSING_FAILED = "POSTPROCESSING_FAILED"
    PENDING_POSTPROCESSING = "PENDING_POSTPROCESSING"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def has_ended(self) -> bool:
        """Whether Covalent lets nothing follow it."""
        return self.value in ("COMPLETED", "FAILED", "CANCELLED")


# The names of the statuses of runs and jobs that stand for them.
_STORED = {
    DispatchStatus.NEW_OBJECT: "created",
    DispatchStatus.PENDING_REPLACEMENT: "created",
    DispatchStatus.PENDING_REUSE: "created",
    DispatchStatus.STARTING: "queued",
    DispatchStatus.DISPATCHING: "running",
    DispatchStatus.RUNNING: "running",
    DispatchStatus.PENDING_POSTPROCESSING: "running",
    DispatchStatus.POSTPROCESSING: "running",
    DispatchStatus.POSTPROCESSING_FAILED: "failed",
    DispatchStatus.COMPLETED: "finished",
    DispatchStatus.FAILED: "failed",
    DispatchStatus.CANCELLED: "stopped",
}

# What a row's own status is to Covalent where the one that was kept does not belong to it.
_TOLD = {
    "created": DispatchStatus.NEW_OBJECT,
    "queued": DispatchStatus.STARTING,
    "pending": DispatchStatus.STARTING,
    "running": DispatchStatus.RUNNING,
    "finished": DispatchStatus.COMPLETED,
    "failed": DispatchStatus.FAILED,
    "stopped": DispatchStatus.CANCELLED,
}

ALL = "ALL"

# What the UI's filters and counts hold. Together they hold every status.
GROUPS: Mapping[str, frozenset[DispatchStatus]] = {
    "NEW_OBJECT": frozenset(
        (DispatchStatus.NEW_OBJECT, DispatchStatus.PENDING_REPLACEMENT, DispatchStatus.PENDING_REUSE)
    ),
    "RUNNING": frozenset((DispatchStatus.STARTING, DispatchStatus.DISPATCHING, DispatchStatus.RUNNING)),
    "COMPLETED": frozenset(
        (
            DispatchStatus.COMPLETED,
            DispatchStatus.POSTPROCESSING,
            DispatchStatus.POSTPROCESSING_FAILED,
            DispatchStatus.PENDING_POSTPROCESSING,
        )
    ),
    "FAILED": frozenset((DispatchStatus.FAILED,)),
    "CANCELLED": frozenset((DispatchStatus.CANCELLED,)),
}


def statuses_of(filter_: str) -> frozenset[DispatchStatus] | None:
    """Return the statuses that a filter of the UI holds, None for all.

    :raises errors.InvalidArgument: there is no such filter; upper and lower case differ.
    """
    if filter_ == ALL:
        return None
    if filter_ in GROUPS:
        return GROUPS[filter_]
    try:
        return frozenset((DispatchStatus(filter_),))
    except ValueError:
        names = ", ".join((ALL, *(status.value for status in DispatchStatus)))
        raise errors.InvalidArgument(
            f"there is no status filter {filter_!r:.60}; choose from {names}"
        ) from None


def told(stored: Status, kept: str | None) -> DispatchStatus:
    """Return what a row's status is to Covalent.

    :param kept: Covalent's status that was kept beside it.
    """
    status = next((status for status in DispatchStatus if status.value == kept), None)
    return status if status and _STORED[status] == stored.value else _TOLD[stored.value]


def stored_as(machine: Machine[S], status: DispatchStatus) -> S:
    """Return the status of a run or a job that stands for it."""
    return machine.statuses(_STORED[status])


def way(machine: Machine[S], stored: S, kept: str | None, status: DispatchStatus) -> list[S] | None:
    """Return the statuses that a row goes through to this one; None where it stays as it is.

    Covalent lets nothing follow what has ended, and here nothing goes back to where it was before it ran.
    """
    now = told(stored, kept)
    if now.has_ended and now is not status:
        return None
    return machine.way(stored, stored_as(machine, status))


def _told_in_sql() -> Any:
    own = sa.cast(Workflow.status, sa.Text)
    kept = sa.func.jsonb_extract_path_text(Workflow.engine_specific, "status", type_=sa.Text)
    pairs = [(stored, status.value) for status, stored in _STORED.items()]
    return sa.case(
        (sa.tuple_(own, kept).in_(pairs), kept),
        *((own == stored, status.value) for stored, status in _TOLD.items()),
    )


TOLD_OF_RUN = _told_in_sql()
"""What a run's status is to Covalent, in SQL."""

ORDER_OF_RUN: Any = sa.case(*((status.value == TOLD_OF_RUN, n) for n, status in enumerate(DispatchStatus)))
"""Where that stands in the UI's order."""
