"""What REANA's server does: users and their tokens, the queue, limits, retention, its admin commands."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, StatementError

from platform_db import errors
from reana_db.models import (
    AuditLogAction,
    InteractiveSession,
    Resource,
    ResourceType,
    ResourceUnit,
    RunStatus,
    User,
    UserResource,
    UserToken,
    UserTokenStatus,
    UserTokenType,
    Workflow,
    WorkspaceRetentionRule,
    WorkspaceRetentionRuleStatus,
)
from reana_db.utils import get_default_quota_resource, update_workspace_retention_rules

# -- users and tokens


def test_a_request_is_authenticated_by_its_token(session: Any, user: User, other: User) -> None:
    found = session.query(UserToken).filter_by(token="ada's token", type_=UserTokenType.reana).one_or_none()

    assert found.user_ is user
    assert found.status == UserTokenStatus.active
    assert session.query(UserToken).filter_by(token="nobody's token").one_or_none() is None


def test_a_user_is_found_by_email_and_token_together(session: Any, user: User, other: User) -> None:
    def find(email: str, token: str) -> list[User]:
        by_email = session.query(User).filter_by(email=email)
        found: list[User] = by_email.join(User.tokens).filter_by(token=token, type_=UserTokenType.reana).all()
        return found

    assert find("ada@example.org", "ada's token") == [user]
    assert find("ada@example.org", "bob's token") == []


def test_an_administrator_grants_what_a_user_requests(session: Any, user: User) -> None:
    new = User(email="new@example.org", full_name="New", username="new")
    session.add(new)
    session.commit()
    assert (new.access_token, new.access_token_status) == (None, None)

    new.request_access_token()
    session.rollback()  # The request has committed already.
    assert new.access_token_status == UserTokenStatus.requested.name

    new.access_token = "granted"
    session.commit()
    assert new.access_token == new.active_token.token == "granted"
    assert [token.status for token in new.tokens] == [UserTokenStatus.active]

    new.active_token.status = UserTokenStatus.revoked
    session.commit()
    assert (new.access_token, new.access_token_status) == (None, "revoked")

    new.access_token = "another"
    session.commit()
    assert len(new.tokens) == 2
    assert new.latest_access_token is new.tokens[-1]


def test_a_second_active_token_is_refused(user: User) -> None:
    with pytest.raises(Exception, match="has already an active access token"):
        user.access_token = "another"


def test_a_user_who_exists_is_an_integrity_error(session: Any, user: User) -> None:
    session.add(User(email="ADA@example.org", access_token="another"))
    with pytest.raises(IntegrityError) as refused:
        session.commit()
    session.rollback()

    assert isinstance(refused.value, errors.UserExists)
    assert str(refused.value) == str(errors.UserExists())
    assert session.query(User).count() == 1


def test_users_are_imported_and_exported(session: Any) -> None:
    row = ["6b6a4a9e-0c0f-4a51-9d0c-b5a3a0b9c111", "eve@example.org", "eve's token", "eve", "Eve"]
    session.add(User(id_=row[0], email=row[1], access_token=row[2], username=row[3], full_name=row[4]))
    session.commit()

    for user in session.query(User).all():
        assert [str(user.id_), user.email, user.access_token, user.username, user.full_name] == row


@pytest.mark.parametrize("malformed", ["nonsense", ""])
def test_a_malformed_id_is_a_statement_error_that_spoils_nothing(
    session: Any, user: User, malformed: str
) -> None:
    assert user.full_name is None  # A transaction is open.
    with pytest.raises(StatementError):
        session.query(User).filter_by(id_=malformed).one_or_none()

    assert session.query(User).filter_by(id_=str(user.id_)).one_or_none() is user


# -- audit


def test_acts_are_audited_without_secrets_and_addresses(session: Any, user: User, other: User) -> None:
    details = {
        "source": "reana_admin",
        "user_id": str(other.id_),
        "user_email": other.email,
        "reana_admin": f"Token for user {other.id_} ({other.email}) granted.\n\nToken: top-secret",
    }
    user.log_action(AuditLogAction.grant_token, details)
    session.rollback()

    row = user.audit_logs[-1]
    assert row.action is AuditLogAction.grant_token
    assert row.details["user_id"] == str(other.id_)
    assert row.actor_id == user.id_
    assert "top-secret" not in str(row.details)
    assert other.email not in str(row.details)


# -- the queue


def test_a_submitted_run_is_queued_with_its_priority(session: Any, create: Callable[..., Any]) -> None:
    run = create()

    Workflow.update_workflow_status(session, run.id_, RunStatus.queued)
    run.complexity = [(5, 2), (5, 2)]
    session.commit()

    assert run.status == RunStatus.queued
    assert run.get_priority(400) == 95
    assert session.query(sa.func.count()).filter(Workflow.status == RunStatus.queued).scalar() == 1


def test_a_restart_clones_a_run_and_inactivates_the_rules_of_all_before(
    session: Any, create: Callable[..., Any]
) -> None:
    rules = [{"workspace_files": "**/*.root", "retention_days": 3}]
    run = create()
    run.set_workspace_retention_rules(rules)
    for status in (RunStatus.queued, RunStatus.pending, RunStatus.running, RunStatus.failed):
        Workflow.update_workflow_status(session, run.id_, status)
    assert [rule.status for rule in run.retention_rules] == [WorkspaceRetentionRuleStatus.active]
    assert not run.workspace_has_pending_retention_rules()

    clone = create(workspace_path=run.workspace_path, restart=True, run_number=run.run_number)
    run.inactivate_workspace_retention_rules()
    clone.set_workspace_retention_rules(rules)

    assert clone.get_full_workflow_name() == "analysis.1.1"
    assert [rule.status for rule in run.retention_rules] == [WorkspaceRetentionRuleStatus.inactive]
    assert [rule.status for rule in clone.retention_rules] == [WorkspaceRetentionRuleStatus.created]


# -- status


def test_the_status_command_counts(session: Any, create: Callable[..., Any]) -> None:
    run = create(status=RunStatus.running, git_repo="https://example.org/repo.git")
    create(restart=True)
    long_ago = datetime.now() - timedelta(hours=12)
    runs = session.query(Workflow)

    assert run.run_started_at > long_ago
    assert runs.filter(Workflow.run_started_at <= long_ago).filter(Workflow.updated <= long_ago).count() == 0
    assert runs.filter(Workflow.run_started_at <= datetime.now()).count() == 1
    assert runs.filter(Workflow.restart).count() == 1
    assert runs.filter(Workflow.git_repo != "").count() == 1
    not_active = [RunStatus.stopped, RunStatus.deleted, RunStatus.failed]
    assert session.query(InteractiveSession).filter(InteractiveSession.status.notin_(not_active)).count() == 0


# -- limits


def test_a_limit_of_0_is_unlimited(session: Any, user: User) -> None:
    disk = get_default_quota_resource(ResourceType.disk.name)
    row = session.query(UserResource).filter_by(user=user, resource=disk).one_or_none()
    assert row.quota_limit == 0
    assert not user.has_exceeded_quota()
    unlimited = session.query(UserResource.user_id).filter(UserResource.quota_limit == 0)
    assert session.query(User).filter(User.id_.in_(unlimited)).all() == [user]

    row.quota_limit, row.quota_used = 1000, 850
    session.commit()
    limited = (
        session.query(UserResource)
        .join(UserResource.resource)
        .filter(Resource.type_ == ResourceType.disk, UserResource.quota_limit != 0)
        .order_by(sa.desc(UserResource.quota_used * 100.0 / UserResource.quota_limit))
    )
    assert limited.all() == [row]
    assert user.get_quota_usage()["disk"] == {
        "usage": {"raw": 850, "human_readable": "850 Bytes"},
        "limit": {"raw": 1000, "human_readable": "1000 Bytes"},
        "health": "warning",
    }
    assert ResourceUnit.human_readable_unit(disk.unit, row.quota_limit) == "1000 Bytes"

    row.quota_used = 1000
    session.commit()
    assert user.has_exceeded_quota()

    row.quota_limit = 0
    session.commit()
    assert row.quota_limit == 0
    assert not user.has_exceeded_quota()
    assert "limit" not in user.get_quota_usage()["disk"]


def test_services_never_take_a_limit_of_nothing_for_none(session: Any, user: User) -> None:
    disk = get_default_quota_resource("disk")
    session.execute(
        sa.text("UPDATE platform.user_resource SET quota_limit = 0 WHERE resource_id = :id"), {"id": disk.id_}
    )
    session.commit()

    row = session.query(UserResource).filter_by(user_id=user.id_, resource_id=disk.id_).one()
    assert row.quota_limit == -1
    assert session.query(UserResource).filter(UserResource.quota_limit != 0).all() == [row]
    assert user.has_exceeded_quota()
    assert user.get_quota_usage()["disk"]["health"] == "critical"


def test_a_users_quota_has_what_reana_knows(user: User) -> None:
    assert set(user.get_quota_usage()) == {"cpu", "disk"}


# -- retention rules


def test_the_cronjob_applies_rules_whose_day_has_come(session: Any, create: Callable[..., Any]) -> None:
    run = create(status=RunStatus.running)
    run.set_workspace_retention_rules(
        [{"workspace_files": files, "retention_days": 0} for files in ("*.log", "*.tmp")]
    )
    Workflow.update_workflow_status(session, run.id_, RunStatus.finished)

    tomorrow = datetime.now() + timedelta(days=1)
    due = (
        session.query(WorkspaceRetentionRule)
        .join(Workflow)
        .filter(
            Workflow.owner_id == run.owner_id,
            WorkspaceRetentionRule.status == WorkspaceRetentionRuleStatus.active,
            WorkspaceRetentionRule.apply_on < tomorrow,
        )
    )
    assert due.count() == 2
    update_workspace_retention_rules(due, WorkspaceRetentionRuleStatus.pending)
    assert run.workspace_has_pending_retention_rules()

    applied, failed = session.query(WorkspaceRetentionRule).order_by(WorkspaceRetentionRule.workspace_files)
    before = failed.apply_on
    update_workspace_retention_rules([applied], WorkspaceRetentionRuleStatus.applied)
    update_workspace_retention_rules([failed], WorkspaceRetentionRuleStatus.active)

    assert applied.serialize()["status"] == "applied"
    assert failed.serialize() == {
        "id": str(failed.id_),
        "workspace_files": "*.tmp",
        "retention_days": 0,
        "apply_on": before.strftime("%Y-%m-%dT%H:%M:%S"),
        "status": "active",
    }
    assert [log.action.name for log in applied.audit_logs] == ["created", "active", "pending", "applied"]
    assert before.date() == date.today() + timedelta(days=1)


def test_rules_are_extended(session: Any, create: Callable[..., Any]) -> None:
    run = create(status=RunStatus.running)
    run.set_workspace_retention_rules([{"workspace_files": "*.log", "retention_days": 1}])
    run.activate_workspace_retention_rules()
    (rule,) = run.retention_rules
    apply_on = rule.apply_on

    rule.retention_days += 2
    rule.apply_on = apply_on + timedelta(days=2)
    session.commit()

    assert rule.apply_on == apply_on + timedelta(days=2)


def test_a_transition_of_rules_that_reana_does_not_know_is_refused(create: Callable[..., Any]) -> None:
    run = create()
    run.set_workspace_retention_rules([{"workspace_files": "*.log", "retention_days": 1}])
    with pytest.raises(errors.Refused, match="Cannot transition workspace retention rule"):
        update_workspace_retention_rules(run.retention_rules, WorkspaceRetentionRuleStatus.applied)
