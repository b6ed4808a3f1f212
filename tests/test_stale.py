"""What the library or a trigger changes, the session's objects show at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors, quota, settings, tokens
from platform_db.lifecycle import transition, transition_many
from platform_db.models import (
    User,
    UserResource,
    UserToken,
    UserWorkflow,
    Workflow,
    WorkflowResource,
    WorkspaceRetentionRule,
)
from platform_db.states import RunStatus
from platform_db.tokens import grant, issue, request, revoke
from platform_db.workflows import share_workflow, unshare_workflow, update_workflow_status
from tests.factories import make_run, make_user

WORKSPACE = "/var/workspaces/shared"


@pytest.fixture
def owner(session: Session) -> User:
    return make_user(session)


def make_rule(session: Session, run: Workflow) -> WorkspaceRetentionRule:
    rule = WorkspaceRetentionRule(workflow_id=run.id_, workspace_files="*.root", retention_days=3)
    session.add(rule)
    session.commit()
    assert rule.status == "created"
    return rule


def total(session: Session, user: User, type_: str) -> UserResource:
    """Return the object that the session holds, with its values loaded."""
    session.refresh(user)
    (found,) = (row for row in user.resources if row.resource.type_ == type_)
    return found


def test_rules_of_a_run_that_ends_and_is_restarted(session: Session, owner: User) -> None:
    run = make_run(session, owner, status="running")
    rule = make_rule(session, run)
    transition(session, run, "finished")
    assert rule.status == "active"
    assert rule.apply_on is not None
    transition(session, run.id_, "running", model=Workflow)
    assert rule.status == "inactive"


def test_rules_of_many_runs(session: Session, owner: User) -> None:
    runs = [make_run(session, user, status="running") for user in (owner, make_user(session))]
    rules = [make_rule(session, run) for run in runs]
    transition_many(session, [run.id_ for run in runs], "failed", model=Workflow)
    assert [rule.status for rule in rules] == ["active", "active"]


def test_rules_of_a_run_whose_status_is_set(session: Session, owner: User) -> None:
    run = make_run(session, owner, status="running")
    rule = make_rule(session, run)
    run.status = RunStatus.finished
    session.flush()
    assert rule.status == "active"


def test_rules_of_a_run_that_shares_the_workspace(session: Session, owner: User) -> None:
    ended = make_run(session, owner, name="a", status="finished", workspace_path=WORKSPACE)
    other = make_run(session, owner, name="b", status="running", workspace_path=WORKSPACE)
    rule = make_rule(session, other)
    transition(session, ended, "running")
    assert rule.status == "inactive"


def test_rules_after_a_savepoint_is_taken_back(session: Session, owner: User) -> None:
    run = make_run(session, owner, status="running")
    rule = make_rule(session, run)
    savepoint = session.begin_nested()
    transition(session, run, "finished")
    assert rule.status == "active"
    savepoint.rollback()
    assert rule.status == "created"


def test_the_shares_of_a_run(session: Session, owner: User) -> None:
    run, friend = make_run(session, owner), make_user(session)
    assert run.shares == []
    share_workflow(session, run, friend)
    assert [share.user_id for share in run.shares] == [friend.id_]
    unshare_workflow(session, run, friend)
    assert run.shares == []


def test_a_share_that_is_given_again(session: Session, owner: User) -> None:
    run, friend = make_run(session, owner), make_user(session)
    share_workflow(session, run, friend, message="look")
    share = session.scalars(sa.select(UserWorkflow)).one()
    assert share.message == "look"
    share_workflow(session, run, friend, message="look again")
    assert share.message == "look again"


def test_limits_and_totals(session: Session, owner: User) -> None:
    disk = total(session, owner, "disk")
    quota.set_limit(session, owner, "disk", 1000)
    assert disk.quota_limit == 1000
    reservation = quota.reserve(session, owner, "disk", 100)
    assert disk.quota_reserved == 100
    quota.commit_reservation(session, reservation)
    assert (disk.quota_reserved, disk.quota_used) == (0, 100)
    quota.release(session, quota.reserve(session, owner.id_, "disk", 10))
    assert disk.quota_reserved == 0
    quota.update_users_disk_quota(session, owner.id_, bytes_to_sum=7)
    assert disk.quota_used == 107


def test_totals_whose_reservations_expired(session: Session, owner: User) -> None:
    disk, cpu = total(session, owner, "disk"), total(session, owner, "cpu")
    quota.set_limit(session, owner, "disk", 10)
    quota.reserve(session, owner, "disk", 10, ttl=0)
    quota.reserve(session, owner, "cpu", 5, ttl=0)
    assert (disk.quota_reserved, cpu.quota_reserved) == (10, 5)
    with pytest.raises(errors.QuotaExceeded):
        quota.reserve(session, owner.id_, "disk", 11)
    assert (disk.quota_reserved, cpu.quota_reserved) == (0, 0)


def figure_of(session: Session, run: Workflow) -> WorkflowResource:
    """Return the object that the session holds, with its values loaded."""
    return session.scalars(sa.select(WorkflowResource).where(WorkflowResource.workflow_id == run.id_)).one()


def test_figures_of_a_workspace_that_runs_share(session: Session, owner: User, tmp_path: Path) -> None:
    first, second = (make_run(session, owner, workspace_path=str(tmp_path)) for _ in range(2))
    quota.store_workflow_disk_quota(session, first, bytes_to_sum=100)
    sibling, disk = figure_of(session, second), total(session, owner, "disk")
    assert sibling.quota_used == 100
    quota.store_workflow_disk_quota(session, first.id_, bytes_to_sum=7)
    assert sibling.quota_used == 107
    quota.update_users_disk_quota(session, owner.id_)
    assert disk.quota_used == 107
    (tmp_path / "data").write_bytes(b"x" * 5000)
    measured = quota.store_workflow_disk_quota(session, first.id_).quota_used
    assert sibling.quota_used == disk.quota_used == measured > 5000


def test_totals_that_get_the_default_period(
    session: Session, owner: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = total(session, owner, "cpu")
    assert cpu.quota_period_months is None
    monkeypatch.setenv("PLATFORM_DB_DEFAULT_QUOTA_CPU_PERIOD_RESET_MONTHS", "3")
    settings.reset_settings()
    quota.initialise_default_periods(session, cpu.resource)
    assert cpu.quota_period_months == 3
    monkeypatch.undo()
    settings.reset_settings()


def test_figures_of_processing_time(session: Session, owner: User) -> None:
    run = make_run(session, owner, status="running")
    session.execute(
        sa.text("UPDATE platform.workflow SET run_started_at = now() - interval '1 hour' WHERE id_ = :id"),
        {"id": run.id_},
    )
    session.commit()
    cpu = total(session, owner, "cpu")
    update_workflow_status(session, run.id_, "finished", quota_types=["cpu"])
    assert cpu.quota_used >= 3_600_000
    figure = session.scalars(sa.select(WorkflowResource).where(WorkflowResource.workflow_id == run.id_)).one()
    session.execute(
        sa.text("UPDATE platform.workflow SET run_started_at = now() - interval '2 hours' WHERE id_ = :id"),
        {"id": run.id_},
    )
    assert figure.quota_used < 7_200_000
    quota.update_users_cpu_quota(session, owner.id_)
    assert figure.quota_used >= 7_200_000
    assert cpu.quota_used == figure.quota_used


def test_tokens_that_are_granted_and_revoked_by_id(session: Session, owner: User, secret_key: str) -> None:
    token = request(session, owner)
    assert token.status == "requested"
    value = grant(session, owner.id_)
    assert token.status == "active"
    assert tokens.find_token(session, value) is token
    assert revoke(session, token.id_)
    assert token.status == "revoked"
    personal = issue(session, owner, type_="personal", name="laptop")
    found = session.scalars(sa.select(UserToken).where(UserToken.name == "laptop")).one()
    savepoint = session.begin_nested()
    revoke(session, found.id_)
    savepoint.rollback()
    assert found.status == "active"
    assert tokens.authenticate(session, personal).token_id == found.id_
