"""Lists of any model: filtered, searched, sorted, a page at a time."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlalchemy.sql.base import ExecutableOption

from platform_db import errors
from platform_db.bounds import require_amount
from platform_db.cursors import Page, Total
from platform_db.database.distribution import is_distributed
from platform_db.database.id_column import Id
from platform_db.database.paging import LIMIT, Direction, ordered, page_statement, read_page
from platform_db.database.session import takes_session
from platform_db.models import Base, User, Workflow
from platform_db.models.base import INDEXED_AS
from platform_db.models.types import is_text
from platform_db.query.conditions import condition
from platform_db.query.fields import field_of
from platform_db.query.labels import parse_selector
from platform_db.query.language import Every, Node, Test, parse, require_bounded, size_of, top_parts
from platform_db.query.shape import take_apart
from platform_db.query.shared import shared_with
from platform_db.query.sorting import Sort, sort_of, sorts_of
from platform_db.states import WORKFLOW
from platform_db.tenancy import in_tenant_scope, tenant_of

Row = TypeVar("Row", bound=Base)

MOST_COUNTED = 10_000
LARGEST_TOTAL = 10_000_000

# A statement takes about 25 kB for each of its comparisons, and so much again in SQLAlchemy's cache of 500:
# 200 MB in all in the worst case.
KEPT = 200
LARGEST_KEPT = 10


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
    :param total: also count the rows, up to ten thousand, or up to this number, of ten million at most.
    :param scan: read the whole table, if need be.
    :param options: what to load with the rows; collections by ``selectinload``, not joined.
    :raises errors.InvalidFilter: the filter, the selector or the order is wrong; names what there is to
        choose from.
    :raises errors.Refused: nothing serves this across all owners; or what is shared was asked for in a
        tenant's scope.
    :raises errors.InvalidIdentifier: this list gave no such cursor.
    :raises errors.InvalidArgument: the limit or the total is out of range.
    """
    most = (
        MOST_COUNTED
        if isinstance(total, bool)
        else require_amount(total, "total", smallest=1, largest=LARGEST_TOTAL)
    )
    node = _read(filter_, labels)
    order = sort_of(model, sort)
    pattern = _search_pattern(search) if search else ""
    owners = _owners(model, node)
    owner_id = tenant_of(session) or next(iter(owners), None)
    by_age = order.name == "created" and not search and not _beside_age(node)
    if not (scan or owner_id or (by_age and model is Workflow) or _is_served(model, node, order, search)):
        raise errors.Refused(
            f"no index serves this list of all owners' rows of {model.__tablename__}",
            hint="name one with owner_id, or let the whole table be read with scan",
        )
    if include_shared:
        node = _without_owner(session, model, node, owners)
    shape, given = shaped = take_apart(model, node)
    every_owner = by_age and model is Workflow and not owner_id and not is_distributed(session.connection())
    listing = _Listing(model, shape, bool(search), include_shared, order.name, order.descending, every_owner)
    values = {f"value_{number}": value for number, value in enumerate(given)}
    values.update(search=pattern, owner_id=owner_id)
    # What is large is built each time, so that little is kept.
    is_kept = size_of(shape) <= LARGEST_KEPT
    build: Callable[..., sa.Select[Any]] = _page_of if is_kept else _page_of.__wrapped__
    count: Callable[..., sa.Select[int]] = _count_of if is_kept else _count_of.__wrapped__
    execution_options = {} if is_kept else {"compiled_cache": None}
    page: Page[Row] = read_page(
        session,
        lambda way: build(listing, way).options(*options) if options else build(listing, way),
        order.order,
        query=("find", model.__tablename__, owner_id, shaped.canonical(), search, sort, include_shared),
        limit=limit,
        cursor=cursor,
        values=values,
        execution_options=execution_options,
    )
    if total is False:
        return page
    values["limit"] = most + 1
    counted = session.scalars(count(listing), values, execution_options=execution_options).one()
    return page._replace(total=Total(min(counted, most), counted <= most))


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
    pattern = _search_pattern(search)
    shape, given = take_apart(model, _read(filter_, labels))
    selected = sa.select(model).where(
        condition(model, shape, lambda number, type_: sa.literal(given[number], type_))
    )
    if search:
        selected = selected.where(_found_in(model, sa.literal(pattern)))
    return selected.order_by(*ordered(order.order, order.descending))


def _read(filter_: Mapping[str, Any] | None, labels: str) -> Node:
    return require_bounded(Every((parse(filter_), parse_selector(labels))))


def _search_pattern(search: str) -> str:
    """Return the text to search for as a pattern of LIKE: a slash escapes its wildcards."""
    if not isinstance(search, str) or not is_text(search):
        raise errors.InvalidFilter("what to search for is no text, or has a NUL or half of a surrogate pair")
    return re.sub("[%_/]", r"/\g<0>", search)


# -- The statements. They have parameters in place of values: each is built and compiled once.


class _Listing(NamedTuple):
    """What decides about the statements of a list."""

    model: Any
    shape: Node
    is_searched: bool
    with_shared: bool
    sort: str
    descending: bool
    of_every_owner: bool


@lru_cache(KEPT)
def _page_of(listing: _Listing, direction: Direction) -> sa.Select[Any]:
    return page_statement(
        _select(listing),
        sorts_of(listing.model)[listing.sort],
        direction,
        descending=listing.descending,
        heads=_first_of_each_owner if listing.of_every_owner else None,
    )


@lru_cache(KEPT)
def _count_of(listing: _Listing) -> sa.Select[int]:
    one = _select(listing).with_only_columns(sa.literal(1), maintain_column_froms=True)
    return sa.select(sa.func.count()).select_from(one.limit(LIMIT).subquery())


def _select(listing: _Listing) -> sa.Select[Any]:
    model = listing.model
    selected = sa.select(model).where(
        condition(model, listing.shape, lambda number, type_: sa.bindparam(f"value_{number}", type_=type_))
    )
    if listing.is_searched:
        selected = selected.where(_found_in(model, sa.bindparam("search", type_=sa.Text)))
    if listing.with_shared:
        owner_id = sa.bindparam("owner_id", type_=Id)
        own = sa.select(Workflow.owner_id, Workflow.id_).where(Workflow.owner_id == owner_id)
        # As one list of keys: with an OR the planner reads the runs of all owners.
        keys = sa.union_all(own, shared_with(owner_id))
        selected = selected.where(sa.tuple_(Workflow.owner_id, Workflow.id_).in_(keys))
    return selected


def _found_in(model: type[Base], pattern: Any) -> sa.ColumnElement[bool]:
    columns = sa.inspect(model).columns
    texts: list[Any] = [columns[name] for name in ("name", "job_name", "email") if name in columns]
    texts.append(sa.cast(columns["id_"], sa.Text))
    return sa.or_(*(text.icontains(pattern, escape="/") for text in texts))


def _first_of_each_owner(page: sa.Select[Any], down: bool) -> sa.ColumnElement[bool]:
    """Return the condition that a run is among the first of all owners' first: an index has each owner's."""
    key = (Workflow.created, Workflow.id_)
    mine = page.where(Workflow.owner_id == User.id_).with_only_columns(Workflow.owner_id, *key)
    heads = mine.correlate(User).lateral()
    first = sa.select(heads.c.owner_id, heads.c.id_).select_from(User).join(heads, sa.true())
    order = [column.desc() if down else column for column in (heads.c.created, heads.c.id_)]
    return sa.tuple_(Workflow.owner_id, Workflow.id_).in_(first.order_by(*order).limit(LIMIT))


# -- Whose rows are asked for, and whether an index serves it.


def _without_owner(session: Session, model: type[Base], node: Node, owners: Collection[uuid.UUID]) -> Node:
    """Return the filter for the one owner's runs and what others share with that owner."""
    if in_tenant_scope(session):
        raise errors.Refused("what is shared belongs to others: find it outside the tenant's scope")
    if model is not Workflow or len(owners) != 1:
        raise errors.InvalidFilter("include_shared finds runs, and takes one owner_id in the filter")
    others = [part for part in top_parts(node) if not (isinstance(part, Test) and _names_owner(model, part))]
    return Every(tuple(others))


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
    table = table.info.get(INDEXED_AS, table)
    indexed = [[column.name for column in index.columns] for index in table.indexes]
    return (
        sort.name == "created"
        and not search
        and len(asked) == len(others) < 2
        and any(names[: len(asked) + 1] == [*asked, "created"] for names in indexed)
    )
