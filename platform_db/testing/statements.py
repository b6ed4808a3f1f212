"""Counting the statements that code sends to the database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event


@contextmanager
def assert_num_statements(expected: int) -> Iterator[list[str]]:
    """Fail unless the block sends so many statements, on all engines and threads of this process.

    What begins a tenant's scope (``SET LOCAL``) is not counted.

    :returns: the statements so far.
    """
    sent: list[str] = []

    def note(connection: sa.Connection, cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith("SET LOCAL "):
            sent.append(statement)

    event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(sa.Engine, "before_cursor_execute", note)
    listed = "".join(f"\n{number}. {' '.join(text.split())}" for number, text in enumerate(sent, 1))
    assert len(sent) == expected, f"{len(sent)} statements, not {expected}:{listed}"  # noqa: S101
