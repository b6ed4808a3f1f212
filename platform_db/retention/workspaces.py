"""Applying the retention rules of workspaces: removing the files that are due, and accounting for it."""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from platform_db import errors, states
from platform_db.database import sqlstates
from platform_db.database.session import SessionFactory
from platform_db.leases.tasks import HeldLease, lease
from platform_db.lifecycle.history import add_note
from platform_db.lifecycle.transitions import transition
from platform_db.models import AuditLog, AuditLogAction, Workflow, WorkspaceRetentionRule
from platform_db.quota import store_workflow_disk_quota, update_users_disk_quota
from platform_db.quota.batches import TIMEOUTS, reason_of, run_batch
from platform_db.states import WorkspaceRetentionRuleStatus
from platform_db.workspaces import MissingWorkspaceError, WorkspaceError, is_managed_workspace
from platform_db.workspaces.opening import require_storage
from platform_db.workspaces.paths import other_names
from platform_db.workspaces.places import Places
from platform_db.workspaces.removal import Removal, StopRemoval, remove_matching

logger = logging.getLogger(__name__)

LEASE = "retention apply"
# How long a run that comes to use a workspace may go unnoticed while files are removed there.
SECONDS_BETWEEN_QUESTIONS = 1.0


@dataclass(frozen=True)
class AppliedRule:
    """What applying one rule did.

    :param removal: what was removed; *stopped* where a run came to use the workspace meanwhile.
    :param problem: why it is not applied yet, where it is not; it is tried again the next time. Or why the
        freed space still counts.
    :param storage_missing: whether the problem is that the workspace's root is missing or empty.
    """

    rule_id: uuid.UUID
    workflow_id: uuid.UUID
    pattern: str
    removal: Removal = field(default_factory=Removal)
    problem: str | None = None
    storage_missing: bool = False


@dataclass
class RetentionReport:
    """What applying the rules that were due did."""

    rules: list[AppliedRule] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """How much space was freed."""
        return sum(rule.removal.bytes for rule in self.rules)

    @property
    def files(self) -> int:
        """How many files, links and directories were removed."""
        return sum(rule.removal.files for rule in self.rules)

    def raise_for_problems(self) -> None:
        """Raise an error where a rule failed.

        :raises errors.StorageMissing: all rules did, since their storage is missing.
        :raises errors.PartialFailure: says how many, and why the first.
        """
        problems = [rule for rule in self.rules if rule.problem]
        if problems and all(rule.storage_missing for rule in self.rules):
            raise errors.StorageMissing(f"none of {len(self.rules)} rules is applied: {problems[0].problem}")
        if problems:
            raise errors.PartialFailure(
                f"{len(problems)} of {len(self.rules)} rules failed; the first, "
                f"{problems[0].rule_id}: {problems[0].problem}"
            )


def apply_retention_rules(
    factory: SessionFactory, *, dry_run: bool = False, progress: Callable[[int, int], None] | None = None
) -> RetentionReport:
    """Apply the rules that are due: remove what their patterns name, and account for the freed space.

    Files are removed outside any transaction. A rule is *pending* meanwhile, and one that a killed run left
    so is taken up again. A rule waits while a run in progress, of any owner, uses its workspace, a directory
    in it or one above it, or a session or service of such a run has not ended; where such a run comes while
    files are removed, the rest of them stays. A rule of an unmanaged workspace
    (:func:`~platform_db.workspaces.is_managed_workspace`) removes nothing, and is a problem. So is one whose
    workspace is missing though its run is not deleted. A rule whose rows others hold is a problem of its own.

    :param dry_run: only tell which rules are due, also while they are applied.
    :raises errors.AlreadyRunning: another run of it is going on.
    """
    report, places = RetentionReport(), Places()
    with nullcontext(HeldLease()) if dry_run else lease(factory, LEASE) as held:
        with factory() as session:
            due = session.connection().execute(_DUE).all()
        for done, rule in enumerate(due):
            held.check()
            seen = _look(rule)
            applied = seen if seen.problem or dry_run else _Application(factory, rule, held, places).apply()
            if applied is not None:
                report.rules.append(applied)
                if applied.problem:
                    logger.warning("retention rule %s: %s", applied.rule_id, applied.problem)
            if progress:
                progress(done + 1, len(due))
    return report


def _look(rule: Any) -> AppliedRule:
    """Tell why nothing of this workspace may be removed now, whatever its runs do."""
    applied = AppliedRule(rule.id_, rule.workflow_id, rule.workspace_files)
    if not is_managed_workspace(rule.workspace_path, rule.owner_id):
        outside = "it lies outside its owner's part of a root"
        return replace(applied, problem=f"workspace {rule.workspace_path!r} is unmanaged: {outside}")
    try:
        require_storage(rule.workspace_path)
    except errors.StorageMissing as error:
        return replace(applied, problem=str(error), storage_missing=True)
    missing = not os.path.lexists(rule.workspace_path)
    return replace(applied, problem=_missing(rule)) if missing else applied


def _missing(rule: Any) -> str | None:
    """Return what is wrong with a workspace that is missing; nothing where it went with its deleted run."""
    if rule.deleted:
        return None
    return (
        f"workspace {rule.workspace_path!r} is missing, but its run is not deleted: mount its storage, or "
        "delete the run"
    )


@dataclass
class _Application:
    """The application of one rule."""

    factory: SessionFactory
    rule: Any
    held: HeldLease
    places: Places
    asked_at: float = field(default_factory=time.monotonic)
    problem: str | None = None

    def apply(self) -> AppliedRule | None:
        """Take the rule, remove its files and record that; None where it may not be applied now."""
        removal = Removal()
        try:
            if not run_batch(self.factory, partial(_take, rule=self.rule, names=self.names())):
                return None
            removal = self.remove()
            record = partial(_record, rule=self.rule, removal=removal, problem=self.problem)
            not_counted = run_batch(self.factory, record)
            self.problem = self.problem or not_counted
        except DBAPIError as error:
            self.problem = reason_of(error)
        rule = self.rule
        return AppliedRule(rule.id_, rule.workflow_id, rule.workspace_files, removal, self.problem)

    def names(self) -> list[str]:
        """Return what the workspace is called: by the roots, and by runs in progress that overlap with it."""
        path = self.rule.workspace_path
        with self.factory() as session:
            used = session.connection().execute(_PATHS_IN_USE).scalars().all()
        return other_names(path) + [other for other in used if self.places.overlap(path, other)]

    def remove(self) -> Removal:
        """Remove what the rule names; :attr:`problem` tells what prevents it."""
        rule = self.rule
        try:
            removal = remove_matching(
                rule.workspace_path, rule.owner_id, rule.workspace_files, pace=self.pace
            )
        except (WorkspaceError, errors.StorageMissing) as error:
            self.problem = _missing(rule) if isinstance(error, MissingWorkspaceError) else str(error)
            return Removal()
        if removal.failed and self.problem is None:
            self.problem = f"{removal.failed} files could not be removed: {removal.first_error}"
        return removal

    def pace(self) -> None:
        """Stop the removal where a run has come to use the workspace, or where the database does not say."""
        self.held.check()
        if time.monotonic() - self.asked_at < SECONDS_BETWEEN_QUESTIONS:
            return
        try:
            path = self.rule.workspace_path
            parameters = {**_key_of(self.rule), "path": path, "names": self.names()}
            with self.factory() as session:
                goes_on = session.connection().scalar(_GOES_ON, parameters)
        except DBAPIError as error:
            self.problem, goes_on = reason_of(error), False
        if not goes_on:
            raise StopRemoval
        self.asked_at = time.monotonic()


def _take(session: Session, rule: Any, names: list[str]) -> bool:
    """Make a rule pending, if it may be applied now."""
    parameters = {**_key_of(rule), "path": rule.workspace_path, "names": names}
    if not session.connection().scalar(_LOCK_FREE, parameters):
        return False
    model, pending = WorkspaceRetentionRule, WorkspaceRetentionRuleStatus.pending
    key = rule.owner_id, rule.id_
    return transition(session, key, pending, model=model, on_conflict="report") is pending


def _key_of(rule: Any) -> dict[str, uuid.UUID]:
    """Return the parameters that name a rule."""
    return {"owner": rule.owner_id, "id": rule.id_}


def _record(session: Session, rule: Any, removal: Removal, problem: str | None) -> str | None:
    """Record what was removed; return why the freed space still counts, where it does."""
    not_counted = None
    of = {"rule": str(rule.id_), "workflow": str(rule.workflow_id)}
    details = {**of, "files": removal.files, "bytes": removal.bytes}
    session.add(AuditLog(owner_id=rule.owner_id, action=AuditLogAction.apply_retention, details=details))
    session.flush()
    unfinished = problem or ("stopped, because a run uses the workspace" if removal.stopped else None)
    message = f"{rule.workspace_files}: removed {removal.files} files, freed {removal.bytes} bytes"
    if unfinished:
        message += f"; {unfinished}"
    # The owner, the run or the rule can be deleted meanwhile. The audit row stays.
    with suppress(errors.NotFound):
        if removal.bytes:
            not_counted = _take_off(session, rule, removal.bytes)
        run = session.get(Workflow, (rule.owner_id, rule.workflow_id))
        if run is not None:
            add_note(session, run, "retention", message, details)
        transition(
            session,
            (rule.owner_id, rule.id_),
            WorkspaceRetentionRuleStatus.active if unfinished else WorkspaceRetentionRuleStatus.applied,
            model=WorkspaceRetentionRule,
            reason=unfinished,
            # A restart has inactivated it meanwhile, and so it stays.
            expected_status=WorkspaceRetentionRuleStatus.pending,
            on_conflict="report",
        )
    return not_counted


def _take_off(session: Session, rule: Any, freed: int) -> str | None:
    """Take freed bytes off what the run and its owner use; return why not, where others hold these rows.

    What was removed is recorded in any case.
    """
    try:
        with session.begin_nested():
            run = rule.owner_id, rule.workflow_id
            store_workflow_disk_quota(session, run, bytes_to_sum=-freed)
            update_users_disk_quota(session, rule.owner_id, bytes_to_sum=-freed)
    except DBAPIError as error:
        if sqlstates.sqlstate_of(error) not in TIMEOUTS:
            raise
        return f"{freed} freed bytes count until the next disk-usage-update: {reason_of(error)}"
    return None


_DUE = sa.text("""
    SELECT rule.id_, rule.owner_id, rule.workflow_id, rule.workspace_files, run.workspace_path,
           run.status = 'deleted' AS deleted
    FROM platform.workspace_retention_rule AS rule
    JOIN platform.workflow AS run ON run.owner_id = rule.owner_id AND run.id_ = rule.workflow_id
    WHERE rule.status IN ('active', 'pending') AND rule.apply_on <= now()
    ORDER BY rule.apply_on, rule.id_
    """)


def _alive(machine: states.Machine[Any]) -> str:
    # Literals, so that the planner sees the condition of a partial index.
    return ", ".join(f"'{status}'" for status in machine.alive)


def _used_by(machine: states.Machine[Any], link: str) -> str:
    """Return the query of the workspaces of runs with a session or service that has not ended."""
    return f"""
        SELECT run.workspace_path FROM platform.{machine.entity} AS part
        JOIN platform.workflow_{link} AS link ON link.owner_id = part.owner_id AND link.{link}_id = part.id_
        JOIN platform.workflow AS run ON run.owner_id = link.owner_id AND run.id_ = link.workflow_id
        WHERE part.status IN ({_alive(machine)})
    """


# The workspaces of runs that have not ended, or that have a session or service that has not.
_USED = f"""
    SELECT workspace_path FROM platform.workflow WHERE status IN ({_alive(states.WORKFLOW)})
    UNION {_used_by(states.INTERACTIVE_SESSION, "session")}
    UNION {_used_by(states.SERVICE, "service")}
"""

_PATHS_IN_USE = sa.text(_USED)

# A run of any owner sees these files if its workspace is the same directory, one above it or one in it.
# Paths are canonical, so the text tells.
_IN_USE = f"""
    EXISTS (
        SELECT FROM ({_USED}) AS other CROSS JOIN unnest(CAST(:names AS text[])) AS path
        WHERE starts_with(other.workspace_path || '/', path || '/')
           OR starts_with(path || '/', other.workspace_path || '/'))
"""

_FREE = f"""
    SELECT run.workspace_path = :path AND NOT {_IN_USE}
    FROM platform.workspace_retention_rule AS rule
    JOIN platform.workflow AS run ON run.owner_id = rule.owner_id AND run.id_ = rule.workflow_id
    WHERE rule.owner_id = :owner AND rule.id_ = :id
"""
# Locks the rule, so that a restart, which inactivates it, comes before or after, and is seen.
_LOCK_FREE = sa.text(f"{_FREE} FOR NO KEY UPDATE OF rule")
_GOES_ON = sa.text(f"{_FREE} AND rule.status = 'pending'")
