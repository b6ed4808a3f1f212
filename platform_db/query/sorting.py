"""By what the rows of a model can be sorted."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa

from platform_db import errors
from platform_db.database.paging import MOMENT
from platform_db.models import Base, Job, User, Workflow
from platform_db.query.fields import derived
from platform_db.query.language import shown


class Sort(NamedTuple):
    """An order of a model's rows.

    :param order: what they are ordered by, with what is unique at the end.
    """

    name: str
    order: tuple[Any, ...]
    descending: bool


def sort_of(model: type[Base], text: str) -> Sort:
    """Read an order: a name, with ``-`` in front where what is greatest comes first.

    :raises errors.InvalidFilter: the model's rows cannot be sorted so.
    """
    sorts = sorts_of(model)
    name = text.removeprefix("-") if isinstance(text, str) else text
    if name not in list(sorts):
        raise errors.InvalidFilter(
            f"{model.__tablename__} cannot be sorted by {shown(name)}; choose from {', '.join(sorts)}, each"
            " also with - in front"
        )
    return Sort(name, sorts[name], text.startswith("-"))


@cache
def sorts_of(model: type[Base]) -> Mapping[str, tuple[Any, ...]]:
    """Return a model's orders by their names."""
    columns = sa.inspect(model).columns
    if "created" not in columns or "id_" not in columns:
        raise errors.InvalidFilter(f"rows of {model.__tablename__} are not listed by themselves")
    age = (model.created, model.id_)  # type: ignore[attr-defined]
    sorts: dict[str, tuple[Any, ...]] = {"created": age}
    for name in ("updated", "status", "name"):
        if name in columns:
            sorts[name] = (getattr(model, name), *age)
    if model is Workflow:
        # As its unique index has them.
        number = (Workflow.run_number_major, Workflow.run_number_minor)
        sorts["name"] = (Workflow.name, *number, Workflow.id_)
    if model is Job:
        sorts["name"] = (Job.job_name, *age)
    if model is User:
        sorts["email"] = (User.email, *age)
    times = derived(model)
    if times:
        # What still runs is as old as it was when the list was begun: so its place stays on all pages.
        begun = sa.func.coalesce(MOMENT, sa.func.statement_timestamp(), type_=MOMENT.type)
        ran = sa.func.least(times["ended"], begun) - times["started"]
        milliseconds = sa.func.greatest(sa.func.trunc(sa.extract("epoch", ran) * 1000), 0)
        runtime = sa.case((times["started"].is_not(None), sa.cast(milliseconds, sa.BigInteger)))
        for name, value in {**times, "runtime": runtime}.items():
            sorts[name] = (value, *age)
    return sorts
