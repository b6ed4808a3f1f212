"""Lists of any model: filtered, searched, sorted, a page at a time."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlalchemy.sql.base import ExecutableOption

from platform_db import errors
from platform_db.bounds import require_amount
from platform_db.cursors import Page, Total
from platform_db.database.paging import ordered, read_page
from platform_db.database.session import takes_session
from platform_db.models import Base, User, Workflow
from platform_db.models.types import is_text
from platform_db.query.canonical import canonical
from platform_db.query.conditions import condition
from platform_db.query.fields import field_of
from platform_db.query.labels import parse_selector
from platform_db.query.language import Every, Node, Test, parse, top_parts
from platform_db.query.shared import shared_with
from platform_db.query.sorting import Sort, sort_of
from platform_db.states import WORKFLOW
from platform_db.tenancy import in_tenant_scope, tenant_of

Row = TypeVar("Row", bound=Base)

MOST_COUNTED = 10_000


@takes_session
def find(
    session: Session,
    model: type[Row],
    filter_: Mapping[str, Any] | None = None,
    *,
    labels: str = "",
    search: str = "",
    sort: str = "-created",
    limit: int = 100,
    cursor: str | None = None,
    include_shared: bool = False,
    total: bool | int = False,
    scan: bool = False,
    options: Sequence[ExecutableOption] = (),
) -> Page[Row]:
    """Return a page of the rows that meet a filter.

    In a tenant's scope these are the tenant's. Outside of one, ``owner_id`` in the filter names the owner;
    across all owners only what an index serves is looked for.

    :param filter_: such as ``{"status": {"$in": ["failed", "stopped"]}, "labels.team": "a"}``.
    :param labels: a selector such as ``team=a,gpu in (a100,h100),!old``, in addition.
    :param search: only rows with this text in their name or id, in upper or lower case.
    :param sort: a name of :func:`~platform_db.query.sorting.sorts_of`; with ``-`` in front the greatest
        comes first.
    :param cursor: the ``cursor`` or ``previous`` of a page of the same list.
    :param include_shared: also find the runs that others share with the owner.
    :param total: also count the rows, up to ten thousand, or up to this number.
    :param scan: read the whole table, if need be.
    :param options: what to load with the rows; collections by ``selectinload``, not joined.
    :raises errors.InvalidFilter: the filter, the selector or the order is wrong; names what there is to
        choose from.
    :raises errors.Refused: nothing serves this across all owners; or what is shared was asked for in a
        tenant's scope.
    :raises errors.InvalidIdentifier: this list gave no such cursor.
    """
    node = _read(model, filter_, labels)
    order = sort_of(model, sort)
    owners = _owners(model, node)
    owner_id = tenant_of(session) or next(iter(owners), None)
    by_age = order.name == "created" and not search and not _beside_age(node)
    if not (scan or owner_id or (by_age and model is Workflow) or _is_served(model, node, order, search)):
        raise errors.Refused(
            f"no index serves this list of all owners' rows: name one with owner_id, or let the whole table"
            f" {model.__tablename__} be read with scan"
        )
    if include_shared:
        selected = _with_shared(session, model, node, search, owners)
    else:
        selected = _select(model, node, search)
    page = read_page(
        session,
        selected.options(*options),
        order.order,
        query=("find", model.__tablename__, owner_id, canonical(model, node), search, sort, include_shared),
        limit=limit,
        cursor=cursor,
        descending=order.descending,
        heads=_first_of_each_owner if by_age and model is Workflow and not owner_id else None,
    )
    if total is False:
        return page
    most = MOST_COUNTED if total is True else require_amount(total, "total", smallest=1)
    return page._replace(total=_count(session, selected, most))


def select_rows(
    model: type[Row],
    filter_: Mapping[str, Any] | None = None,
    *,
    labels: str = "",
    search: str = "",
    sort: str = "-created",
) -> sa.Select[Row]:
    """Select what :func:`find` lists, in its order, to be joined, limited and executed by the caller.

    :raises errors.InvalidFilter: as :func:`find`.
    """
    order = sort_of(model, sort)
    selected = _select(model, _read(model, filter_, labels), search)
    return selected.order_by(*ordered(order.order, order.descending))


def _read(model: type[Base], filter_: Mapping[str, Any] | None, labels: str) -> Node:
    return Every((parse(filter_), parse_selector(labels)))


def _select(model: type[Row], node: Node, search: str) -> sa.Select[Row]:
    statement = sa.select(model).where(condition(model, node))
    return statement.where(_found_in(model, search)) if search else statement


def _found_in(model: type[Base], search: str) -> sa.ColumnElement[bool]:
    if not isinstance(search, str) or not is_text(search):
        raise errors.InvalidFilter("what to search for is no text, or has a NUL or half of a surrogate pair")
    columns = sa.inspect(model).columns
    texts: list[Any] = [columns[name] for name in ("name", "job_name", "email") if name in columns]
    texts.append(sa.cast(columns["id_"], sa.Text))
    return sa.or_(*(text.icontains(search, autoescape=True) for text in texts))


def _first_of_each_owner(page: sa.Select[Any], down: bool, limit: int) -> sa.ColumnElement[bool]:
    """Return the condition that a run is among the first of all owners' first: an index has each owner's."""
    key = (Workflow.created, Workflow.id_)
    mine = page.where(Workflow.owner_id == User.id_).with_only_columns(Workflow.owner_id, *key)
    heads = mine.correlate(User).lateral()
    first = sa.select(heads.c.owner_id, heads.c.id_).select_from(User).join(heads, sa.true())
    order = [column.desc() if down else column for column in (heads.c.created, heads.c.id_)]
    limited = first.order_by(*order).limit(limit)
    return sa.tuple_(Workflow.owner_id, Workflow.id_).in_(limited)


def _with_shared(
    session: Session, model: type[Base], node: Node, search: str, owners: Collection[uuid.UUID]
) -> sa.Select[Any]:
    """Select of all owners' runs the one owner's, and what others share with that owner."""
    if in_tenant_scope(session):
        raise errors.Refused("what is shared belongs to others: find it outside the tenant's scope")
    if model is not Workflow or len(owners) != 1:
        raise errors.InvalidFilter("include_shared finds runs, and takes one owner_id in the filter")
    (owner_id,) = owners
    others = [part for part in top_parts(node) if not (isinstance(part, Test) and _names_owner(model, part))]
    own = sa.select(Workflow.owner_id, Workflow.id_).where(Workflow.owner_id == owner_id)
    # As one list of keys: with an OR the planner reads the runs of all owners.
    keys = sa.union_all(own, shared_with(owner_id))
    selected = _select(Workflow, Every(tuple(others)), search)
    return selected.where(sa.tuple_(Workflow.owner_id, Workflow.id_).in_(keys))


def _owners(model: type[Base], node: Node) -> set[uuid.UUID]:
    """Return the owners that a row has to have; more than one have no rows in common."""
    return {
        field_of(model, "owner_id").value(test.value) for test in _tests(node) if _names_owner(model, test)
    }


def _names_owner(model: type[Base], test: Test) -> bool:
    owner = sa.inspect(model).synonyms.get("user_id")
    names = ("owner_id", "user_id") if owner is not None and owner.name == "owner_id" else ("owner_id",)
    return test.operator == "$eq" and test.value is not None and test.path in [(name,) for name in names]


def _tests(node: Node) -> list[Test]:
    return [part for part in top_parts(node) if isinstance(part, Test)]


def _beside_age(node: Node) -> list[Node]:
    """Return what a filter asks for beside the time of creation."""
    return [part for part in top_parts(node) if not (isinstance(part, Test) and part.path == ("created",))]


def _is_served(model: type[Base], node: Node, sort: Sort, search: str) -> bool:
    """Tell whether an index bounds what is read of all owners' rows."""
    values = {
        test.path[0]: test.value if test.operator == "$in" else [test.value]
        for test in _tests(node)
        if test.operator in ("$eq", "$in")
    }
    if "id_" in values or "id" in values:
        return True
    if model is Workflow and all(status in WORKFLOW.alive for status in values.get("status", [None])):
        return True
    # An index that begins with what is asked for and goes on with the time: a page is read off it, in order.
    others = _beside_age(node)
    asked = [part.path[0] for part in others if isinstance(part, Test) and part.operator == "$eq"]
    table: Any = model.__table__
    indexed = [[column.name for column in index.columns] for index in table.indexes]
    return (
        sort.name == "created"
        and not search
        and len(asked) == len(others) < 2
        and any(names[: len(asked) + 1] == [*asked, "created"] for names in indexed)
    )


def _count(session: Session, selected: sa.Select[Any], most: int) -> Total:
    one = selected.with_only_columns(sa.literal(1), maintain_column_froms=True)
    rows = one.order_by(None).limit(most + 1).subquery()
    count = session.scalars(sa.select(sa.func.count()).select_from(rows)).one()
    return Total(min(count, most), count <= most)
