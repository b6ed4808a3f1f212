"""Logs of runs and jobs: appending, and reading the end, a range, or new output as it comes.

A log is bytes, so what any program writes is kept: NUL, bytes that are not UTF-8, lone surrogates. Appending
is one INSERT, whose cost does not depend on what is there. The size of a run's logs is limited, its jobs'
among them; where a log was cut, it says so.
"""

from platform_db.logs.appending import CUT, append_log
from platform_db.logs.reading import (
    NewChunks,
    follow_log,
    read_log,
    read_log_tail,
    read_new_log,
    stream_log,
    tail_log,
)
from platform_db.logs.replacing import replace_log
from platform_db.logs.target import Logged

__all__ = [
    "CUT",
    "Logged",
    "NewChunks",
    "append_log",
    "follow_log",
    "read_log",
    "read_log_tail",
    "read_new_log",
    "replace_log",
    "stream_log",
    "tail_log",
]
