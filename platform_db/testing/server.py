"""The PostgreSQL server of a test run, shared by all its processes.

``PLATFORM_DB_TEST_URI`` names one (a database there to connect to, and the right to create others); else a
container is started if Docker answers; else an embedded server, on a RAM disk where there is one.

The processes of a run (the workers of pytest-xdist) share a directory. Each holds a shared lock on a file
in it; the first one starts the server, the last one out stops it and removes the directory. What a run
that was killed leaves behind is removed by a later one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from platform_db import database, embedded, errors
from platform_db.embedded import locks
from platform_db.testing import containers, databases

VARIABLE = "PLATFORM_DB_TEST_URI"
MAX_CONNECTIONS = 400
PREFIX = "platform-db-test-"
SETUP_LOCK = "setup.lock"
USERS_LOCK = "users.lock"
RECORD = "server.json"
SETUP_TIMEOUT = 600.0  # seconds; an image may have to be pulled
RAM_DISK = Path("/dev/shm")  # noqa: S108 (only in directories that are made there safely)
RAM_NEEDED = 2 * 2**30  # bytes
STALE_AFTER = 600.0  # seconds


class RunServer(NamedTuple):
    """The server of one test run."""

    uri: str  # of a database on it that the run does not use
    directory: Path  # which the processes of the run share
    prefix: str  # of the names of the run's databases

    def once(self, name: str, make: Callable[[], None]) -> None:
        """Call ``make`` in the first process that comes here in this run, and let the others wait for it."""
        with _setup(self.directory):
            done = self.directory / f"{name}.done"
            if not done.exists():
                make()
                done.touch()


@contextlib.contextmanager
def run_server(run: str) -> Iterator[RunServer]:
    """Use the server of a test run for the length of a block.

    :param run: the same for all processes of the run, and for no other.
    """
    directory, prefix = _parent() / f"{PREFIX}{run}", f"platform_test_{run[:12]}_"
    users = _enter(directory)
    try:
        with _setup(directory):
            uri = _started(directory)
        yield RunServer(uri, directory, prefix)
    finally:
        os.close(users)
        with _setup(directory):
            embedded.release(directory / "embedded")
            if not locks.is_held(directory / USERS_LOCK):
                if external := os.environ.get(VARIABLE):
                    databases.drop_databases(_normalised(external), prefix)
                _tear_down(directory)


def _setup(directory: Path, timeout: float = SETUP_TIMEOUT) -> AbstractContextManager[None]:
    return locks.exclusive(directory / SETUP_LOCK, timeout=timeout)


def _parent() -> Path:
    try:
        if shutil.disk_usage(RAM_DISK).free >= RAM_NEEDED and os.access(RAM_DISK, os.W_OK):
            return RAM_DISK
    except OSError:
        pass
    return Path(tempfile.gettempdir()).resolve()


def _enter(directory: Path) -> int:
    """Make the run's directory if need be and become its user; return the lock's descriptor."""
    while True:
        _remove_stale(directory.parent)
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)
            # The embedded server of root runs under another account, which has to pass.
            directory.chmod(0o711 if os.geteuid() == 0 else 0o700)
        if directory.stat().st_uid != os.geteuid():
            raise errors.EmbeddedError(
                f"{directory} belongs to another account: set TMPDIR to a directory of yours"
            )
        # The last process of the run may be removing the directory: then it is made again.
        with contextlib.suppress(FileNotFoundError), _setup(directory):
            users = locks.open_lock(directory / USERS_LOCK)
            locks.take(users, shared=True)
            return users


def _started(directory: Path) -> str:
    if external := os.environ.get(VARIABLE):
        return _normalised(external)
    record = directory / RECORD
    if not record.exists():
        temporary = record.with_suffix(".new")
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps(containers.start(MAX_CONNECTIONS)), encoding="utf-8")
        temporary.replace(record)
    if container := _container(directory):
        return str(container["uri"])
    uri = embedded.ensure_running(directory / "embedded", max_connections=MAX_CONNECTIONS, durable=False)
    return databases.with_database(uri, "postgres")


def _normalised(uri: str) -> str:
    return database.normalise_url(uri).render_as_string(hide_password=False)


def _container(directory: Path) -> Any:
    record = directory / RECORD
    return json.loads(record.read_text(encoding="utf-8")) if record.exists() else None


def _tear_down(directory: Path) -> None:
    if container := _container(directory):
        containers.remove(container["id"])
    embedded.stop(directory / "embedded")  # the last user may have been killed
    shutil.rmtree(directory)


def _remove_stale(parent: Path) -> None:
    """Remove what runs that were killed have left."""
    for directory in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError, errors.EmbeddedError):  # not ours, or being removed by another run
            status = directory.stat()
            if status.st_uid != os.geteuid() or time.time() - status.st_mtime < STALE_AFTER:
                continue
            with _setup(directory, timeout=0):
                if not locks.is_held(directory / USERS_LOCK):
                    _tear_down(directory)
