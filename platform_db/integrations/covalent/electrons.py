"""What a node is by its name, and what is passed along a link."""

from __future__ import annotations

import re

# https://github.com/AgnostiqHQ/covalent names the nodes that it makes by itself with such prefixes.
_TYPE = re.compile(":(arg|attribute|electron_dict|electron_list|generated|parameter|sublattice|subscripted):")


def type_of(name: str) -> str:
    """Return the type of an electron; what has no prefix is a function."""
    found = _TYPE.match(name)
    return found[1] if found else "function"


def kind_of(parameter_type: str | None, arg_index: int | None) -> str:
    """Return the kind of a dependency: ``arg 0`` for the first argument, ``kwarg``, or nothing."""
    parts = [parameter_type or "", "" if arg_index is None else str(arg_index)]
    return " ".join(parts).rstrip()


def parameter_of(kind: str) -> tuple[str | None, int | None]:
    """Return the type and the index of a parameter, as :func:`kind_of` was given them."""
    parameter_type, space, index = kind.rpartition(" ")
    if space and _NUMBER.fullmatch(index):
        return parameter_type or None, int(index)
    return kind or None, None


_NUMBER = re.compile("-?[0-9]+")
