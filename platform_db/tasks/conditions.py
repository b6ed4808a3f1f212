"""A filter as SQL: a condition that every record that meets the filter meets, and mostly no other."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from platform_db import errors
from platform_db.database.arrays import array
from platform_db.query.language import Every, Negation, Node, Some, Test, parse
from platform_db.tasks.encoding import COLUMNS, EXTRA, TEXTS, TIMES, encode_text, encode_time
from platform_db.tasks.statements import History


class Condition(NamedTuple):
    """A condition with the values of its placeholders.

    :param is_exact: whether it holds for no record that does not meet the filter.
    """

    sql: str
    values: tuple[str, ...] = ()
    is_exact: bool = True


_TRUE, _FALSE = Condition("true"), Condition("false")
_UNKNOWN = Condition("true", is_exact=False)

_COMPARISONS = {"$eq": "=", "$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}


def read_filter(filter_: Mapping[str, Any] | None) -> Node:
    """Read a filter; what it compares with a time may be text in ISO 8601.

    :raises errors.InvalidFilter: says what is wrong in one line.
    """
    return _with_times(parse(filter_))


def condition(history: History, node: Node) -> Condition:
    """Return the condition that a record is the history's and meets a filter, or may."""
    found = filter_condition(node)
    start = BY_ID if _names_ids(node) else "owner_id = %s::uuid AND cluster = %s"
    return Condition(f"{start} AND {found.sql}", (*history, *found.values), found.is_exact)


# Where statistics do not have an owner yet, the planner expects no rows, by whatever index: it takes the
# smallest one, and reads a whole history. A subquery hides from it which owner is meant.
BY_ID = "owner_id = (SELECT %s::uuid) AND cluster || '' = %s"


def _names_ids(node: Node) -> bool:
    if isinstance(node, Every):
        return any(map(_names_ids, node.parts))
    return isinstance(node, Test) and node.path == ("msg_id",) and node.operator in ("$eq", "$in")


def _with_times(node: Node) -> Node:
    if isinstance(node, Every | Some):
        return type(node)(tuple(map(_with_times, node.parts)))
    if isinstance(node, Negation):
        return Negation(_with_times(node.part))
    if len(node.path) > 1 or node.path[0] not in TIMES or node.operator not in (*_COMPARISONS, "$in", "$all"):
        return node
    is_list = node.operator in ("$in", "$all")
    value = [_as_time(node, part) for part in node.value] if is_list else _as_time(node, node.value)
    return Test(node.path, node.operator, value)


def _as_time(test: Test, value: Any) -> datetime | None:
    try:
        time = datetime.fromisoformat(value.replace("Z", "+00:00")) if isinstance(value, str) else value
        return None if time is None else encode_time(time)
    except ValueError:
        raise errors.InvalidFilter(
            f"{test.path[0]} is compared with a time, not with {value!r:.50}"
        ) from None


def filter_condition(node: Node) -> Condition:
    """Return the condition that a record meets a filter, or may."""
    if isinstance(node, Every):
        return _join(" AND ", _TRUE, map(filter_condition, node.parts))
    if isinstance(node, Some):
        return _join(" OR ", _FALSE, map(filter_condition, node.parts))
    if isinstance(node, Negation):
        part = filter_condition(node.part)
        return Condition(f"({part.sql}) IS NOT TRUE", part.values) if part.is_exact else _UNKNOWN
    name = node.path[0]
    if len(node.path) > 1:
        return _UNKNOWN
    if name in TIMES:
        return _of_time(name, node)
    if name in TEXTS or name == "msg_id":
        return _of_text(name, node)
    return _of_other(name, node)


def _join(word: str, empty: Condition, parts: Iterable[Condition]) -> Condition:
    conditions = list(parts)
    if not conditions:
        return empty
    return Condition(
        f"({word.join(part.sql for part in conditions)})",
        tuple(value for part in conditions for value in part.values),
        all(part.is_exact for part in conditions),
    )


def _of_time(name: str, test: Test) -> Condition:
    if test.operator == "$exists":
        return Condition(f"{name} IS {'NOT ' * test.value}NULL")
    if test.operator == "$in":
        times = [time.isoformat() for time in test.value if time is not None]
        return _any_of(name, "timestamptz", times, f"{name} IS NULL" if None in test.value else None)
    if test.operator not in _COMPARISONS:
        return _UNKNOWN
    if test.value is None:
        return Condition(f"{name} IS NULL") if test.operator == "$eq" else _FALSE
    return Condition(f"{name} {_COMPARISONS[test.operator]} %s::timestamptz", (test.value.isoformat(),))


def _of_text(name: str, test: Test) -> Condition:
    """Return the condition on a text; where a record has something else, it stands in ``extra``."""
    other = "false" if name == "msg_id" else f"({EXTRA} ->> '{name}') IS NOT NULL"
    missing = f"({name} IS NULL AND NOT {other})"
    value = test.value
    if test.operator == "$exists":
        return Condition(f"NOT {missing}" if value else missing)
    if test.operator == "$in":
        texts = [encode_text(part) for part in value if isinstance(part, str)]
        found = _any_of(name, "text", texts, missing if None in value else None)
        return found if all(part is None or isinstance(part, str) for part in value) else _or(found, other)
    if test.operator == "$glob":
        pattern, is_exact = _regex(value)
        return Condition(f"{name} ~ %s", (pattern,), is_exact)
    if test.operator not in _COMPARISONS:
        return Condition(f"NOT {missing}", is_exact=False)
    if value is None:
        return Condition(missing) if test.operator == "$eq" else _FALSE
    if isinstance(value, str):
        return Condition(f"{name} {_COMPARISONS[test.operator]} %s", (encode_text(value),))
    return Condition(other, is_exact=False)


def _of_other(name: str, test: Test) -> Condition:
    """Return the condition on a message, on buffers, or on a key that has no column."""
    is_column = name in COLUMNS
    exists = f"{name} IS NOT NULL" if is_column else f"({EXTRA} ->> %s) IS NOT NULL"
    values = () if is_column else (encode_text(name),)
    asks_for_none = (
        test.value is None if test.operator == "$eq" else test.operator == "$exists" and not test.value
    )
    if asks_for_none:
        return Condition(f"{name} IS NULL") if is_column else _UNKNOWN
    if test.operator == "$in" and None in test.value:
        return _UNKNOWN
    return Condition(exists, values, is_column and test.operator == "$exists")


def _any_of(name: str, type_: str, texts: list[str], or_missing: str | None) -> Condition:
    found = Condition(f"{name} = ANY (%s::{type_}[])", (array(texts),)) if texts else _FALSE
    return _or(found, or_missing)._replace(is_exact=True) if or_missing else found


def _or(found: Condition, other: str) -> Condition:
    return Condition(f"({found.sql} OR {other})", found.values, is_exact=False)


# One character as it was given: an encoded one is five.
_ANY = "(?:\ue000....|[^\ue000])"

# Brackets that mean the same to fnmatch and to PostgreSQL, unless a range is in falling order.
_SIMPLE = re.compile(r"!?(?:[0-9]-[0-9]|[a-z]-[a-z]|[A-Z]-[A-Z]|[\w/*?.,:; ](?!-))+", re.ASCII)


def _regex(pattern: str) -> tuple[str, bool]:
    """Return a shell's pattern as a regular expression, and whether it matches nothing else.

    Prefixes that it begins with are found by an index.
    """
    parts, place, is_exact = [], 0, True
    while place < len(pattern):
        character, place = pattern[place], place + 1
        end = pattern.find("]", place + 1 + pattern.startswith("!", place)) if character == "[" else -1
        if character == "*":
            parts.append(".*")
        elif character == "?":
            parts.append(_ANY)
        elif end > 0:
            inside, place = pattern[place:end], end + 1
            rises = all(first <= last for first, last in re.findall(r"(\w)-(\w)", inside))
            if rises and _SIMPLE.fullmatch(inside):
                parts.append(f"[^{inside[1:]}]" if inside.startswith("!") else f"[{inside}]")
            else:
                parts.append(_ANY)
                is_exact = False
        else:
            parts.append(re.escape(encode_text(character)))
    return f"^{''.join(parts)}$", is_exact
