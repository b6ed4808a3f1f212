"""The disk job: measures workspaces side by side and stores their figures a batch at a time.

Keys are read in pages by key, and figures are written in batches; only the figures that fall to 0 are kept to
the end. No transaction is open while the disk is read. Each batch commits its figures together with the
totals that follow from them: whenever the job is killed, a figure is the old or the new one, and totals are
their sums.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby
from operator import attrgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors, workspaces
from platform_db.database.session import SessionFactory
from platform_db.leases.tasks import lease
from platform_db.models import ResourceType
from platform_db.quota.batches import Problems, run_each
from platform_db.quota.disk import measured_figure, sum_totals
from platform_db.quota.figures import (
    MOST_BYTES,
    RUNS,
    Figure,
    Workspace,
    Written,
    read_statement,
    write_figures,
)
from platform_db.quota.mounted import require_mounted
from platform_db.quota.resources import AnyResource, get_default_key
from platform_db.quota.scope import FIRST_ID, Scope, portions, users_in_scope
from platform_db.workspaces.measure import Choice
from platform_db.workspaces.opening import require_storage

logger = logging.getLogger(__name__)

LEASE = "disk-usage-update"
WORKSPACES_PER_PAGE = 1000
FIGURES_PER_BATCH = 1000
# So that a slow disk's figures are stored, and its work is not lost, before a batch is full.
SECONDS_PER_BATCH = 10.0

Progress = Callable[[int, int], None]
"""Is told how many items are done, and of how many."""


@dataclass(frozen=True)
class Measuring:
    """How to measure; see :func:`platform_db.workspaces.measure_many`."""

    workers: int | None = None
    method: Choice = "auto"
    apparent: bool = False
    gentle: bool = False


@dataclass
class DiskReport(Problems):
    """What a run of the disk job did.

    :param workspaces: how many were looked at.
    :param runs: how many runs they belong to.
    :param bytes: the sum of the figures that were found.
    :param changed: how many figures differ from what was stored.
    :param newer: how many were left alone: a newer figure was stored meanwhile, or the runs were deleted.
    :param stale: how many changed while they were measured; the next run measures them again.
    :param missing: how many workspaces do not exist, and so take nothing.
    :param incomplete: how many were measured only in part: some of it cannot be read, or it shows more bytes
        than a figure holds. Their figures are not lowered.
    :param failed: how many could not be measured or stored; their figures stay as they were.
    :param failed_users: how many users' totals could not be compared with their figures.
    :param corrected_totals: how many users' totals were not the sum of their figures.
    """

    workspaces: int = 0
    runs: int = 0
    bytes: int = 0
    changed: int = 0
    newer: int = 0
    stale: int = 0
    missing: int = 0
    incomplete: int = 0
    failed: int = 0
    failed_users: int = 0
    corrected_totals: int = 0

    def fail_figures(self, figures: Sequence[Figure], reason: str) -> None:
        """Note that the figures of one user could not be stored."""
        self.failed += len(figures)
        self.note(
            f"{len(figures)} figures of user {figures[0].workspace.owner_id} could not be stored: {reason}"
        )

    def fail_total(self, user_id: uuid.UUID, reason: str) -> None:
        """Note that a user's total could not be compared with the figures."""
        self.failed_users += 1
        self.note(f"the totals of user {user_id} could not be corrected: {reason}")

    def raise_for_problems(self) -> None:
        """Raise :class:`errors.PartialFailure` where a workspace or a user failed or is incomplete."""
        if self.failed or self.incomplete or self.failed_users:
            raise errors.PartialFailure(
                f"of {self.workspaces} workspaces, {self.failed} could not be measured or stored and "
                f"{self.incomplete} only in part; {self.failed_users} totals could not be corrected; "
                f"the first: {self.problems[0]}"
            )


def update_disk_usage(
    factory: SessionFactory,
    scope: Scope | None = None,
    measuring: Measuring | None = None,
    *,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> DiskReport:
    """Measure the workspaces in scope and store what they take, and what their owners take in all.

    :param factory: makes the sessions; each batch has a transaction of its own.
    :param dry_run: measure and compare, but store nothing.
    :raises errors.AlreadyRunning: another run of the same scope is going on.
    :raises errors.ResourceNotFound: the default resources were never created.
    :raises errors.StorageMissing: a root is missing or empty, or too many workspaces are missing.
    """
    scope, report = scope or Scope(), DiskReport()
    with factory() as session, session.begin():
        resource = get_default_key(session, ResourceType.disk)
    # No name is given to what it returns: a failure would keep it, and its processes, with the frame.
    measure = partial(
        measure_workspaces, factory, resource, scope, measuring or Measuring(), report, progress
    )
    if dry_run:
        report.changed = sum(f.bytes != f.workspace.used for f in measure(storing=False))
        return report
    sum_up = partial(sum_totals, resource=resource)
    with lease(factory, LEASE + scope.name) as held:
        for batch in in_batches(measure(storing=True), FIGURES_PER_BATCH):
            held.check()
            failed = report.failed
            written = store_figures(factory, resource, batch, report)
            report.newer += len(batch) - len(written) - (report.failed - failed)
            report.changed += sum(figure.used != figure.before for figure in written)
            report.stale += sum(figure.stale for figure in written)
        for user_ids in portions(factory, scope, resource):
            held.check()
            for user_id, before, used in chain(*run_each(factory, user_ids, sum_up, report.fail_total)):
                logger.info("corrected the total of %s: %d -> %d", user_id, before, used)
                report.corrected_totals += 1
    return report


def in_batches(figures: Iterable[Figure], size: int) -> Iterator[list[Figure]]:
    """Yield figures in batches of ``size``, and what there is of one after :data:`SECONDS_PER_BATCH`."""
    batch: list[Figure] = []
    begun_at = time.monotonic()
    for figure in figures:
        batch.append(figure)
        if len(batch) >= size or time.monotonic() - begun_at > SECONDS_PER_BATCH:
            yield batch
            batch, begun_at = [], time.monotonic()
    if batch:
        yield batch


def store_figures(
    factory: SessionFactory, resource: AnyResource, batch: list[Figure], report: DiskReport
) -> list[Written]:
    """Store a batch in one transaction; where the rows of a user fail it, in one for each user."""

    def write(session: Session, users: Sequence[list[Figure]]) -> list[Written]:
        return write_figures(session, resource, list(chain(*users)))

    owner = attrgetter("workspace.owner_id")
    users = [list(figures) for _, figures in groupby(sorted(batch, key=owner), key=owner)]
    return list(chain(*run_each(factory, users, write, report.fail_figures)))


def measure_workspaces(
    factory: SessionFactory,
    resource: AnyResource,
    scope: Scope,
    measuring: Measuring,
    report: DiskReport,
    progress: Progress | None = None,
    *,
    storing: bool,
) -> Iterator[Figure]:
    """Yield a figure for each workspace in scope that can be measured, as soon as there is one.

    Missing is not empty: where the storage is not mounted (:func:`require_mounted`), this stops. The figures
    that fall to 0 come last, after a second look at the storage.

    :param storing: whether the figures are to be stored: only then versions are drawn for them.
    :raises errors.StorageMissing: says which root, or how many workspaces.
    """
    read = _read_workspaces(factory, resource, scope, storing)
    measured = workspaces.measure_many(read, **vars(measuring))
    require_mounted(factory, resource)
    total = _count(factory, resource, scope)
    lost: list[Figure] = []
    for workspace, outcome in measured:
        report.workspaces += 1
        report.runs += workspace.runs
        if isinstance(outcome, workspaces.Measurement):
            figure = measured_figure(workspace, outcome)
            report.bytes += figure.bytes
            if outcome.unreadable or outcome.bytes > MOST_BYTES:
                report.incomplete += 1
                report.note(_incomplete(workspace, outcome))
            yield figure
        elif isinstance(outcome, workspaces.MissingWorkspaceError):
            require_storage(workspace.path)
            report.missing += 1
            figure = Figure(workspace, 0, "missing")
            if not workspace.used:
                yield figure
            else:
                lost.append(figure)
        else:
            report.failed += 1
            report.note(str(outcome))
        if progress:
            progress(report.workspaces, max(total, report.workspaces))
    if lost:
        require_mounted(factory, resource)
    yield from lost


def _incomplete(workspace: Workspace, outcome: workspaces.Measurement) -> str:
    if outcome.bytes > MOST_BYTES:
        return f"workspace {workspace.path!r} shows {outcome.bytes} bytes; {MOST_BYTES} are counted"
    return (
        f"workspace {workspace.path!r} lacks {outcome.unreadable} unreadable files or directories, "
        f"first: {outcome.first_error}"
    )


def _in_scope(scope: Scope) -> str:
    return f"""
        WHERE (w.owner_id, w.workspace_path) > (CAST(:after_owner AS uuid), :after_path)
          AND {users_in_scope(scope, "w.owner_id")}
        GROUP BY w.owner_id, w.workspace_path
        HAVING CAST(:stale_after AS double precision) IS NULL OR bool_or(
            r.measured_at IS NULL OR r.stale
            OR r.measured_at < statement_timestamp() - make_interval(secs => :stale_after))
    """


def _read_workspaces(
    factory: SessionFactory, resource: AnyResource, scope: Scope, storing: bool
) -> Iterator[Workspace]:
    statement = read_statement(f"{_in_scope(scope)} ORDER BY w.owner_id, w.workspace_path LIMIT :limit")
    parameters = {**_from_the_first(scope, resource), "limit": WORKSPACES_PER_PAGE, "storing": storing}
    while True:
        with factory() as session, session.begin():
            rows = session.connection().execute(statement, parameters)
            page = [Workspace(**row._mapping) for row in rows]
        yield from page
        if len(page) < WORKSPACES_PER_PAGE:
            return
        parameters |= {"after_owner": page[-1].owner_id, "after_path": page[-1].path}


def _count(factory: SessionFactory, resource: AnyResource, scope: Scope) -> int:
    count = sa.text(f"SELECT count(*) FROM (SELECT FROM {RUNS} {_in_scope(scope)}) AS workspaces")
    with factory() as session, session.begin():
        return int(session.connection().scalar(count, _from_the_first(scope, resource)) or 0)


def _from_the_first(scope: Scope, resource: AnyResource) -> dict[str, Any]:
    return {**scope.parameters, "resource": resource.id_, "after_owner": FIRST_ID, "after_path": ""}
