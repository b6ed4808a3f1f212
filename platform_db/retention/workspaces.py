"""Applying the retention rules of workspaces: removing the files that are due, and accounting for it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
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
from platform_db.states import WorkspaceRetentionRuleStatus
from platform_db.workspaces import MissingWorkspaceError, WorkspaceError
from platform_db.workspaces.removal import Removal, StopRemoval, remove_matching

LEASE = "retention apply"


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
    so is taken up again. A rule whose workspace is in use by a run in progress waits; where such a run comes
    while files are removed, the rest of them stays.

    :param dry_run: only tell which rules are due.
    :raises errors.AlreadyRunning: another run of it is going on.
    """
    report = RetentionReport()
    with lease(factory, LEASE) as held:
        with factory() as session:
            due = session.connection().execute(_DUE).all()
        for done, rule in enumerate(due):
            held.check()
            if dry_run:
                report.rules.append(AppliedRule(rule.id_, rule.workflow_id, rule.workspace_files, Removal()))
            elif (applied := _apply(factory, rule, held)) is not None:
                report.rules.append(applied)
            if progress:
                progress(done + 1, len(due))
    return report


def _apply(factory: SessionFactory, rule: Any, held: HeldLease) -> AppliedRule | None:
    with factory() as session, session.begin():
        if not session.connection().execute(_FREE, {"id": rule.id_}).scalar():
            return None
        status = transition(
            session,
            rule.id_,
            WorkspaceRetentionRuleStatus.pending,
            model=WorkspaceRetentionRule,
            on_conflict="report",
        )
        if status is not WorkspaceRetentionRuleStatus.pending:
            return None

    def pace() -> None:
        held.check()
        with factory() as session:
            if not session.connection().execute(_GOES_ON, {"id": rule.id_}).scalar():
                raise StopRemoval

    problem = None
    try:
        removal = remove_matching(rule.workspace_path, rule.workspace_files, pace=pace)
        if removal.failed:
            problem = f"{removal.failed} files could not be removed: {removal.first_error}"
    except MissingWorkspaceError:
        removal = Removal()  # It was removed already, with more than the rule asks for.
    except WorkspaceError as error:
        removal, problem = Removal(), str(error)
    with factory() as session, session.begin():
        _record(session, rule, removal, problem)
    return AppliedRule(rule.id_, rule.workflow_id, rule.workspace_files, removal, problem)


def _record(session: Session, rule: Any, removal: Removal, problem: str | None) -> None:
    unfinished = problem or (_STOPPED if removal.stopped else None)
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
    details = {
        "rule": str(rule.id_),
        "workflow": str(rule.workflow_id),
        "files": removal.files,
        "bytes": removal.bytes,
    }
    run = session.get_one(Workflow, (rule.owner_id, rule.workflow_id))
    message = f"{rule.workspace_files}: removed {removal.files} files, freed {removal.bytes} bytes"
    add_note(session, run, "retention", f"{message}; {unfinished}" if unfinished else message, details)
    session.add(AuditLog(owner_id=rule.owner_id, action=AuditLogAction.apply_retention, details=details))
    session.flush()
    if removal.bytes:
        store_workflow_disk_quota(session, run, bytes_to_sum=-removal.bytes)
        update_users_disk_quota(session, rule.owner_id, bytes_to_sum=-removal.bytes)


_DUE = sa.text(
    """
    SELECT rule.id_, rule.owner_id, rule.workflow_id, rule.workspace_files, run.workspace_path
    FROM platform.workspace_retention_rule AS rule
    JOIN platform.workflow AS run ON run.owner_id = rule.owner_id AND run.id_ = rule.workflow_id
    WHERE rule.status IN ('active', 'pending') AND rule.apply_on <= now()
    ORDER BY rule.apply_on, rule.id_
    """
)

_IN_USE = """
    EXISTS (
        SELECT FROM platform.workflow AS run JOIN platform.workflow AS other
          ON other.owner_id = run.owner_id AND other.workspace_path = run.workspace_path
        WHERE run.owner_id = rule.owner_id AND run.id_ = rule.workflow_id
          AND other.status IN ('created', 'queued', 'pending', 'running'))
"""

# Locks the rule, so that a restart, which inactivates it, comes before or after, and is seen.
_FREE = sa.text(
    f"""
    SELECT NOT {_IN_USE} FROM platform.workspace_retention_rule AS rule WHERE rule.id_ = :id
    FOR NO KEY UPDATE
    """
)

_GOES_ON = sa.text(
    f"""
    SELECT rule.status = 'pending' AND NOT {_IN_USE}
    FROM platform.workspace_retention_rule AS rule WHERE rule.id_ = :id
    """
)

_STOPPED = "stopped, because a run uses the workspace"
