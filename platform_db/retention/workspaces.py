"""Applying the retention rules of workspaces: removing the files that are due, and accounting for it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.database.session import SessionFactory
from platform_db.leases.tasks import HeldLease, lease
from platform_db.lifecycle.history import add_note
from platform_db.lifecycle.transitions import transition
from platform_db.models import AuditLog, AuditLogAction, Workflow, WorkspaceRetentionRule
from platform_db.quota import store_workflow_disk_quota, update_users_disk_quota
from platform_db.quota.batches import run_batch
from platform_db.states import WorkspaceRetentionRuleStatus
from platform_db.workspaces import MissingWorkspaceError, WorkspaceError, is_managed_workspace
from platform_db.workspaces.opening import require_storage
from platform_db.workspaces.paths import other_names
from platform_db.workspaces.removal import Removal, StopRemoval, remove_matching

LEASE = "retention apply"
# How long a run that comes to use a workspace may go unnoticed while files are removed there.
SECONDS_BETWEEN_QUESTIONS = 1.0


@dataclass(frozen=True)
class AppliedRule:
    """What applying one rule did.

    :param removal: what was removed; *stopped* where a run came to use the workspace meanwhile.
    :param problem: why it is not applied yet, where it is not; it is tried again the next time.
    """

    rule_id: uuid.UUID
    workflow_id: uuid.UUID
    pattern: str
    removal: Removal
    problem: str | None = None


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
        """Raise an error where a rule could not be applied.

        :raises errors.PartialFailure: says how many, and why the first.
        """
        problems = [rule for rule in self.rules if rule.problem]
        if problems:
            raise errors.PartialFailure(
                f"{len(problems)} of {len(self.rules)} rules could not be applied; the first, "
                f"{problems[0].rule_id}: {problems[0].problem}"
            )


def apply_retention_rules(
    factory: SessionFactory,
    *,
    dry_run: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> RetentionReport:
    """Apply the rules that are due: remove what their patterns name, and account for the freed space.

    Files are removed outside any transaction. A rule is *pending* meanwhile, and one that a killed run left
    so is taken up again. A rule waits while a run in progress, of any owner, uses its workspace, a directory
    in it or one above it; where such a run comes while files are removed, the rest of them stays. A rule of
    an unmanaged workspace (:func:`~platform_db.workspaces.is_managed_workspace`) removes nothing, and is a
    problem.

    :param dry_run: only tell which rules are due, also while they are applied.
    :raises errors.AlreadyRunning: another run of it is going on.
    """
    report = RetentionReport()
    with nullcontext(HeldLease()) if dry_run else lease(factory, LEASE) as held:
        with factory() as session:
            due = session.connection().execute(_DUE).all()
        for done, rule in enumerate(due):
            held.check()
            if dry_run:
                report.rules.append(
                    AppliedRule(rule.id_, rule.workflow_id, rule.workspace_files, Removal(), _obstacle(rule))
                )
            elif (applied := _apply(factory, rule, held)) is not None:
                report.rules.append(applied)
            if progress:
                progress(done + 1, len(due))
    return report


def _apply(factory: SessionFactory, rule: Any, held: HeldLease) -> AppliedRule | None:
    removal, problem = Removal(), _obstacle(rule)
    if problem is None:
        names = {"names": other_names(rule.workspace_path)}
        if not run_batch(factory, partial(_take, rule=rule, names=names)):
            return None
        removal, problem = _remove(factory, rule, names, held)
        run_batch(factory, partial(_record, rule=rule, removal=removal, problem=problem))
    return AppliedRule(rule.id_, rule.workflow_id, rule.workspace_files, removal, problem)


def _obstacle(rule: Any) -> str | None:
    """Return why nothing of this workspace may be removed now, whatever its runs do."""
    if not is_managed_workspace(rule.workspace_path, rule.owner_id):
        return f"workspace {rule.workspace_path!r} is unmanaged: it lies outside its owner's part of a root"
    try:
        require_storage(rule.workspace_path)
    except errors.StorageMissing as error:
        return str(error)
    return None


def _take(session: Session, rule: Any, names: dict[str, Any]) -> bool:
    """Make a rule pending, if it may be applied now."""
    parameters = {"id": rule.id_, "path": rule.workspace_path, **names}
    if not session.connection().execute(_FREE, parameters).scalar():
        return False
    status = transition(
        session,
        rule.id_,
        WorkspaceRetentionRuleStatus.pending,
        model=WorkspaceRetentionRule,
        on_conflict="report",
    )
    return status is WorkspaceRetentionRuleStatus.pending


def _remove(
    factory: SessionFactory, rule: Any, names: dict[str, Any], held: HeldLease
) -> tuple[Removal, str | None]:
    asked_at = time.monotonic()

    def pace() -> None:
        nonlocal asked_at
        held.check()
        if time.monotonic() - asked_at < SECONDS_BETWEEN_QUESTIONS:
            return
        with factory() as session:
            if not session.connection().execute(_GOES_ON, {"id": rule.id_, **names}).scalar():
                raise StopRemoval
        asked_at = time.monotonic()

    try:
        removal = remove_matching(rule.workspace_path, rule.owner_id, rule.workspace_files, pace=pace)
    except MissingWorkspaceError:
        return Removal(), None  # It was removed already, with more than the rule asks for.
    except (WorkspaceError, errors.StorageMissing) as error:
        return Removal(), str(error)
    if removal.failed:
        return removal, f"{removal.failed} files could not be removed: {removal.first_error}"
    return removal, None


def _record(session: Session, rule: Any, removal: Removal, problem: str | None) -> None:
    details = {
        "rule": str(rule.id_),
        "workflow": str(rule.workflow_id),
        "files": removal.files,
        "bytes": removal.bytes,
    }
    session.add(AuditLog(owner_id=rule.owner_id, action=AuditLogAction.apply_retention, details=details))
    session.flush()
    unfinished = problem or (_STOPPED if removal.stopped else None)
    message = f"{rule.workspace_files}: removed {removal.files} files, freed {removal.bytes} bytes"
    # The owner, the run or the rule can be deleted meanwhile. The audit row stays.
    with suppress(errors.NotFound):
        if removal.bytes:
            store_workflow_disk_quota(session, rule.workflow_id, bytes_to_sum=-removal.bytes)
            update_users_disk_quota(session, rule.owner_id, bytes_to_sum=-removal.bytes)
        run = session.get(Workflow, (rule.owner_id, rule.workflow_id))
        if run is not None:
            add_note(
                session, run, "retention", f"{message}; {unfinished}" if unfinished else message, details
            )
        transition(
            session,
            rule.id_,
            WorkspaceRetentionRuleStatus.active if unfinished else WorkspaceRetentionRuleStatus.applied,
            model=WorkspaceRetentionRule,
            reason=unfinished,
            # A restart has inactivated it meanwhile, and so it stays.
            expected_status=WorkspaceRetentionRuleStatus.pending,
            on_conflict="report",
        )


_DUE = sa.text(
    """
    SELECT rule.id_, rule.owner_id, rule.workflow_id, rule.workspace_files, run.workspace_path
    FROM platform.workspace_retention_rule AS rule
    JOIN platform.workflow AS run ON run.owner_id = rule.owner_id AND run.id_ = rule.workflow_id
    WHERE rule.status IN ('active', 'pending') AND rule.apply_on <= now()
    ORDER BY rule.apply_on, rule.id_
    """
)

# A run of any owner sees these files if its workspace is the same directory, one above it or one in it.
# Paths are canonical, so the text tells.
_IN_USE = """
    EXISTS (
        SELECT FROM platform.workflow AS other CROSS JOIN unnest(CAST(:names AS text[])) AS path
        WHERE other.status IN ('created', 'queued', 'pending', 'running')
          AND (starts_with(other.workspace_path || '/', path || '/')
               OR starts_with(path || '/', other.workspace_path || '/')))
"""

# Locks the rule, so that a restart, which inactivates it, comes before or after, and is seen.
_FREE = sa.text(
    f"""
    SELECT run.workspace_path = :path AND NOT {_IN_USE}
    FROM platform.workspace_retention_rule AS rule
    JOIN platform.workflow AS run ON run.owner_id = rule.owner_id AND run.id_ = rule.workflow_id
    WHERE rule.id_ = :id
    FOR NO KEY UPDATE OF rule
    """
)

_GOES_ON = sa.text(
    f"""
    SELECT rule.status = 'pending' AND NOT {_IN_USE}
    FROM platform.workspace_retention_rule AS rule WHERE rule.id_ = :id
    """
)

_STOPPED = "stopped, because a run uses the workspace"
