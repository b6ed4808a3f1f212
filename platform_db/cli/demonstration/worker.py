"""A worker of the demonstration: a process that takes queued runs, one after another, until it is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from functools import partial
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Barrier
from pathlib import Path

from sqlalchemy.orm import Session, configure_mappers

from platform_db import errors, quota
from platform_db.leases import heartbeat, release
from platform_db.lifecycle import set_actor, transition
from platform_db.models import RunStatus, Workflow
from platform_db.sessions import run_transaction
from platform_db.workflows import list_workflows, update_workflow_status

START_TIMEOUT = 120.0  # seconds
IDLE = 0.05  # seconds between two looks for a queued run
CHOOSING = 0.03  # seconds between the look and the grip, in which others see the same run
STARTING = 0.2  # seconds in which a run is pending
BEATS = 4  # of the heart, in a run's work
BYTES_PER_BEAT = 280_000
FAILS = 5  # one run out of so many


def work(
    name: str, seconds: float, configured: dict[str, str], start: Barrier, lost: Synchronized[int]
) -> None:
    """Take runs and work on each of them.

    :param seconds: how long a run takes.
    :param configured: the environment's variables, which the server that forks this process may not have.
    :param start: what all workers wait at, so that none is ahead.
    :param lost: counts the runs that another worker took first.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the demonstration, which ends its workers.
    os.environ.update(configured)
    configure_mappers()  # which takes a while
    start.wait(START_TIMEOUT)
    parent = multiprocessing.parent_process()
    while parent is not None and parent.is_alive():
        try:
            run = run_transaction(partial(_take, name=name))
        except errors.Conflict:
            with lost.get_lock():
                lost.value += 1
            continue
        if run is None:
            time.sleep(IDLE)
        else:
            _work_on(run, name, seconds)


def _take(session: Session, name: str) -> Workflow | None:
    """Take the newest run that is queued; where several workers see the same one, one alone gets it."""
    queued = list_workflows(session, None, statuses=[RunStatus.queued], limit=1).rows
    if not queued:
        return None
    time.sleep(CHOOSING)
    set_actor(session, name)
    transition(session, queued[0], RunStatus.pending, expected_status=RunStatus.queued)
    heartbeat(session, queued, name)
    session.expunge(queued[0])
    return queued[0]


def _work_on(run: Workflow, name: str, seconds: float) -> None:
    def set_status(session: Session, status: RunStatus) -> None:
        set_actor(session, name)
        update_workflow_status(session, (run.owner_id, run.id_), status)

    time.sleep(STARTING)
    run_transaction(partial(set_status, status=RunStatus.running))
    results = Path(run.workspace_path) / "results"
    results.mkdir(parents=True, exist_ok=True)
    for beat in range(BEATS):
        time.sleep(seconds / BEATS)
        (results / f"{run.id_}-{beat}.dat").write_bytes(os.urandom(BYTES_PER_BEAT))
        run_transaction(partial(_measure_and_beat, run=run, name=name))
    failed = run.id_.int % FAILS == 0 and not run.restart
    run_transaction(partial(set_status, status=RunStatus.failed if failed else RunStatus.finished))
    run_transaction(partial(release, rows=[run], holder=name))


def _measure_and_beat(session: Session, run: Workflow, name: str) -> None:
    quota.store_workflow_disk_quota(session, run.id_)
    heartbeat(session, [run], name)
