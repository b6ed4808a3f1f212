"""The transactions of a job over users, which others may delete at any moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from platform_db.database.session import SessionFactory
from platform_db.sessions import run_transaction

T = TypeVar("T")

FOREIGN_KEY_VIOLATION = "23503"
ATTEMPTS = 20


def run_batch(factory: SessionFactory, work: Callable[[Session], T]) -> T:
    """Run ``work`` in a transaction of its own, and again where a run or user was deleted while it wrote.

    A statement that has begun still sees a row whose deletion commits now, and then fails to refer to it. The
    next attempt does not see it. A deadlock with a deletion is tried again, too
    (:func:`~platform_db.sessions.run_transaction`).
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return run_transaction(work, factory=factory)
        except IntegrityError as error:
            if getattr(error.orig, "pgcode", None) != FOREIGN_KEY_VIOLATION:
                raise
    return run_transaction(work, factory=factory)
