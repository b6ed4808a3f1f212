"""Letting names mean PostgreSQL's own functions and operators, whatever the login's ``search_path`` finds.

A function in ``public`` may come first there, or fit the arguments of a call better than the built-in one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.orm import Session

# Temporary objects are found first where they are not named last.
_USE_OWN_NAMES = sa.text("SET LOCAL search_path = pg_catalog, pg_temp")


def use_own_names(session: Session) -> None:
    """Find no name outside PostgreSQL's own until the transaction ends."""
    session.connection().execute(_USE_OWN_NAMES)


@contextmanager
def own_names(session: Session) -> Iterator[None]:
    """Find no name outside PostgreSQL's own within this block, which reads only.

    Rolling back to a savepoint takes the setting back: reading the former one would call a function by its
    name. So nothing may be written, not even what the session holds.
    """
    savepoint = session.connection().begin_nested()
    try:
        use_own_names(session)
        with session.no_autoflush:
            yield
    finally:
        savepoint.rollback()
