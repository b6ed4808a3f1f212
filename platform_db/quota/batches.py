"""The transactions of a job over users: what others lock or delete meanwhile ends no job, but is reported."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from platform_db.database import sqlstates
from platform_db.database.session import SessionFactory
from platform_db.sessions import run_transaction

T = TypeVar("T")
Item = TypeVar("Item")

logger = logging.getLogger(__name__)

ATTEMPTS = 20
PROBLEMS_KEPT = 20

TIMEOUTS = frozenset({sqlstates.LOCK_NOT_AVAILABLE, sqlstates.QUERY_CANCELED})
_CLASSES_OF_ROWS = (sqlstates.DATA_EXCEPTION_CLASS, sqlstates.CONSTRAINT_CLASS, sqlstates.ROLLBACK_CLASS)


@dataclass
class Problems:
    """A report of what a job could not do.

    :param problems: the first problems, in words.
    """

    problems: list[str] = field(default_factory=list)

    def note(self, problem: str) -> None:
        """Log a problem, and keep it if it is among the first."""
        logger.warning("%s", problem)
        if len(self.problems) < PROBLEMS_KEPT:
            self.problems.append(problem)


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
            if sqlstates.sqlstate_of(error) != sqlstates.FOREIGN_KEY_VIOLATION:
                raise
    return run_transaction(work, factory=factory)


def run_each(
    factory: SessionFactory,
    items: Sequence[Item],
    work: Callable[[Session, Sequence[Item]], T],
    failed: Callable[[Item, str], None],
) -> list[T]:
    """Run ``work`` on all items in one transaction; where their rows fail it, on each item by itself.

    :param failed: is told which item failed alone, too, and why; the others are done.
    :returns: what ``work`` returned each time.
    """
    try:
        return [run_batch(factory, lambda session: work(session, items))]
    except DBAPIError as error:
        reason = reason_of(error)
        if len(items) == 1:
            failed(items[0], reason)
            return []
    return [done for item in items for done in run_each(factory, [item], work, failed)]


def read_pages(
    factory: SessionFactory, statement: sa.TextClause, parameters: dict[str, Any], size: int
) -> Iterator[Sequence[sa.Row[Any]]]:
    """Yield what a statement reads, page by page; in between no transaction is open.

    :param statement: reads ``:look`` rows at most, those that come after ``:after``, the ``id_`` of the last
        row of the page before; NULL at first.
    """
    after = None
    while True:
        with factory() as session:
            values = {**parameters, "look": size, "after": after}
            rows = session.connection().execute(statement, values).all()
        yield rows
        if len(rows) < size:
            return
        after = rows[-1].id_


def reason_of(error: DBAPIError) -> str:
    """Return, in one line, why a statement failed by the rows it touched: others hold them, or a value does
    not fit. Then other rows may fare better.

    :raises DBAPIError: it is another error, such as a lost connection or a missing table: all would fail.
    """
    state = sqlstates.sqlstate_of(error) or ""
    if state in TIMEOUTS or state.startswith(_CLASSES_OF_ROWS):
        return str(error.orig).partition("\n")[0]
    raise error
