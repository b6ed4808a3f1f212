"""The filter language: a dictionary in MongoDB's manner, read into a small tree.

``{"status": {"$in": ["failed", "stopped"]}, "labels.team": "a"}`` asks for rows that meet both. A field is a
column, or a path into a column of JSON. Nothing here knows a model or a database.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from platform_db import errors

Path = tuple[str, ...]
"""A field's name, and the keys that lead into its JSON."""

DEEPEST = 50
MOST_TESTS = 1000
MOST_VALUES = 100_000
LONGEST_PATTERN = 1000


@dataclass(frozen=True, slots=True)
class Every:
    """All of the parts are met. Without a part it is always met."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Some:
    """At least one of the parts is met."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Negation:
    """The part is not met."""

    part: Node


@dataclass(frozen=True, slots=True)
class Test:
    """A field is compared with a value.

    :param operator: one of :data:`OPERATORS`; ``$ne`` and ``$nin`` are the negations of ``$eq`` and ``$in``.
    """

    path: Path
    operator: str
    value: Any


Node = Every | Some | Negation | Test

_ALIASES = {"$ge": "$gte", "$le": "$lte"}  # as ipyparallel's documentation has them
_NEGATED = {"$ne": "$eq", "$nin": "$in"}
_COMBINED: dict[str, type[Every] | type[Some]] = {"$and": Every, "$or": Some}


def parse(filter_: Mapping[str, Any] | None) -> Node:
    """Read a filter; None and an empty one are always met.

    :raises errors.InvalidFilter: says in one line what is wrong, and what there is to choose from.
    """
    return require_bounded(_conditions({} if filter_ is None else filter_, DEEPEST))


def require_bounded(node: Node) -> Node:
    """Return a filter that makes at most :data:`MOST_TESTS` comparisons.

    :raises errors.InvalidFilter: it makes more.
    """
    if size_of(node) > MOST_TESTS:
        raise errors.InvalidFilter(f"a filter has at most {MOST_TESTS} comparisons")
    return node


def top_parts(node: Node) -> list[Node]:
    """Return what has to be met in any case, one by one."""
    return [top for part in node.parts for top in top_parts(part)] if isinstance(node, Every) else [node]


def size_of(node: Node) -> int:
    """Return how many comparisons a filter or its shape makes; a negation and an empty part count as one."""
    if isinstance(node, Test):
        listed = node.value if node.operator in ("$in", "$all") and isinstance(node.value, list) else ()
        return 1 + sum(node.operator == "$all" or isinstance(part, Mapping | list | tuple) for part in listed)
    if isinstance(node, Negation):
        return 1 + size_of(node.part)
    return max(1, sum(map(size_of, node.parts)))


def _conditions(filter_: Any, depth: int) -> Node:
    if not isinstance(filter_, Mapping):
        raise errors.InvalidFilter(f"a filter is a dictionary, not {shown(filter_)}")
    if not depth:
        raise errors.InvalidFilter(f"a filter is nested deeper than {DEEPEST} times")
    return _every(_condition(name, value, depth - 1) for name, value in filter_.items())


def _every(parts: Iterable[Node]) -> Node:
    found = tuple(parts)
    return found[0] if len(found) == 1 else Every(found)


def _condition(name: Any, value: Any, depth: int) -> Node:
    if not isinstance(name, str) or not name:
        raise errors.InvalidFilter(f"a field's name is text, not {shown(name)}")
    if name in _COMBINED:
        if not isinstance(value, list | tuple) or not value:
            raise errors.InvalidFilter(f"{name} takes a list of filters, at least one")
        return _COMBINED[name](tuple(_conditions(part, depth) for part in value))
    if name == "$not":
        return Negation(_conditions(value, depth))
    if name.startswith("$"):
        raise errors.InvalidFilter(f"no operator {shown(name)} stands there; choose from $and, $or, $not")
    path = tuple(name.split("."))
    if len(path) > DEEPEST:
        raise errors.InvalidFilter(f"a path has at most {DEEPEST} keys")
    return _tests(path, value, depth)


def _tests(path: Path, value: Any, depth: int) -> Node:
    if not isinstance(value, Mapping) or not any(str(key).startswith("$") for key in value):
        return Test(path, "$eq", value)
    if not depth:
        raise errors.InvalidFilter(f"a filter is nested deeper than {DEEPEST} times")
    return _every(_test(path, str(name), argument, depth - 1) for name, argument in value.items())


def _test(path: Path, name: str, value: Any, depth: int) -> Node:
    operator = _ALIASES.get(name, name)
    if operator == "$not":
        if not isinstance(value, Mapping):
            raise errors.InvalidFilter("$not takes operators, such as {'$gt': 5}")
        return Negation(_tests(path, value, depth))
    positive = _NEGATED.get(operator, operator)
    check = OPERATORS.get(positive)
    if check is None:
        known = ", ".join(sorted([*OPERATORS, *_NEGATED, *_ALIASES, "$not"]))
        raise errors.InvalidFilter(f"there is no operator {shown(name)}; choose from {known}")
    check(name, value)
    if check is _is_list:
        value = _in_order(name, value)
    test = Test(path, positive, value)
    return test if positive == operator else Negation(test)


def _in_order(name: str, values: Any) -> list[Any]:
    """Return a list; of a set in an order that each process gives it."""
    try:
        return sorted(values, key=repr) if isinstance(values, set | frozenset) else list(values)
    except ValueError:
        raise errors.InvalidFilter(f"{name} takes no number of thousands of digits") from None


def _is_any(name: str, value: Any) -> None:
    pass


def _is_list(name: str, value: Any) -> None:
    if not isinstance(value, list | tuple | set | frozenset):
        raise errors.InvalidFilter(f"{name} takes a list, not {shown(value)}")
    if len(value) > MOST_VALUES:
        raise errors.InvalidFilter(f"{name} takes at most {MOST_VALUES} values")


def _is_bool(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise errors.InvalidFilter(f"{name} takes true or false, not {shown(value)}")


def _is_pattern(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise errors.InvalidFilter(f"{name} takes a pattern such as 'run-*', not {shown(value)}")
    if len(value) > LONGEST_PATTERN:
        raise errors.InvalidFilter(f"{name} takes a pattern of at most {LONGEST_PATTERN} characters")


def _is_divisor(name: str, value: Any) -> None:
    numbers = isinstance(value, list | tuple) and len(value) == 2 and all(type(part) is int for part in value)
    if not numbers or not value[0] or max(map(abs, value)) >= 2**63:
        raise errors.InvalidFilter(f"{name} takes [divisor, remainder], two integers, the first one not 0")


# What each operator takes.
OPERATORS: Mapping[str, Callable[[str, Any], None]] = {
    "$eq": _is_any,
    "$gt": _is_any,
    "$gte": _is_any,
    "$lt": _is_any,
    "$lte": _is_any,
    "$in": _is_list,
    "$all": _is_list,
    "$exists": _is_bool,
    "$glob": _is_pattern,
    "$mod": _is_divisor,
}


def shown(value: Any) -> str:
    """Return a value as an error shows it: in one line, and not the whole of a long one."""
    try:
        text = repr(value)
    except ValueError:  # An integer has more digits than Python writes.
        text = "a number of thousands of digits"
    return text if len(text) <= 50 else f"{text[:50]}…"
