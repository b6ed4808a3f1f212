"""Where a demonstration keeps its database and files: a private directory, a new one each time."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path

from platform_db import embedded, errors
from platform_db.embedded import locks

PREFIX = "platform-db-demo-"
KEPT = "platform-db-kept-"
LOCK = "demo.lock"
DATABASE = "database"
WORKSPACES = "workspaces"


def make_place(directory: Path | None, *, keep: bool) -> Path:
    """Return a new directory of the caller's own, which is in use until this process ends.

    Earlier ones that nothing uses are removed first, but those that were to be kept.

    :param directory: where to make it, new or empty; by default below the directory for temporary files.
    :param keep: let no later call remove it.
    """
    if directory is None:
        _remove_earlier()
        directory = Path(tempfile.mkdtemp(prefix=KEPT if keep else PREFIX)).resolve()
    else:
        directory = directory.absolute()
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise errors.InvalidArgument(f"{directory} is not empty", hint="name a new directory")
    if os.geteuid() == 0:
        directory.chmod(0o711)  # The server of root runs under another account, which has to pass.
    (directory / WORKSPACES).mkdir(mode=0o700)
    locks.take(locks.open_lock(directory / LOCK), shared=True)
    return directory


def _remove_earlier() -> None:
    for directory in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        status = directory.lstat()
        if status.st_uid != os.geteuid() or not stat.S_ISDIR(status.st_mode):
            continue
        if not locks.is_held(directory / LOCK) and not embedded.is_running(directory / DATABASE):
            shutil.rmtree(directory, ignore_errors=True)
