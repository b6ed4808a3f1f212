"""Processes that scan. Threads would not do: most of a scan is Python, which runs in one thread at a time.

A worker is a fresh interpreter that runs ``scan.py`` alone. It starts in about ten milliseconds, does not
share the caller's connections as a fork would, and does not import the caller's program again as
:mod:`multiprocessing` would.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from platform_db.workspaces import scan
from platform_db.workspaces.measurement import Measurement, Outcome, workspace_error


@dataclass
class Worker:
    """One process that scans, started with the first batch.

    :param gentle: lowest priority, and half of the time asleep.
    """

    apparent: bool
    gentle: bool
    closed: bool = False
    process: subprocess.Popen[bytes] | None = None

    def measure_batch(self, paths: Sequence[bytes]) -> list[Outcome]:
        """Scan each of ``paths``; where the process cannot be started or has died, in this process."""
        if not paths:
            return []
        try:
            return self._ask(paths)
        except (OSError, EOFError):
            self.reap()
            # Once the caller has closed the worker, no answer is read.
            return [] if self.closed else [scan_here(path, self.apparent, self.gentle) for path in paths]

    def close(self) -> None:
        """End the process, in the middle of a batch too."""
        self.closed = True
        if self.process is not None:
            self.process.kill()

    def reap(self) -> None:
        """Wait for the process to be gone, so that nothing of it stays behind."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            # Leaving the block closes both pipes; what was still to be written has no reader.
            with suppress(BrokenPipeError), process:
                pass
            process.wait()

    def _ask(self, paths: Sequence[bytes]) -> list[Outcome]:
        if self.process is None:
            self.process = self._start()
        assert self.process.stdin is not None and self.process.stdout is not None  # noqa: S101 - they are pipes
        self.process.stdin.write(b"\0".join(paths) + b"\0")
        self.process.stdin.flush()
        answers: list[bytes] = []
        rest = b""
        while len(answers) < len(paths):
            chunk = os.read(self.process.stdout.fileno(), 65536)
            if not chunk:
                raise EOFError
            *more, rest = (rest + chunk).split(b"\0")
            answers += more
        return [self._outcome(path, answer.decode()) for path, answer in zip(paths, answers, strict=True)]

    def _outcome(self, path: bytes, answer: str) -> Outcome:
        if answer.startswith("!"):
            error_number, _, reason = answer[1:].partition(" ")
            return workspace_error(path, OSError(int(error_number), reason))
        size, unreadable, first_error = answer.split(" ", 2)
        return Measurement(int(size), "scan", self.apparent, int(unreadable), first_error or None)

    def _start(self) -> subprocess.Popen[bytes]:
        if not sys.executable or not Path(scan.__file__).is_file():
            raise FileNotFoundError("there is no interpreter or no file to run")
        flags = [*(("--apparent",) if self.apparent else ()), *(("--gentle",) if self.gentle else ())]
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-I", "-S", scan.__file__, *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        if self.closed:
            process.kill()
        return process


def scan_here(path: bytes, apparent: bool, gentle: bool = False) -> Outcome:
    walk = scan.Scan(apparent, scan.Pace() if gentle else None)
    try:
        size = walk.run(path)
    except OSError as error:
        return workspace_error(path, error)
    return Measurement(size, "scan", apparent, walk.failed, walk.first_error or None)
