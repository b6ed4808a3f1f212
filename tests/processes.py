"""Running the same work in many real processes at once."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable


def in_processes(count: int, work: Callable[..., None], *arguments: object) -> None:
    """Run ``work(*arguments, number)`` in so many processes; every one must end well."""
    # A fork server that has imported the models already: starting an interpreter each would take longer
    # than the work, and forking the test's own process would share its connections.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["platform_db.models", "platform_db.sessions", "psycopg2"])
    processes = [context.Process(target=work, args=(*arguments, number)) for number in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0] * count
