"""A filter in one form, whatever order its parts were written in: what a cursor is bound to."""

from __future__ import annotations

import json
from typing import Any

from platform_db.models import Base
from platform_db.query.fields import Field, field_of
from platform_db.query.language import Every, Negation, Node, Some, Test


def canonical(model: type[Base], node: Node) -> str:
    """Return a text that two filters share when they ask for the same with the same operators."""
    if isinstance(node, Negation):
        return f"not ({canonical(model, node.part)})"
    if isinstance(node, Every | Some):
        return f"{type(node).__name__}({', '.join(sorted(canonical(model, part) for part in node.parts))})"
    return json.dumps([node.path, node.operator, _value(field_of(model, node.path[0]), node)])


def _value(field: Field, test: Test) -> Any:
    if test.operator in ("$in", "$all"):
        return sorted(json.dumps(_shown(field, part), sort_keys=True) for part in test.value)
    if test.operator in ("$exists", "$glob", "$mod"):
        return list(test.value) if test.operator == "$mod" else test.value
    return json.dumps(_shown(field, test.value), sort_keys=True)


def _shown(field: Field, value: Any) -> Any:
    return value if field.kind is None or value is None else str(field.value(value))
