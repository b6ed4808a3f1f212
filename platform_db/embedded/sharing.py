"""Sharing one server among processes: the first one starts it, the last one out stops it.

Every process that uses the server holds a shared lock on one file. An arriving process takes the start
lock, then the shared one. A leaving process closes its shared lock *first*, then takes the start lock and
stops the server if no process holds the shared one. Of two that leave at once, the later one sees that it is
the last, and no process can arrive in between.

A forked child inherits its parent's lock, which lasts until both have closed it: neither can stop the
server under the other, and a child that never calls anything here still keeps the server that it uses.

A process that ends without its exit handlers (``kill -9``, an unhandled SIGTERM, ``os._exit``)
loses its lock like every other, but does not stop the server. It then runs on until the next user leaves,
or until :func:`stop`.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
import threading
from pathlib import Path

from platform_db import errors
from platform_db.embedded import locks
from platform_db.embedded.cluster import START_TIMEOUT, STOP_TIMEOUT, Cluster
from platform_db.embedded.directory import START_LOCK, USERS_LOCK, explained, prepare, resolved

logger = logging.getLogger(__name__)

WAIT = START_TIMEOUT + STOP_TIMEOUT

_claims: dict[Path, int] = {}  # directory: descriptor of the shared lock
_guard = threading.RLock()


def ensure_running(directory: Path | None = None, *, max_connections: int = 100, durable: bool = True) -> str:
    """Return the URL of an embedded database, made at the first call and started on demand.

    This process counts as a user of the server until it ends or calls :func:`release`.

    :param directory: the directory of the database; the default one if not given.
    :param max_connections: how many connections the server accepts, if this call is what starts it.
    :param durable: whether what was committed outlives a crash of the machine, if this call is what starts
        the server. Tests do without, and are faster.
    :returns: a ``postgresql+psycopg2://`` URL.
    :raises errors.EmbeddedError: it cannot be used; the message says why and what to do.
    """
    directory = resolved(directory)
    with _guard:
        cluster = Cluster(directory)
        if _is_user(directory) and cluster.answers():
            return cluster.uri()
        prepare(directory)
        with explained(directory), locks.exclusive(directory / START_LOCK, timeout=WAIT):
            was_user = _is_user(directory)
            _arrive(directory)
            try:
                cluster.ensure_started(max_connections=max_connections, durable=durable)
                return cluster.uri()
            except BaseException:
                if not was_user:
                    os.close(_claims.pop(directory))
                raise


def release(directory: Path | None = None) -> None:
    """Use the server no longer; the last of all processes stops it.

    Connections of this process should be closed before. Nothing happens if it was no user.
    """
    directory = resolved(directory)
    with _guard:
        descriptor = _claims.pop(directory, None)
        if descriptor is None:
            return
        os.close(descriptor)  # not LOCK_UN, which would take the lock from forked children as well
        with (
            contextlib.suppress(FileNotFoundError),  # the directory was removed
            locks.exclusive(directory / START_LOCK, timeout=WAIT),
        ):
            if not locks.is_held(directory / USERS_LOCK):
                Cluster(directory).stop()


def exists(directory: Path | None = None) -> bool:
    """Return whether there is a database, running or not."""
    directory = resolved(directory)
    with explained(directory):
        return Cluster(directory).data.exists()


def reset(directory: Path | None = None) -> None:
    """Empty the database, ending the connections of every process that uses it.

    :raises errors.EmbeddedError: it cannot be used; the message says why and what to do.
    """
    directory = resolved(directory)
    ensure_running(directory)
    with explained(directory), locks.exclusive(directory / START_LOCK, timeout=WAIT):
        Cluster(directory).empty()


def stop(directory: Path | None = None) -> None:
    """Stop the server, even if it is in use; nothing happens if it does not run.

    :raises errors.EmbeddedError: it cannot be stopped.
    """
    directory = resolved(directory)
    if not directory.exists():
        return
    prepare(directory)
    with explained(directory), locks.exclusive(directory / START_LOCK, timeout=WAIT):
        Cluster(directory).stop()


def is_running(directory: Path | None = None) -> bool:
    """Return whether the server runs.

    :raises errors.EmbeddedError: another account owns the directory.
    """
    directory = resolved(directory)
    with explained(directory):
        return Cluster(directory).is_alive()


def _is_user(directory: Path) -> bool:
    """Return whether this process holds the shared lock, on the file that is there now."""
    return directory in _claims and locks.is_still(directory / USERS_LOCK, _claims[directory])


def _arrive(directory: Path) -> None:
    if _is_user(directory):
        return
    if directory in _claims:
        os.close(_claims.pop(directory))
    descriptor = locks.open_lock(directory / USERS_LOCK)
    locks.take(descriptor, shared=True)  # always succeeds: the exclusive one needs the start lock
    _claims[directory] = descriptor


def _release_all() -> None:
    for directory in list(_claims):
        try:
            release(directory)
        except errors.EmbeddedError as error:
            logger.warning("the embedded server was not stopped: %s", error)


def _after_fork_in_child() -> None:
    global _guard
    _guard = threading.RLock()  # another thread of the parent may hold the old one
    # Children that multiprocessing makes end without exit handlers, but run its finalizers. They are
    # forgotten at the child's start, so the right moment to add one is after that.
    multiprocessing = sys.modules.get("multiprocessing.util")
    if _claims and multiprocessing is not None:
        multiprocessing.register_after_fork(_claims_of_fork, _finalize_child)


def _claims_of_fork() -> None:
    """Stand for this module in multiprocessing's registry, which holds its keys weakly."""


def _finalize_child(_: object) -> None:
    sys.modules["multiprocessing.util"].Finalize(None, _release_all, exitpriority=-100)


# Registered early, it runs late: after the exit handlers of code that uses the database.
atexit.register(_release_all)
if sys.platform != "win32":
    os.register_at_fork(after_in_child=_after_fork_in_child)
