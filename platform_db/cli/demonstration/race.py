"""Three workers that race for the queued runs. One is killed in the middle of a run, which is recovered."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from uuid import UUID

import sqlalchemy as sa
from rich.console import Console
from rich.live import Live
from sqlalchemy import orm

from platform_db import errors, leases
from platform_db.cli.demonstration.chart import Chart
from platform_db.cli.demonstration.worker import START_TIMEOUT, work
from platform_db.lifecycle import whole_history
from platform_db.models import Lease, RunStatus, Workflow
from platform_db.quota.report import report_users
from platform_db.sessions import session_scope
from platform_db.settings.environment import PREFIX
from platform_db.states import WORKFLOW
from platform_db.workflows import list_workflows

SECONDS_PER_RUN = {"worker-1": 0.4, "worker-2": 0.4, "worker-3": 3600.0}  # worker-3 does not get to the end
VICTIM = "worker-3"
KILL_AFTER = 1.5  # seconds
RECOVER_AFTER = 3.0  # seconds
TICK = 0.1  # seconds


class Race:
    """The workers: their processes start at once, and are killed at the end of the ``with`` block.

    :param lost: how often a worker wanted a run that another one took first.
    """

    def __init__(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([work.__module__])
        self.start = context.Barrier(len(SECONDS_PER_RUN) + 1)
        self.lost = context.Value("i", 0)
        self.workers: dict[str, BaseProcess] = {}
        configured = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
        for name, seconds in SECONDS_PER_RUN.items():
            arguments = (name, seconds, configured, self.start, self.lost)
            self.workers[name] = context.Process(target=work, args=arguments, daemon=True)
            self.workers[name].start()

    def __enter__(self) -> Race:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers.values():
            worker.kill()
            worker.join()

    def show(self, console: Console) -> None:
        """Let them begin, and show them until each run has ended."""
        self.start.wait(START_TIMEOUT)
        chart, victim = Chart(console.width), self.workers[VICTIM]
        with Live(console=console, auto_refresh=False) as live:
            say = live.console.print
            while True:
                with session_scope() as session:
                    statuses = [run.status for run in list_workflows(session, None).rows]
                    live.update(chart.add(statuses, report_users(session)), refresh=True)
                    if victim.is_alive() and chart.seconds > KILL_AFTER and held_by_victim(session):
                        victim.kill()
                        say(f"{chart.seconds:.1f} s: {VICTIM} is killed in the middle of a run.")
                    elif (
                        not victim.is_alive()
                        and chart.seconds > RECOVER_AFTER
                        and leases.recover_owned_by(session, VICTIM, {"workflow": "requeue"})
                    ):
                        say(f"{chart.seconds:.1f} s: its run fails, and a restart is queued.")
                if WORKFLOW.ended.issuperset(statuses):
                    break
                if not any(worker.is_alive() for worker in self.workers.values()):
                    raise errors.PlatformDBError("the workers ended before their runs did")
                time.sleep(TICK)
        console.print()


def held_by_victim(session: orm.Session) -> UUID | None:
    """Return the id of the run that the victim works on."""
    held = (Lease.owner_id == Workflow.owner_id) & (Lease.entity_id == Workflow.id_)
    running = (Lease.holder == VICTIM) & (Workflow.status == RunStatus.running)
    return session.scalar(sa.select(Workflow.id_).join(Lease, held).where(running))


def results(session: orm.Session, lost: int) -> Iterator[str]:
    """Yield what the history tells of the race.

    :param lost: how often a worker came too late.
    """
    runs = list_workflows(session, None).rows
    changes = [(run, change) for run in runs for change in whole_history(session, run)]
    taken = [change.actor for _, change in changes if change.to_status == RunStatus.pending]
    took = ", ".join(f"{name} {count}" for name, count in sorted(Counter(taken).items()))
    yield f"{len(runs)} runs were taken {len(taken)} times ({took}); a worker came too late: {lost}."
    for run, change in changes:
        if change.reason and change.to_status == RunStatus.failed:
            (restart,) = (other for other in runs if other.restart and other.owner_id == run.owner_id)
            yield f"{run.get_full_workflow_name()} of {run.owner.email} failed: {change.reason}."
            yield f"{restart.get_full_workflow_name()} is its restart, and has {restart.status}."
