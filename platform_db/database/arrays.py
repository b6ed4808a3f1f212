"""Arrays as literals: the driver would take as long for each element as for all of one literal."""

from __future__ import annotations

from collections.abc import Iterable


def array(texts: Iterable[str | None]) -> str:
    """Return the literal of an array."""
    return f"{{{','.join('NULL' if text is None else _quoted(text) for text in texts)}}}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", r"\\").replace('"', r"\"")
    return f'"{escaped}"'
