"""A filter as a condition in SQL. Every value is a parameter, a path into JSON too."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, JSONPATH

from platform_db import errors
from platform_db.models import Base
from platform_db.models.types import is_text
from platform_db.query.fields import Field, Kind, field_of
from platform_db.query.language import DEEPEST, Every, Negation, Node, Path, Some, Test, shown

LARGEST_NUMBER = 10**300  # in JSON, as a double has them

_ORDER: Mapping[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "$gt": (">", operator.gt),
    "$gte": (">=", operator.ge),
    "$lt": ("<", operator.lt),
    "$lte": ("<=", operator.le),
}


def condition(model: type[Base], node: Node) -> sa.ColumnElement[bool]:
    """Return the condition that a row of the model meets the filter.

    What is unknown to SQL because a column is NULL is not met, as in MongoDB, and its negation is.

    :raises errors.InvalidFilter: a field is unknown, or a value does not fit it.
    """
    if isinstance(node, Every):
        return sa.and_(sa.true(), *(condition(model, part) for part in node.parts))
    if isinstance(node, Some):
        return sa.or_(sa.false(), *(condition(model, part) for part in node.parts))
    if isinstance(node, Negation):
        return condition(model, node.part).is_not(sa.true())
    field = field_of(model, node.path[0])
    if field.kind is None:
        return _in_document(field, node)
    if len(node.path) > 1:
        raise errors.InvalidFilter(f"{field.name} is no JSON, so {shown('.'.join(node.path))} is not in it")
    found: sa.ColumnElement[bool] = _in_column(field, field.kind, node)
    return found


def _in_column(field: Field, kind: Kind, test: Test) -> Any:
    column, value = field.expression, test.value
    if test.operator == "$exists":
        return column.is_not(None) if value else column.is_(None)
    if test.operator == "$all":
        parts = [_in_column(field, kind, Test(test.path, "$eq", part)) for part in value]
        return sa.and_(*parts) if parts else sa.false()
    if test.operator == "$eq":
        return column.is_(None) if value is None else column == _bound(field, field.value(value))
    if test.operator == "$in":
        values = [field.value(part) for part in value]
        listed = [part for part in values if part is not None]
        found = column == sa.any_(_bound_list(field, listed))
        return sa.or_(found, column.is_(None)) if len(listed) < len(values) else found
    if test.operator == "$glob":
        if not field.is_text:
            raise errors.InvalidFilter(f"$glob looks for a pattern in text, which {field.name} is not")
        return _matches(column, value)
    if test.operator == "$mod":
        if not isinstance(column.type, sa.Integer):
            raise errors.InvalidFilter(f"$mod divides numbers, which {field.name} is not")
        return _leaves(column, value)
    if not kind.is_ordered:
        raise errors.InvalidFilter(f"{field.name} has no order; choose from $eq, $ne, $in, $nin, $exists")
    if value is None:
        return sa.false()
    compare = _ORDER[test.operator][1]
    ordered = sa.collate(column, "C") if field.is_text else column
    return compare(ordered, _bound(field, field.value(value)))


def _bound(field: Field, value: Any) -> Any:
    return sa.literal(value, _type_for(field, [value]))


def _bound_list(field: Field, values: list[Any]) -> Any:
    return sa.literal(values, ARRAY(_type_for(field, values)))


def _type_for(field: Field, values: list[Any]) -> Any:
    """Return the type that holds values: what a column of integers has no place for is still compared."""
    if any(isinstance(value, float) for value in values):
        return sa.Numeric()
    return sa.BigInteger() if isinstance(field.expression.type, sa.Integer) else field.expression.type


# -- JSON. A path goes through arrays as PostgreSQL's lax paths and MongoDB do: any element of them may match.


def _in_document(field: Field, test: Test) -> sa.ColumnElement[bool]:
    place = _json_path(test.path)
    column, value = field.expression, test.value
    _require_json(field, value, DEEPEST)
    if test.operator == "$exists":
        there = _exists(column, place)
        return there if value else there.is_not(sa.true())
    if test.operator == "$all":
        parts = [_equals(column, place, part) for part in value]
        return sa.and_(*parts) if parts else sa.false()
    if test.operator == "$eq":
        return _equals(column, place, value)
    if test.operator == "$in":
        scalars = [part for part in value if not isinstance(part, Mapping | list | tuple | None)]
        found = [_item_exists(column, place, "@ == $value[*]", scalars)] if scalars else []
        others = [part for part in value if isinstance(part, Mapping | list | tuple | None)]
        return sa.or_(sa.false(), *found, *(_equals(column, place, part) for part in others))
    if test.operator == "$glob":
        return _any_item(
            column,
            f"{place}[*]",
            lambda item: (sa.func.jsonb_typeof(item) == "string") & _matches(_text_of(item), value),
        )
    if test.operator == "$mod":
        # A CASE, since only it keeps the order: what is no number cannot be cast.
        return _any_item(
            column,
            f"{place}[*]",
            lambda item: sa.case(
                (
                    sa.func.jsonb_typeof(item) == "number",
                    _leaves(sa.func.trunc(sa.cast(item, sa.Numeric)), value),
                ),
                else_=sa.false(),
            ),
        )
    if value is None:
        return sa.false()
    if isinstance(value, Mapping | list | tuple):
        raise errors.InvalidFilter(f"{test.operator} compares numbers or text, not {shown(value)}")
    return _item_exists(column, place, f"@ {_ORDER[test.operator][0]} $value", value)


def _json_path(path: Path) -> str:
    if not all(map(is_text, path)):
        raise errors.InvalidFilter("a path has a NUL or half of a surrogate pair")
    return "$" + "".join(f".{json.dumps(key)}" for key in path[1:])


def _equals(column: Any, place: str, value: Any) -> sa.ColumnElement[bool]:
    if value is None:
        return sa.or_(_exists(column, place).is_not(sa.true()), _item_exists(column, place, "@ == null"))
    if not isinstance(value, Mapping | list | tuple):
        return _item_exists(column, place, "@ == $value", value)
    given = sa.literal(value, JSONB)
    element = _any_item(column, f"{place}[*]", lambda item: item == given)
    whole = _any_item(column, place, lambda item: item == given)
    return element if isinstance(value, Mapping) else sa.or_(whole, element)


def _item_exists(column: Any, place: str, test: str, value: Any = None) -> sa.ColumnElement[bool]:
    # A filter looks into one array by itself, and a comparison would look into one within it.
    return _exists(column, f'{place} ? (@.type() != "array" && {test})', value)


def _exists(column: Any, path: str, value: Any = None) -> sa.ColumnElement[bool]:
    variables = sa.literal({"value": value}, JSONB)
    found: sa.ColumnElement[bool] = sa.func.jsonb_path_exists(
        column, sa.cast(path, JSONPATH), variables, True, type_=sa.Boolean
    )
    return found


def _any_item(
    column: Any, path: str, test: Callable[[Any], sa.ColumnElement[bool]]
) -> sa.ColumnElement[bool]:
    items = sa.func.jsonb_path_query(column, sa.cast(path, JSONPATH), type_=JSONB).column_valued("item")
    return sa.exists(sa.select(sa.literal(1)).where(test(items)))


def _require_json(field: Field, value: Any, depth: int) -> None:
    """Refuse a value that JSON or the database has no place for."""
    if isinstance(value, Mapping):
        parts: list[Any] = [*value.keys(), *value.values()]
        fits = depth > 0 and all(isinstance(key, str) for key in value)
    elif isinstance(value, list | tuple) or (depth == DEEPEST and isinstance(value, set | frozenset)):
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


def _text_of(item: Any) -> Any:
    return item.op("#>>", return_type=sa.Text())(sa.literal([], ARRAY(sa.Text)))


def _leaves(number: Any, value: Any) -> sa.ColumnElement[bool]:
    divisor, remainder = value
    found: sa.ColumnElement[bool] = sa.func.mod(
        sa.cast(number, sa.Numeric), sa.literal(divisor, sa.Numeric)
    ) == sa.literal(remainder, sa.Numeric)
    return found


def _matches(text: Any, pattern: str) -> sa.ColumnElement[bool]:
    """Return the condition that a text is like a pattern with ``*``, ``?`` and ``[a-z]``; case matters."""
    if not is_text(pattern):
        raise errors.InvalidFilter("a pattern has a NUL or half of a surrogate pair")
    found: sa.ColumnElement[bool] = text.regexp_match(glob_as_regex(pattern))
    return found


def glob_as_regex(pattern: str) -> str:
    """Return a pattern of :mod:`fnmatch` as a regular expression of PostgreSQL's."""
    regex, place = "^", 0
    while place < len(pattern):
        char = pattern[place]
        # The first character of a set is none that ends it.
        inside = place + (3 if pattern[place + 1 : place + 2] == "!" else 2)
        end = pattern.find("]", inside) if char == "[" else -1
        if end > 0:
            regex += _set(pattern[place + 1 : end])
            place = end
        else:
            regex += {"*": ".*", "?": "."}.get(char, _literal(char))
        place += 1
    return f"{regex}$"


def _set(members: str) -> str:
    negated = members.startswith("!")
    members = members[negated:]
    ranges, place = "", 0
    while place < len(members):
        if members[place + 1 : place + 2] == "-" and place + 2 < len(members):
            first, last = members[place], members[place + 2]
            ranges += f"{_literal(first)}-{_literal(last)}" if first <= last else ""
            place += 3
        else:
            ranges += _literal(members[place])
            place += 1
    if not ranges:
        return "." if negated else "(?!)"
    return f"[{'^' if negated else ''}{ranges}]"


def _literal(char: str) -> str:
    return char if char.isascii() and char.isalnum() else f"\\U{ord(char):08X}"
