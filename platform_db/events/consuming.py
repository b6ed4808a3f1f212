"""Consuming events: a handler for each, and what happens where it fails."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

from platform_db import errors
from platform_db.bounds import require_amount
from platform_db.database.session import SessionFactory
from platform_db.events.checkpoints import record_failure
from platform_db.events.event import Event
from platform_db.events.watching import watch

logger = logging.getLogger(__name__)

OnError = Literal["retry", "skip"]

# Seconds between two attempts: at first, and at most.
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 30.0


class Consumed(NamedTuple):
    """What was consumed.

    :param handled: how many events the handler took.
    :param skipped: how many it failed on.
    """

    handled: int
    skipped: int


def consume(
    factory: SessionFactory,
    name: str,
    handler: Callable[[Event], object],
    *,
    on_error: OnError = "retry",
    attempts: int | None = 5,
    **watching: Any,
) -> Consumed:
    """Give each event to a handler, and return how many, when none came for the time to wait.

    Each event comes at least once: a handler must bear to see one again. Where it raises an error, it is
    called again, after a pause that grows up to half a minute.

    :param name: the watcher's name.
    :param on_error: what follows the last attempt: ``retry`` raises the handler's error, and the next process
        tries again from the page before; ``skip`` stores the event with the error in ``event_failure`` and
        goes on.
    :param attempts: how often to call the handler for one event; None is without end.
    :param watching: further arguments of :func:`~platform_db.events.watch`.
    :raises errors.WatcherReplaced: another process watches under this name now, or it was forgotten.
    """
    from tenacity import Retrying, stop_after_attempt, stop_never, wait_random_exponential

    if on_error not in get_args(OnError):
        raise errors.InvalidArgument(f"on_error is {' or '.join(get_args(OnError))}, not {on_error!r}")
    retrying = Retrying(
        stop=stop_never if attempts is None else stop_after_attempt(_checked(attempts)),
        wait=wait_random_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE),
        reraise=True,
    )
    handled = skipped = 0
    for event in watch(factory, name=name, **watching):
        try:
            retrying(handler, event)
            handled += 1
        except Exception as error:
            if on_error != "skip":
                raise
            logger.warning("watcher %s skips event %s: %s", name, event.number, type(error).__name__)
            with factory() as session, session.begin():
                record_failure(session, name, event, error, retrying.statistics["attempt_number"])
            skipped += 1
    return Consumed(handled, skipped)


def _checked(attempts: int) -> int:
    return require_amount(attempts, "number of attempts", smallest=1)
