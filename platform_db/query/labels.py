"""Selecting by labels in Kubernetes's manner: ``team=a,gpu in (a100,h100),!old``.

The rules are those of https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/: all parts
have to be met, and ``!=`` and ``notin`` are met by a row without the label, too.
"""

from __future__ import annotations

import re

from platform_db import errors
from platform_db.query.language import Every, Negation, Node, Test, shown

LONGEST = 5000

_WORD = r"[^\s,()=!]+"
_PART = re.compile(
    rf"\s*(?:"
    rf"(?P<absent>!)\s*(?P<without>{_WORD})"
    rf"|(?P<set>{_WORD})\s+(?P<how>in|notin)\s*\((?P<values>[^()]*)\)"
    rf"|(?P<key>{_WORD})\s*(?P<sign>==?|!=)\s*(?P<value>[^\s,()=!]*)"
    rf"|(?P<present>{_WORD})"
    rf")\s*(?:,|$)"
)


def parse_selector(text: str) -> Node:
    """Read a selector; an empty one is always met.

    :raises errors.InvalidFilter: the text is no selector.
    """
    if not isinstance(text, str) or len(text) > LONGEST:
        raise errors.InvalidFilter(f"a label selector is text of at most {LONGEST} characters")
    parts: list[Node] = []
    place = 0
    while place < len(text):
        found = _PART.match(text, place)
        if found is None or (text[found.end() - 1] == "," and not text[found.end() :].strip()):
            raise errors.InvalidFilter(
                f"no label selector goes on so: {shown(text[place:])}; write team=a,gpu in (a100,h100),!old"
            )
        parts.append(_part(found))
        place = found.end()
    return Every(tuple(parts))


def _part(found: re.Match[str]) -> Node:
    if found["absent"]:
        return Negation(Test(("labels", found["without"]), "$exists", True))
    if found["present"]:
        return Test(("labels", found["present"]), "$exists", True)
    if found["set"]:
        values = [value.strip() for value in found["values"].split(",")]
        test = Test(("labels", found["set"]), "$in", values)
        return test if found["how"] == "in" else Negation(test)
    test = Test(("labels", found["key"]), "$eq", found["value"])
    return Negation(test) if found["sign"] == "!=" else test
