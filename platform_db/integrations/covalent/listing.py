"""Lists of dispatches, and the counts above them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.database.session import takes_session
from platform_db.integrations.covalent import parameters
from platform_db.integrations.covalent.dispatches import (
    DISPATCH,
    KINDS,
    SUBLATTICE,
    as_iso,
    is_stored,
    read_dispatch,
)
from platform_db.integrations.covalent.statuses import ALL, GROUPS, ORDER_OF_RUN, TOLD_OF_RUN, statuses_of
from platform_db.integrations.covalent.sublattices import ROOT
from platform_db.models import Workflow
from platform_db.models.identity import UserOrId, user_id_of
from platform_db.query import select_rows
from platform_db.query.fields import derived
from platform_db.query.sorting import sorts_of
from platform_db.workflows import Progress, progress_many

_SORTS = {
    "runtime": "runtime",
    "status": "status",
    "started_at": "started",
    "lattice_name": "name",
    "ended_at": "ended",
}

_SUBLATTICE_SORTS = ("runtime", "total_electrons", "lattice_name")

_TIMES = derived(Workflow)

COLUMNS: dict[str, Any] = {
    "lattice_name": Workflow.name,
    "runtime": sorts_of(Workflow)["runtime"][0],
    "started_at": _TIMES["started"],
    "ended_at": _TIMES["ended"],
    "status": TOLD_OF_RUN,
    "updated_at": Workflow.updated,
}
"""What the UI shows of a dispatch. Of one that runs, the runtime is until now; milliseconds."""


@takes_session
def list_dispatches(
    session: Session,
    owner: UserOrId,
    *,
    count: int = 10,
    offset: int = 0,
    sort_by: str = "runtime",
    search: str = "",
    sort_direction: str = "DESC",
    status_filter: str = ALL,
) -> dict[str, Any]:
    """Return a page of an owner's dispatches, without sublattices, as ``{"items": […], "total_count": …}``.

    Ties are broken, so that pages neither repeat nor leave out what stays; what has no value comes last.

    :param count: how many at most, from 1 to 99.
    :param offset: how many to leave out before.
    :param sort_by: runtime, status, started_at, lattice_name or ended_at, in upper or lower case.
    :param search: only those with this text in their name or id, in upper or lower case; by the letter.
    :param sort_direction: ASC or DESC.
    :param status_filter: ALL, a status of Covalent's, or one that stands for several: NEW_OBJECT, RUNNING
        and COMPLETED.
    :raises errors.InvalidArgument: a parameter has another value.
    """
    parameters.require_page(count, offset)
    sort = _SORTS[parameters.require_choice(sort_by, "sort", tuple(_SORTS))]
    descending = parameters.is_descending(sort_direction)
    owner_id = user_id_of(owner)
    session.flush()
    found = select_dispatches(
        owner_id, search, status_filter, (DISPATCH,), sort=f"{'-' if descending else ''}{sort}"
    )
    if sort == "status":
        order = [ORDER_OF_RUN, Workflow.created, Workflow.id_]
        found = found.order_by(None).order_by(*(part.desc() if descending else part for part in order))
    items = _items(session, owner_id, found.offset(offset).limit(count))
    rows = found.order_by(None).with_only_columns(sa.literal(1)).subquery()
    return {"items": items, "total_count": session.scalar(sa.select(sa.func.count()).select_from(rows))}


@takes_session
def get_sublattices(
    session: Session,
    owner: UserOrId,
    dispatch_id: uuid.UUID | str,
    *,
    sort_by: str = "runtime",
    sort_direction: str = "DESC",
) -> dict[str, Any]:
    """Return what a dispatch's electrons, and theirs, have dispatched, as ``{"sub_lattices": […]}``.

    :param sort_by: runtime, total_electrons or lattice_name, in upper or lower case.
    :param sort_direction: ASC or DESC.
    :raises errors.InvalidArgument: a parameter has another value.
    :raises errors.WorkflowNotFound: the owner has no such dispatch.
    """
    sort = parameters.require_choice(sort_by, "sort", _SUBLATTICE_SORTS)
    descending = parameters.is_descending(sort_direction)
    owner_id = user_id_of(owner)
    root = read_dispatch(session, owner_id, dispatch_id).id_
    found = select_dispatches(owner_id, "", ALL, (SUBLATTICE,), sort="created").where(str(root) == ROOT)
    items = _items(session, owner_id, found)
    sorted_ = sorted(
        (item for item in items if item[sort] is not None), key=lambda item: item[sort], reverse=descending
    )
    return {"sub_lattices": sorted_ + [item for item in items if item[sort] is None]}


@takes_session
def overview(session: Session, owner: UserOrId) -> dict[str, Any]:
    """Return the counts of an owner's dispatches, without sublattices, in one statement.

    Each one is counted once, by the groups of the list's status filter.
    ``total_dispatcher_duration`` is in milliseconds, of those that have ended.
    """
    session.flush()
    rows = session.execute(
        sa.select(
            TOLD_OF_RUN.label("status"),
            sa.func.count().label("dispatches"),
            sa.func.max(Workflow.updated).label("updated"),
            sa.func.sum(COLUMNS["runtime"]).filter(_TIMES["ended"].is_not(None)).label("duration"),
        )
        .where(is_stored(user_id_of(owner)), Workflow.type_ == DISPATCH)
        .group_by(sa.text("1"))
    ).all()
    latest = max(rows, key=lambda row: (row.updated, row.status), default=None)
    counts = {
        f"total_jobs_{group.lower()}": sum(row.dispatches for row in rows if row.status in statuses)
        for group, statuses in GROUPS.items()
    }
    return {
        "total_jobs": sum(row.dispatches for row in rows),
        **counts,
        "latest_running_task_status": latest and latest.status,
        "total_dispatcher_duration": int(sum(row.duration or 0 for row in rows)),
    }


def select_dispatches(
    owner_id: uuid.UUID,
    search: str | None,
    status_filter: str,
    kinds: Sequence[str] = KINDS,
    *,
    sort: str = "-created",
) -> sa.Select[Workflow]:
    """Return the query of an owner's dispatches, without those that are deleted.

    :raises errors.InvalidArgument: the search or the status filter cannot be used.
    """
    statuses = statuses_of(status_filter)
    found = select_rows(Workflow, search=parameters.require_search(search), sort=sort).where(
        is_stored(owner_id), Workflow.type_.in_(kinds)
    )
    return found if statuses is None else found.where(TOLD_OF_RUN.in_([status.value for status in statuses]))


def _items(session: Session, owner_id: uuid.UUID, found: sa.Select[Workflow]) -> list[dict[str, Any]]:
    columns = [column.label(name) for name, column in COLUMNS.items()]
    rows = session.execute(found.with_only_columns(Workflow.id_, *columns)).all()
    counted = progress_many(session, [(owner_id, row.id_) for row in rows])
    return [
        {"dispatch_id": str(row.id_), **shown(row, counts)} for row, counts in zip(rows, counted, strict=True)
    ]


def shown(row: sa.Row[Any], counts: Progress) -> dict[str, Any]:
    """Return the columns and counts of a dispatch as the UI has them; times are text in ISO 8601."""
    values = {name: getattr(row, name) for name in COLUMNS}
    times = {name: as_iso(value) for name, value in values.items() if name.endswith("_at")}
    return {
        **values,
        **times,
        "total_electrons": counts.total,
        "total_electrons_completed": counts.finished,
    }
