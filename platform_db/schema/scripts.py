"""Reading scripts of SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.abc import Traversable  # Python 3.10 has it here


def read_statements(script: Traversable) -> list[str]:
    """Return the statements of a script, in which each ends with a semicolon and an empty line."""
    return [
        statement.strip().removesuffix(";") for statement in script.read_text(encoding="utf-8").split(";\n\n")
    ]
