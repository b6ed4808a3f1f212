"""Filters evaluated in plain Python, and random ones: what the database's answers are compared with."""

from __future__ import annotations

import math
from datetime import datetime, timedelta, timezone
from fnmatch import fnmatchcase
from typing import Any

from hypothesis import strategies as st

BEGIN = datetime(2026, 1, 1, tzinfo=timezone.utc)

TEXTS = [
    "",
    "a",
    "A",
    "b",
    "ab",
    "a%b_c",
    "a\\b",
    "é",
    "É",
    "ß",
    "😀",
    "]",
    "[a]",
    "*",
    "a\nb",
    " a ",
    "10",
    "9",
    '"',
    "'",
    "$value",
    "true",
    "null",
    "a-b",
    "^",
    "\x01",
]
NUMBERS = [0, 1, -1, 2, 5, -5, 10, 2.5, -2.5, 1e22, 2**53 + 1, 2**31]
SCALARS = [*TEXTS, *NUMBERS, True, False, None]
DOCUMENTS = [
    *SCALARS,
    [],
    {},
    ["a"],
    ["a", ["a"]],
    [1, None, "b"],
    {"a": 1},
    {"b": None},
    [{"a": 1}, {"a": "b"}],
    [[1], [2, 1]],
]
KEYS = ["a", "b", "", "é", "0", '"', "$x", "a b"]
LABELS = [
    {},
    *({key: value} for key in KEYS for value in DOCUMENTS),
    {"a": {"b": {"a": [1, {"b": "a"}]}}},
    {"a": [{"b": 1}, {"b": [2, None]}], "b": "a"},
]
PATTERNS = [
    "*",
    "?",
    "a*",
    "*b",
    "[a-c]",
    "[!a]*",
    "[]a]",
    "[!]]",
    "[z-a]",
    "[!z-a]",
    "[a",
    "*[%_]*",
    "a\\*",
    "?\n?",
    "É",
    "[à-ö]",
    "[*]",
    "[[]a]",
    "[a-]",
    "[--a]",
    "[^]",
    "*😀",
]

VALUES: dict[str, list[Any]] = {
    "name": [text for text in TEXTS if text],
    "git_ref": [None, *TEXTS],
    "priority": [None, -(2**31), 2**31 - 1, 0, 1, -1, 7, -7],
    "restart": [True, False],
    "status": ["created", "queued", "running", "finished", "failed", "stopped"],
    "run_started_at": [None, *(BEGIN + timedelta(days=day, microseconds=day) for day in range(5))],
}
_ORDER = ["$gt", "$gte", "$lt", "$lte", "$ge", "$le"]


def filters() -> st.SearchStrategy[dict[str, Any]]:
    """Draw a filter over the columns of :data:`VALUES` and the paths of ``labels``."""
    column = st.sampled_from(sorted(VALUES)).flatmap(_column_test)
    path = st.lists(st.sampled_from(KEYS), max_size=3).flatmap(_path_test)
    test = column | path | path
    return st.recursive(
        test | st.lists(test, max_size=3).map(lambda tests: {k: v for t in tests for k, v in t.items()}),
        lambda inner: (
            st.dictionaries(
                st.sampled_from(["$and", "$or"]), st.lists(inner, min_size=1, max_size=3), min_size=1
            )
            | inner.map(lambda part: {"$not": part})
        ),
        max_leaves=6,
    )


def _column_test(name: str) -> st.SearchStrategy[dict[str, Any]]:
    value = st.sampled_from(VALUES[name])
    operators = [_common(value)]
    if name not in ("restart", "status"):
        operators.append(st.dictionaries(st.sampled_from(_ORDER), value, min_size=1, max_size=2))
    if name in ("name", "git_ref"):
        operators.append(st.sampled_from(PATTERNS).map(lambda pattern: {"$glob": pattern}))
    if name == "priority":
        operators.append(st.sampled_from(NUMBERS[:9]).map(lambda number: {"$gt": number}))
        operators.append(_mod())
    return _of(name, value, st.one_of(operators))


def _path_test(keys: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    scalar, value = st.sampled_from(SCALARS), st.sampled_from(DOCUMENTS)
    operators = st.one_of(
        _common(value),
        st.dictionaries(st.sampled_from(_ORDER), scalar, min_size=1, max_size=2),
        st.sampled_from(PATTERNS).map(lambda pattern: {"$glob": pattern}),
        _mod(),
    )
    return _of(".".join(["labels", *keys]), value, operators)


def _common(value: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return (
        st.dictionaries(st.sampled_from(["$eq", "$ne"]), value, min_size=1)
        | st.dictionaries(st.sampled_from(["$in", "$nin", "$all"]), st.lists(value, max_size=3), min_size=1)
        | st.booleans().map(lambda there: {"$exists": there})
    )


def _mod() -> st.SearchStrategy[dict[str, Any]]:
    return st.tuples(st.sampled_from([1, 2, -3, 7]), st.integers(-3, 3)).map(
        lambda pair: {"$mod": list(pair)}
    )


def _of(
    name: str, value: st.SearchStrategy[Any], operators: st.SearchStrategy[Any]
) -> st.SearchStrategy[Any]:
    return (value | operators | operators.map(lambda inner: {"$not": inner})).map(lambda test: {name: test})


def meets(row: dict[str, Any], filter_: dict[str, Any]) -> bool:
    """Tell whether a row, as a dictionary, meets a filter."""
    return all(_condition(row, name, value) for name, value in filter_.items())


def _condition(row: dict[str, Any], name: str, value: Any) -> bool:
    if name in ("$and", "$or"):
        return (all if name == "$and" else any)(meets(row, part) for part in value)
    if name == "$not":
        return not meets(row, value)
    field, *keys = name.split(".")
    whole = [row[field]] if field == "labels" or row[field] is not None else []
    for key in keys:
        objects = [part for item in whole for part in (item if isinstance(item, list) else [item])]
        whole = [part[key] for part in objects if isinstance(part, dict) and key in part]
    items = [part for item in whole for part in (item if isinstance(item, list) else [item])]
    return _tests(whole, items, value)


def _tests(whole: list[Any], items: list[Any], value: Any) -> bool:
    if isinstance(value, dict) and any(key.startswith("$") and key != "$x" for key in value):
        return all(_test(whole, items, operator, argument) for operator, argument in value.items())
    return _test(whole, items, "$eq", value)


def _test(whole: list[Any], items: list[Any], operator: str, value: Any) -> bool:
    if operator == "$not":
        return not _tests(whole, items, value)
    if operator == "$eq":
        if value is None:
            return not whole or any(item is None for item in items)
        return any(_same(item, value) for item in (whole + items if isinstance(value, list) else items))
    if operator == "$ne":
        return not _test(whole, items, "$eq", value)
    if operator == "$in":
        return any(_test(whole, items, "$eq", part) for part in value)
    if operator == "$nin":
        return not _test(whole, items, "$in", value)
    if operator == "$all":
        return bool(value) and all(_test(whole, items, "$eq", part) for part in value)
    if operator == "$exists":
        return bool(whole) == value
    if operator == "$glob":
        return any(isinstance(item, str) and fnmatchcase(item, value) for item in items)
    if operator == "$mod":
        numbers = [item for item in items if isinstance(item, int | float) and not isinstance(item, bool)]
        return any(math.copysign(abs(int(n)) % abs(value[0]), n) == value[1] for n in numbers)
    return any(_kind(item) == _kind(value) and _ordered(item, value, operator) for item in items)


def _ordered(item: Any, value: Any, operator: str) -> bool:
    if value is None:
        return False
    return {"$gt": item > value, "$lt": item < value}.get(
        operator, item >= value if "g" in operator else item <= value
    )


def _kind(value: Any) -> type:
    return float if type(value) is int else type(value)


def _same(one: Any, other: Any) -> bool:
    if _kind(one) is not _kind(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
