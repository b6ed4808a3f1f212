"""Measuring one workspace, or any number of them side by side."""

from __future__ import annotations

import logging
import os
import queue
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Literal, TypeVar

from platform_db import errors
from platform_db.bounds import require_limit
from platform_db.workspaces.measurement import Measurement, Outcome, WorkspaceError, WorkspacePath, refusal
from platform_db.workspaces.paths import resolve
from platform_db.workspaces.workers import Worker, scan_here

logger = logging.getLogger(__name__)

Choice = Literal["auto", "scan", "ceph"]
Path = TypeVar("Path", bound=WorkspacePath)

# CephFS keeps the size of each directory tree up to date by itself: it adds up file sizes, replicas not
# included, and trails the files by some seconds. Asking costs one request where a walk costs one a file.
CEPH_ATTRIBUTE = "ceph.dir.rbytes"
MOST_WORKERS = 8
# A batch should take long enough to be worth handing over, and not so long that a worker ends alone.
LARGEST_BATCH = 128
SHORT_BATCH_SECONDS = 0.02
LONG_BATCH_SECONDS = 0.2


def measure(path: WorkspacePath, *, method: Choice = "auto", apparent: bool = False) -> Measurement:
    """Return the disk space of one workspace: what ``du --summarize --block-size=1`` says of it.

    Symbolic links are never followed: not inside the workspace, and not if the workspace is one itself.

    :param path: the workspace; a relative path starts at the shared volume.
    :param method: ``scan`` walks, ``ceph`` asks CephFS; ``auto`` asks CephFS, and scans where it is another
        file system. What CephFS says is always apparent.
    :param apparent: add up the sizes of files instead of the blocks that they occupy.
    :raises MissingWorkspaceError: there is no such workspace, or it disappeared meanwhile.
    :raises WorkspaceError: its directory cannot be read, or the file system does not know the method.
    :raises errors.InvalidArgument: there is no such method.
    """
    _check(method)
    name, outcome = _without_walking(path, method)
    if outcome is None:
        outcome = scan_here(name, apparent)
    if isinstance(outcome, WorkspaceError):
        raise outcome
    return outcome


def measure_many(
    paths: Iterable[Path],
    *,
    workers: int | None = None,
    method: Choice = "auto",
    apparent: bool = False,
    gentle: bool = False,
) -> Iterator[tuple[Path, Measurement | WorkspaceError]]:
    """Yield each path, as it was given, with its figure or its error, as soon as there is one.

    The order is not that of ``paths``, which are read in the caller's thread and only a few hundred ahead.
    Each workspace counts as if it was measured alone: also where they share hard links, lie within each other
    or are given twice. Closing the iterator ends the workers.

    :param workers: how many processes work side by side; by default one for each CPU, 2 to 8. More
        help where the file system answers slowly.
    :param gentle: for file systems that others wait for: one worker, of the lowest CPU and I/O priority, that
        pauses for as long as it worked. Takes two to four times as long.
    """
    _check(method)
    if workers is not None:
        require_limit(workers, "number of workers")
    count = 1 if gentle else workers or _default_workers()
    return _measure_batches(iter(paths), count, method, apparent, gentle)


def get_disk_usage_or_zero(path: WorkspacePath) -> int:
    """Return the bytes that a workspace takes; 0, and a logged warning, if it is missing or unreadable."""
    try:
        measurement = measure(path)
    except WorkspaceError as error:
        logger.warning("counting 0 bytes: %s", error)
        return 0
    if measurement.unreadable:
        message = "%d files or directories of workspace %r are not counted, first: %s"
        logger.warning(message, measurement.unreadable, path, measurement.first_error)
    return measurement.bytes


def _measure_batches(
    paths: Iterator[Path], workers: int, method: Choice, apparent: bool, gentle: bool
) -> Iterator[tuple[Path, Outcome]]:
    """Keep every worker busy, with one more batch waiting for each."""
    idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
    crew = [Worker(apparent, gentle) for _ in range(workers)]
    for worker in crew:
        idle.put(worker)

    def work(batch: Sequence[Path]) -> tuple[list[Outcome], float]:
        worker = idle.get()
        started = time.monotonic()
        try:
            outcomes = _measure_batch(batch, worker, method)
        finally:
            idle.put(worker)
        return outcomes, time.monotonic() - started

    executor = ThreadPoolExecutor(workers, thread_name_prefix="workspace")
    running: dict[Future[tuple[list[Outcome], float]], list[Path]] = {}
    size = 1
    try:
        while True:
            while len(running) < 2 * workers and (batch := list(islice(paths, size))):
                running[executor.submit(work, batch)] = batch
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                outcomes, seconds = future.result()
                if seconds < SHORT_BATCH_SECONDS:
                    size = min(2 * size, LARGEST_BATCH)
                elif seconds > LONG_BATCH_SECONDS:
                    size = max(size // 2, 1)
                yield from zip(running.pop(future), outcomes, strict=True)
    finally:
        for worker in crew:
            worker.close()
        executor.shutdown(cancel_futures=True)
        for worker in crew:
            worker.reap()


def _measure_batch(paths: Sequence[WorkspacePath], worker: Worker, method: Choice) -> list[Outcome]:
    known = [_without_walking(path, method) for path in paths]
    measured = iter(worker.measure_batch([name for name, outcome in known if outcome is None]))
    return [outcome or next(measured) for _, outcome in known]


def _without_walking(path: WorkspacePath, method: Choice) -> tuple[bytes, Outcome | None]:
    """Return the resolved path, and its outcome if that is known without reading the whole workspace."""
    try:
        name = resolve(path)
    except WorkspaceError as error:
        return b"", error
    outcome: Outcome | None = _ask_ceph(name) if method in {"auto", "ceph"} else None
    if outcome is None and method == "ceph":
        refused = f"the file system of {os.fsdecode(name)!r} offers no {CEPH_ATTRIBUTE}"
        outcome = refusal(name) or WorkspaceError(refused)
    return name, outcome


def _ask_ceph(path: bytes) -> Measurement | None:
    """Return what CephFS says, or nothing where the file system is another one or ``path`` no directory."""
    if sys.platform != "linux":
        return None
    try:
        # A link in place of the workspace is not followed, here as everywhere.
        value = os.getxattr(path, CEPH_ATTRIBUTE, follow_symlinks=False)
        return Measurement(int(value), "ceph", apparent=True)
    except (OSError, ValueError):
        return None


def _check(method: Choice) -> None:
    if method not in {"auto", "scan", "ceph"}:
        raise errors.InvalidArgument(f"unknown method {method!r}; choose from auto, scan, ceph")


def _default_workers() -> int:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(2, min(usable, MOST_WORKERS))
