"""A filter's shape as a condition in SQL. Every value is a parameter, a path into JSON too."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, JSONPATH

from platform_db.models import Base
from platform_db.query.fields import Field, field_of
from platform_db.query.language import Every, Negation, Node, Some, Test
from platform_db.query.shape import ITEM, PATH

Bind = Callable[[int, Any], Any]
"""Returns the parameter of a filter's value, by its number and its type in SQL."""

_COMPARISONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "$eq": operator.eq,
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}


def condition(model: type[Base], shape: Node, bind: Bind) -> sa.ColumnElement[bool]:
    """Return the condition that a row of the model meets a filter of this shape.

    What is unknown to SQL because a column is NULL is not met, as in MongoDB, and its negation is.
    """
    if isinstance(shape, Every):
        return sa.and_(sa.true(), *(condition(model, part, bind) for part in shape.parts))
    if isinstance(shape, Some):
        return sa.or_(sa.false(), *(condition(model, part, bind) for part in shape.parts))
    if isinstance(shape, Negation):
        return condition(model, shape.part, bind).is_not(sa.true())
    field = field_of(model, shape.path[0])
    found: sa.ColumnElement[bool] = (_in_document if field.kind is None else _in_column)(field, shape, bind)
    return found


def _in_column(field: Field, test: Test, bind: Bind) -> Any:
    column, place = field.expression, test.value
    if test.operator == "$exists":
        return column.is_not(None) if place else column.is_(None)
    if test.operator == "$glob":
        return column.regexp_match(bind(place.first, sa.Text()))
    if test.operator == "$mod":
        return _leaves(column, place.first, bind)
    type_ = column.type
    if isinstance(type_, sa.Integer):
        # What a column of integers has no place for is still compared.
        type_ = sa.Numeric() if place.has_fraction else sa.BigInteger()
    if test.operator == "$in":
        return column == sa.any_(bind(place.first, ARRAY(type_)))
    by_code_points = field.is_text and test.operator != "$eq"
    ordered = sa.collate(column, "C") if by_code_points else column
    return _COMPARISONS[test.operator](ordered, bind(place.first, type_))


def _in_document(field: Field, test: Test, bind: Bind) -> Any:
    place = test.value
    path, value = sa.cast(bind(place.first, sa.Text()), JSONPATH), place.first + 1
    if test.operator == PATH:
        return sa.func.jsonb_path_exists(field.expression, path, bind(value, JSONB()), True, type_=sa.Boolean)
    item: Any = sa.func.jsonb_path_query(field.expression, path, type_=JSONB).column_valued("item")
    if test.operator == ITEM:
        meets = item == bind(value, JSONB())
    elif test.operator == "$glob":
        text = item.op("#>>", return_type=sa.Text())(sa.literal([], ARRAY(sa.Text)))
        meets = (sa.func.jsonb_typeof(item) == "string") & text.regexp_match(bind(value, sa.Text()))
    else:
        number = sa.func.trunc(sa.cast(item, sa.Numeric))
        # A CASE, since only it keeps the order: what is no number cannot be cast.
        is_number = sa.func.jsonb_typeof(item) == "number"
        meets = sa.case((is_number, _leaves(number, value, bind)), else_=sa.false())
    return sa.exists(sa.select(sa.literal(1)).where(meets))


def _leaves(number: Any, first: int, bind: Bind) -> Any:
    """Return the condition that a number, divided by the first of two values, leaves the second."""
    divisor, remainder = (bind(place, sa.Numeric()) for place in (first, first + 1))
    return sa.func.mod(sa.cast(number, sa.Numeric), divisor) == remainder
