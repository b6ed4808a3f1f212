"""Whether a record meets a filter, decided in Python: what SQL cannot say of a record's values."""

from __future__ import annotations

import fnmatch
import operator
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from platform_db.query.language import Every, Negation, Node, Some
from platform_db.tasks.encoding import encode_time


def meets(record: Mapping[str, Any], node: Node) -> bool:
    """Tell whether a record meets a filter, with MongoDB's meaning: what is not there equals None."""
    if isinstance(node, Every):
        return all(meets(record, part) for part in node.parts)
    if isinstance(node, Some):
        return any(meets(record, part) for part in node.parts)
    if isinstance(node, Negation):
        return not meets(record, node.part)
    value: Any = record
    for key in node.path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return _TESTS[node.operator](_comparable(value), _comparable(node.value))


def _comparable(value: Any) -> Any:
    return encode_time(value) if isinstance(value, datetime) else value


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    """Return a comparison that is false of what cannot be compared, None with anything for instance."""

    def test(value: Any, bound: Any) -> bool:
        try:
            return bool(compare(value, bound))
        except TypeError:
            return False

    return test


def _all(value: Any, wanted: Any) -> bool:
    present = value if isinstance(value, list) else [value]
    return bool(wanted) and all(part in present for part in wanted)


def _mod(value: Any, numbers: Any) -> bool:
    divisor, remainder = numbers
    return isinstance(value, int | float) and not isinstance(value, bool) and value % divisor == remainder


_TESTS: dict[str, Callable[[Any, Any], bool]] = {
    "$eq": operator.eq,
    "$gt": _ordered(operator.gt),
    "$gte": _ordered(operator.ge),
    "$lt": _ordered(operator.lt),
    "$lte": _ordered(operator.le),
    "$in": lambda value, wanted: any(value == _comparable(part) for part in wanted),
    "$all": _all,
    "$exists": lambda value, wanted: (value is not None) == wanted,
    "$glob": lambda value, pattern: isinstance(value, str) and fnmatch.fnmatchcase(value, pattern),
    "$mod": _mod,
}
