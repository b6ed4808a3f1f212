"""Rows from one server to another, in constant memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import IO, Any

import psycopg2

PIPE_BYTES = 1 << 16


def pipe(write: Callable[[IO[bytes]], None], cursor: Any, into: str) -> None:
    """Copy what is written in PostgreSQL's binary format into a table, a buffer at a time.

    However it ends, the writer has ended before: its connection is free again.

    :param write: writes it; it runs in a thread of its own.
    :param cursor: of the driver, on the target.
    :param into: the statement ``COPY … FROM STDIN``.
    """
    reading, writing = os.pipe()
    failures: list[BaseException] = []

    def fill() -> None:
        try:
            with os.fdopen(writing, "wb", buffering=PIPE_BYTES) as file:
                write(file)
        except BaseException as error:  # it ends this thread, and is raised by the other
            failures.append(error)

    writer = threading.Thread(target=fill)
    writer.start()
    try:
        with os.fdopen(reading, "rb", buffering=PIPE_BYTES) as file:
            cursor.copy_expert(into, file, size=PIPE_BYTES)
    except psycopg2.Error:
        writer.join()
        if failures and not isinstance(failures[0], BrokenPipeError):
            raise failures[0] from None  # What was cut short here is not the fault.
        raise
    finally:
        writer.join()
    if failures:
        raise failures[0]
