"""A filter taken apart: the shape, which decides about the SQL, and the values, which are its parameters.

Filters of one shape are one statement, whatever they compare with. Paths into JSON are values, too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa

from platform_db import errors
from platform_db.models import Base
from platform_db.models.types import is_text
from platform_db.query.fields import Field, Kind, field_of
from platform_db.query.language import DEEPEST, Every, Negation, Node, Path, Some, Test, shown
from platform_db.query.patterns import glob_as_regex

LARGEST_NUMBER = 10**300  # in JSON, as a double has them

PATH = "$path"
"""Tests whether a JSON path, with ``{"value": …}`` as its variables, leads to anything."""

ITEM = "$item"
"""Tests whether a JSON path leads to a value."""

_NEVER = Some(())


@dataclass(frozen=True, slots=True)
class Parameter:
    """Where a test's values stand among the filter's; for a document, the path into it is the first.

    :param has_fraction: whether a number that is no integer is compared.
    """

    first: int
    count: int
    has_fraction: bool


class Shaped(NamedTuple):
    """A filter taken apart.

    :param shape: its tests have one field each, no path, and a :class:`Parameter` or a bool as their value.
    """

    shape: Node
    values: list[Any]

    def canonical(self) -> str:
        """Return the same text for filters that ask for the same, in whatever order their parts stand."""
        return _canonical(self.shape, self.values)


def take_apart(model: type[Base], node: Node) -> Shaped:
    """Take a filter over a model's fields apart, and convert its values to those of the columns.

    :raises errors.InvalidFilter: a field is unknown, or a value does not fit it.
    """
    values: list[Any] = []
    return Shaped(_shape(model, node, values), values)


def _shape(model: type[Base], node: Node, values: list[Any]) -> Node:
    if isinstance(node, Every | Some):
        return type(node)(tuple(_shape(model, part, values) for part in node.parts))
    if isinstance(node, Negation):
        return Negation(_shape(model, node.part, values))
    field = field_of(model, node.path[0])
    if field.kind is None:
        return _of_document(field, node, values)
    if len(node.path) > 1:
        raise errors.InvalidFilter(f"{field.name} is no JSON, so {shown('.'.join(node.path))} is not in it")
    return _of_column(field, field.kind, node, values)


def _of_column(field: Field, kind: Kind, test: Test, values: list[Any]) -> Node:
    path, operator, value = test.path, test.operator, test.value
    if operator == "$exists":
        return test
    if operator == "$all":
        parts = tuple(_of_column(field, kind, Test(path, "$eq", part), values) for part in value)
        return Every(parts) if parts else _NEVER
    if operator == "$in":
        found = [field.value(part) for part in value]
        listed = sorted({part for part in found if part is not None}, key=str)
        there = Test(path, "$in", _add(values, listed, has_fraction=any(map(_is_fraction, listed))))
        return Some((there, Test(path, "$exists", False))) if None in found else there
    if operator == "$glob":
        if not field.is_text:
            raise errors.InvalidFilter(f"$glob looks for a pattern in text, which {field.name} is not")
        return Test(path, operator, _add(values, glob_as_regex(value)))
    if operator == "$mod":
        if not isinstance(field.expression.type, sa.Integer):
            raise errors.InvalidFilter(f"$mod divides numbers, which {field.name} is not")
        return Test(path, operator, _add(values, *value))
    if operator != "$eq" and not kind.is_ordered:
        raise errors.InvalidFilter(f"{field.name} has no order; choose from $eq, $ne, $in, $nin, $exists")
    if value is None:
        return Test(path, "$exists", False) if operator == "$eq" else _NEVER
    found = field.value(value)
    return Test(path, operator, _add(values, found, has_fraction=_is_fraction(found)))


def _is_fraction(value: Any) -> bool:
    return isinstance(value, float)


def _add(values: list[Any], *added: Any, has_fraction: bool = False) -> Parameter:
    values.extend(added)
    return Parameter(len(values) - len(added), len(added), has_fraction)


# -- JSON. A path goes through arrays as PostgreSQL's lax paths and MongoDB do: any element of them may match.

_ORDER = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}


def _of_document(field: Field, test: Test, values: list[Any]) -> Node:
    place = _json_path(test.path)
    operator, value = test.operator, test.value
    _require_json(field, value, DEEPEST)

    def add(kind: str, path: str, *of: Any) -> Test:
        return Test((field.name,), kind, _add(values, path, *of))

    def exists(path: str, of: Any = None) -> Test:
        return add(PATH, path, {"value": of})

    def add_comparison(sign: str, of: Any) -> Test:
        # A filter looks into one array by itself, and a comparison would look into one within it.
        return exists(f'{place} ? (@.type() != "array" && @ {sign})', of)

    def equals(of: Any) -> Node:
        if of is None:
            return Some((Negation(exists(place)), add_comparison("== null", None)))
        if not isinstance(of, Mapping | list | tuple):
            return add_comparison("== $value", of)
        element = add(ITEM, f"{place}[*]", of)
        return element if isinstance(of, Mapping) else Some((add(ITEM, place, of), element))

    if operator == "$exists":
        return exists(place) if value else Negation(exists(place))
    if operator == "$all":
        return Every(tuple(map(equals, value))) if value else _NEVER
    if operator == "$eq":
        return equals(value)
    if operator == "$in":
        scalars = [part for part in value if not isinstance(part, Mapping | list | tuple | None)]
        found = [add_comparison("== $value[*]", sorted(scalars, key=json.dumps))] if scalars else []
        others: list[Any] = [part for part in value if isinstance(part, Mapping | list | tuple)]
        others += [None] if None in value else []
        return Some((*found, *map(equals, others)))
    if operator == "$glob":
        return add(operator, f"{place}[*]", glob_as_regex(value))
    if operator == "$mod":
        return add(operator, f"{place}[*]", *value)
    if value is None:
        return _NEVER
    if isinstance(value, Mapping | list | tuple):
        raise errors.InvalidFilter(f"{operator} compares numbers or text, not {shown(value)}")
    return add_comparison(f"{_ORDER[operator]} $value", value)


def _json_path(path: Path) -> str:
    if not all(map(is_text, path)):
        raise errors.InvalidFilter("a path has a NUL or half of a surrogate pair")
    return "$" + "".join(f".{json.dumps(key)}" for key in path[1:])


def _require_json(field: Field, value: Any, depth: int) -> None:
    """Refuse a value that JSON or the database has no place for."""
    if isinstance(value, Mapping):
        parts: list[Any] = [*value.keys(), *value.values()]
        fits = depth > 0 and all(isinstance(key, str) for key in value)
    elif isinstance(value, list | tuple):
        parts, fits = list(value), depth > 0
    elif isinstance(value, str):
        parts, fits = [], is_text(value)
    elif isinstance(value, int | float):
        parts, fits = [], abs(value) < LARGEST_NUMBER
    else:
        parts, fits = [], value is None
    if not fits:
        raise errors.InvalidFilter(f"{field.name} takes what JSON has, not {shown(value)}")
    for part in parts:
        _require_json(field, part, depth - 1)


def _canonical(node: Node, values: list[Any]) -> str:
    if isinstance(node, Negation):
        return f"not ({_canonical(node.part, values)})"
    if isinstance(node, Every | Some):
        return f"{type(node).__name__}({', '.join(sorted(_canonical(part, values) for part in node.parts))})"
    place = node.value
    given = values[place.first : place.first + place.count] if isinstance(place, Parameter) else place
    return json.dumps([node.path, node.operator, given], default=str, sort_keys=True)
