"""Running the same work in many real processes at once."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable

# All tests share one fork server. It imports what is named before it starts, and nothing later.
FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload(["tests.preloaded"])


def upgrade(uri: str, wait: str, number: int = 0) -> None:
    """Run ``platform-db alembic upgrade``, and end with its exit code."""
    from platform_db import cli

    for name in [name for name in os.environ if name.startswith("PLATFORM_DB_")]:
        del os.environ[name]
    os.environ.update(PLATFORM_DB_URI=uri, PLATFORM_DB_MIGRATION_WAIT=wait)
    cli.main(["alembic", "upgrade"])


def in_processes(count: int, work: Callable[..., None], *arguments: object) -> None:
    """Run ``work(*arguments, number)`` in so many processes; every one must end well."""
    processes = [FORKING.Process(target=work, args=(*arguments, number)) for number in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0] * count
