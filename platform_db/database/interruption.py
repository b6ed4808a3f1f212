"""Ending work by a signal in such a way that it frees what it holds: leases, transactions, temporary files.

The process with number 1, as a container has it, ignores each signal that it has no handler for. And Python
runs a handler between its own instructions only, not while the driver waits for the server. So inside
:func:`interruptible` a signal raises, and cancels the statements that run at the time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import psycopg2
from psycopg2.extensions import TRANSACTION_STATUS_ACTIVE

from platform_db import errors
from platform_db.database import forking

SIGNALS = (signal.SIGTERM, signal.SIGINT)

_endings: list[Callable[[], None]] = []
_masks = threading.local()


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM and SIGINT end the block by an exception, also while a statement runs.

    What is committed stays: a job ends at the edge of a batch. A second signal meets the handlers of before,
    and a signal that the process ignores stays ignored. Outside the main thread, where alone Python runs
    handlers, nothing changes.

    :raises errors.Interrupted: a signal came.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    if threading.current_thread() is not threading.main_thread() or None in before.values():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        restore()
        raise errors.Interrupted(number)

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    _endings.append(restore)
    try:
        with _cancelling_statements():
            yield
    finally:
        if restore in _endings:  # else this is a child
            _endings.remove(restore)
        restore()


@contextmanager
def _cancelling_statements() -> Iterator[None]:
    """Let a thread cancel what runs when a signal comes: the main one may be waiting for it."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    watcher = threading.Thread(target=_cancel_when_told, args=(reading,), name="interruption", daemon=True)
    watcher.start()
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writing)
        watcher.join()
        os.close(reading)


def _cancel_when_told(reading: int) -> None:
    while numbers := os.read(reading, 1):
        if numbers[0] in SIGNALS:
            for connection in forking.connections():
                with contextlib.suppress(psycopg2.Error):  # It was closed meanwhile.
                    if connection.info.transaction_status == TRANSACTION_STATUS_ACTIVE:
                        connection.cancel()


def _hold_signals() -> None:
    """Let signals wait while a process forks: one that met the child too early would cancel statements."""
    if _endings:
        _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _take_signals() -> None:
    if hasattr(_masks, "before"):
        signal.pthread_sigmask(signal.SIG_SETMASK, _masks.before)
        del _masks.before


def _leave_in_child() -> None:
    """Let a forked child end by a signal as it would have outside the block, and its parent's work go on."""
    if _endings:
        signal.set_wakeup_fd(-1)  # It is the parent's, too.
    while _endings:
        _endings.pop()()
    _take_signals()


os.register_at_fork(before=_hold_signals, after_in_parent=_take_signals, after_in_child=_leave_in_child)
