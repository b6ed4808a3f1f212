"""File locks that the kernel releases when their last holder ends, however it ends.

These are ``flock`` locks: they belong to the *open file description*, which a forked child shares. So an
exclusive lock is unlocked explicitly when its block ends (a child that was forked meanwhile must not keep
it), and a lock that is meant to be inherited is only ever closed.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from platform_db import errors

if sys.platform != "win32":  # importing must work there, so that using it can say what is wrong
    import fcntl

POLL = 0.02  # seconds

_transient: set[int] = set()


def open_lock(path: Path) -> int:
    """Open the lock file and return its descriptor; programs that are executed do not inherit it."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def take(descriptor: int, *, shared: bool = False) -> bool:
    """Take the exclusive or a shared lock; return False where another process's lock excludes it."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_still(path: Path, descriptor: int) -> bool:
    """Return whether the open file is the one at this path now."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def is_held(path: Path, *, exclusively: bool = False) -> bool:
    """Return whether anybody holds a lock on the file (with ``exclusively``: the exclusive one)."""
    try:
        with _opened(path, unlock=True) as descriptor:
            return not take(descriptor, shared=exclusively)
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def exclusive(path: Path, *, timeout: float) -> Iterator[None]:
    """Hold the exclusive lock on a file for the length of a block.

    :param timeout: seconds to wait for it.
    :raises errors.EmbeddedError: another process held it all that time.
    :raises FileNotFoundError: the directory of the lock does not exist, or is removed meanwhile.
    """
    deadline = time.monotonic() + timeout
    while True:
        with _opened(path, unlock=True) as descriptor:
            while not take(descriptor):
                if time.monotonic() > deadline:
                    raise errors.EmbeddedError(
                        f"another process has held {path} for {timeout:.0f} s: see what it does, or end it"
                    )
                time.sleep(POLL)
            # The last holder may have removed the file: then this is a lock on nothing.
            if is_still(path, descriptor):
                yield
                return


@contextlib.contextmanager
def inheritable(path: Path) -> Iterator[int | None]:
    """Try to take an exclusive lock that lives on in the programs that the block hands it to.

    Yields the descriptor, to be given as ``pass_fds``, or ``None`` where another process holds the lock.
    """
    with _opened(path, unlock=False) as descriptor:
        yield descriptor if take(descriptor) else None


@contextlib.contextmanager
def _opened(path: Path, *, unlock: bool) -> Iterator[int]:
    descriptor = open_lock(path)
    _transient.add(descriptor)
    try:
        yield descriptor
    finally:
        if descriptor in _transient:  # not so in a child that was forked inside the block
            _transient.discard(descriptor)
            if unlock:
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def _close_in_child() -> None:
    for descriptor in _transient:
        os.close(descriptor)
    _transient.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_close_in_child)
