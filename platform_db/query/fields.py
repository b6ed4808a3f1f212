"""Which fields of a model a filter may name, and what each is compared with."""

from __future__ import annotations

import ipaddress
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from difflib import get_close_matches
from enum import Enum
from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ENUM, INET

from platform_db import errors
from platform_db.database.id_column import Id
from platform_db.models import Base
from platform_db.models.base import Running
from platform_db.models.job import Job
from platform_db.models.types import Json, is_text
from platform_db.query.language import shown
from platform_db.states import RunStatus


class Kind(NamedTuple):
    """How the values of a column are compared.

    :param takes: what a filter gives, for people.
    :param read: makes it a value of the column; raises ValueError for what is none.
    :param is_ordered: whether one value can be greater than another.
    """

    takes: str
    read: Callable[[Any], Any]
    is_ordered: bool = True


class Field(NamedTuple):
    """A field of a model.

    :param kind: None for a column of JSON.
    """

    name: str
    expression: Any
    kind: Kind | None

    @property
    def is_text(self) -> bool:
        """Whether the column holds text, which has patterns and an order by code points."""
        return self.kind is _TEXT

    def value(self, given: Any) -> Any:
        """Return a filter's value as one of the column's; None stays None.

        :raises errors.InvalidFilter: the column takes no such value.
        """
        kind = self.kind
        if given is None or kind is None:
            return given
        try:
            return kind.read(given)
        except (ValueError, TypeError, OverflowError):
            raise errors.InvalidFilter(f"{self.name} takes {kind.takes}, not {shown(given)}") from None


def field_of(model: type[Base], name: str) -> Field:
    """Return a model's field.

    :raises errors.InvalidFilter: it has none of this name.
    """
    fields = fields_of(model)
    found = fields.get(name) or fields.get(f"{name}_")
    if found is None:
        near = get_close_matches(name, fields, 1)
        hint = f"; did you mean {near[0]}?" if near else f"; choose from {', '.join(sorted(fields))}"
        raise errors.InvalidFilter(f"{model.__tablename__} has no field {shown(name)}{hint}")
    return found


@cache
def fields_of(model: type[Base]) -> Mapping[str, Field]:
    """Return a model's fields by their names: its columns and its times.

    None of them is a column that may hold a secret, or one that is too large to be loaded with each row.
    """
    mapper = sa.inspect(model)
    fields = {}
    for attribute in mapper.column_attrs:
        if attribute.deferred:
            continue
        column = getattr(model, attribute.key)
        kind = _kind_of(column.type)
        if kind is not None or isinstance(column.type, Json):
            fields[attribute.key] = Field(attribute.key, column, kind)
    for name in mapper.synonyms.keys():  # noqa: SIM118 (a collection of SQLAlchemy's own)
        meant = fields.get(mapper.synonyms[name].name)
        if meant is not None:
            fields[name] = meant._replace(name=name)
    for name, expression in derived(model).items():
        fields[name] = Field(name, expression, _TIME)
    if model is Job:
        fields["name"] = fields["job_name"]._replace(name="name")
    return fields


def derived(model: type[Base]) -> dict[str, Any]:
    """Return when a row started and ended, under names that all models share."""
    if issubclass(model, Running):
        # What was deleted while it ran has no other end.
        deleted = sa.case((model.status == RunStatus.deleted, model.updated))
        ends = (model.run_finished_at, model.run_stopped_at, deleted)
        ended = sa.func.coalesce(*ends, type_=model.run_stopped_at.type)
        return {"started": model.run_started_at, "ended": ended}
    if model is Job:
        return {"started": Job.started_at, "ended": Job.finished_at}
    return {}


def _kind_of(type_: Any) -> Kind | None:
    """Return how a column is compared; None where it is not, as with what may be a secret."""
    if isinstance(type_, Id):
        return Kind("an id", lambda value: uuid.UUID(str(value)))
    if isinstance(type_, sa.DateTime) or isinstance(getattr(type_, "impl", None), sa.DateTime):
        return _TIME
    if isinstance(type_, ENUM) and type_.enum_class is not None:
        members: type[Enum] = type_.enum_class
        names = ", ".join(str(member.value) for member in members)
        return Kind(f"one of {names}", members, is_ordered=False)
    if isinstance(type_, sa.Boolean):
        return Kind("true or false", _bool, is_ordered=False)
    if isinstance(type_, sa.Integer | sa.Numeric):
        return Kind("a number", _number)
    if isinstance(type_, INET):
        return Kind("an address", lambda value: str(ipaddress.ip_interface(_text(value))), is_ordered=False)
    return _TEXT if isinstance(type_, sa.String) else None


def _time(value: Any) -> datetime:
    if isinstance(value, str):
        value = datetime.fromisoformat(value.replace("Z", "+00:00"))
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ValueError(value)
    return value.astimezone(timezone.utc)


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(value)
    return value


def _number(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**63:
        raise ValueError(value)
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not is_text(value):
        raise ValueError(value)
    return value


_TEXT = Kind("text", _text)
_TIME = Kind("a time with its zone, such as 2026-11-21T07:30:00Z", _time)
