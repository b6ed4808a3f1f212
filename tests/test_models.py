"""The models' own members: what a platform's services call."""

from __future__ import annotations

import re
import uuid
from datetime import datetime, timedelta, timezone

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from platform_db import errors, settings
from platform_db.jobs import should_cleanup_job
from platform_db.models import (
    AuditLog,
    AuditLogAction,
    InteractiveSession,
    Job,
    JobCache,
    Resource,
    ResourceUnit,
    RunStatus,
    Service,
    User,
    UserResource,
    UserToken,
    UserTokenType,
    Workflow,
    WorkflowResource,
    WorkflowSession,
    register_audit_action,
)
from platform_db.states import JobStatus, WorkspaceRetentionRuleStatus
from tests.factories import make_run, make_user

pytestmark = pytest.mark.usefixtures("secret_key")


def test_a_new_user_gets_a_token_and_the_default_limits(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLATFORM_DB_DEFAULT_QUOTA_DISK_LIMIT", "0")
    monkeypatch.setenv("PLATFORM_DB_DEFAULT_QUOTA_CPU_LIMIT", "3600000")
    settings.reset_settings()
    user = make_user(session, access_token="a-token")
    session.expire_all()
    assert (user.access_token, user.access_token_status) == ("a-token", "active")
    assert user.active_token is user.latest_access_token
    usage = user.get_quota_usage()
    assert usage["cpu"] == {
        "usage": {"raw": 0, "human_readable": "0s"},
        "limit": {"raw": 3600000, "human_readable": "1h"},
        "health": "healthy",
    }
    assert usage["disk"]["health"] == "critical"
    assert user.has_exceeded_quota()


def test_no_default_limit_is_unlimited(session: Session) -> None:
    user = make_user(session)
    assert user.get_quota_usage() == {
        "cpu": {"usage": {"raw": 0, "human_readable": "0s"}},
        "disk": {"usage": {"raw": 0, "human_readable": "0 Bytes"}},
        "database": {"usage": {"raw": 0, "human_readable": "0 Bytes"}},
    }
    assert not user.has_exceeded_quota()


@pytest.mark.parametrize(
    ("used", "health"), [(79, "healthy"), (80, "warning"), (99, "warning"), (100, "critical")]
)
def test_health_tells_how_near_the_limit_is(session: Session, used: int, health: str) -> None:
    user = make_user(session)
    for resource in user.resources:
        resource.quota_limit, resource.quota_used = 100, used
    session.commit()
    assert user.get_quota_usage()["disk"]["health"] == health
    assert user.has_exceeded_quota() == (used >= 100)


def test_a_resource_that_came_later_is_given_on_request(session: Session) -> None:
    user = make_user(session)
    session.add(Resource(name="archive", type_="disk", unit=ResourceUnit.bytes_, title="Archive"))
    session.flush()
    user.initialize_user_quota_limits()
    session.expire(user)
    assert len(user.resources) == 4


def test_default_resources_are_created_once(session: Session) -> None:
    assert Resource.initialise_default_resources(session) == []
    session.execute(sa.delete(Resource))
    assert Resource.initialise_default_resources(session) == [
        "database storage",
        "processing time",
        "shared storage",
    ]


def test_emails_and_identities_are_unique_and_whole(session: Session) -> None:
    make_user(session, email="Jane@example.org", idp_issuer="https://idp", idp_subject="1")
    for values, error in (
        ({"email": "jane@EXAMPLE.org"}, errors.UserExists),
        ({"email": "other@example.org", "idp_issuer": "https://idp", "idp_subject": "1"}, errors.UserExists),
        ({"email": "half@example.org", "idp_issuer": "https://idp"}, sa.exc.IntegrityError),
        ({"email": ""}, sa.exc.IntegrityError),
    ):
        session.add(User(**values))
        with pytest.raises(error):
            session.flush()
        session.rollback()


def test_requesting_and_granting_an_access_token(session: Session) -> None:
    user = make_user(session)
    assert (user.access_token, user.access_token_status) == (None, None)
    requested = user.request_access_token()
    session.commit()
    assert user.access_token_status == "requested"
    with pytest.raises(errors.TokenError, match="has already requested an access token"):
        user.request_access_token()
    user.access_token = "granted"
    session.commit()
    assert user.active_token is requested
    assert user.access_token == "granted"
    with pytest.raises(errors.TokenError, match="has already an active access token"):
        user.access_token = "another"
    with pytest.raises(errors.TokenError, match="has already an active access token"):
        user.request_access_token()
    of_user = sa.select(AuditLog.action).where(AuditLog.owner_id == user.id_).order_by(AuditLog.created)
    assert session.scalars(of_user).all() == ["create_user", "request_token", "grant_token"]
    requested.expires_at = sa.func.statement_timestamp()
    session.commit()
    assert (user.access_token, user.access_token_status) == (None, "expired")


def test_an_access_token_is_read_without_the_many_of_before(session: Session) -> None:
    user = make_user(session, access_token="own")
    revoked = {"owner_id": user.id_, "type_": "access", "status": "revoked"}
    session.execute(sa.insert(UserToken), [revoked] * 50)
    session.commit()
    assert (user.access_token, user.access_token_status) == ("own", "revoked")
    assert len([row for row in session if isinstance(row, UserToken)]) <= 2, "that one and the latest"


def test_a_second_active_access_token_is_refused_by_the_database_too(session: Session) -> None:
    user = make_user(session, access_token="one")
    session.add(UserToken(owner_id=user.id_, type_=UserTokenType.access, status="active", token="two"))
    with pytest.raises(errors.TokenError, match="has already an active access token"):
        session.flush()


def test_an_active_token_has_a_value(session: Session) -> None:
    user = make_user(session)
    session.add(UserToken(owner_id=user.id_, type_=UserTokenType.webhook, status="active"))
    with pytest.raises(sa.exc.IntegrityError, match="active_has_value"):
        session.flush()


def test_only_known_actions_are_recorded(session: Session) -> None:
    user = make_user(session)
    with pytest.raises(errors.UnknownAction, match="'open_door'"):
        user.log_action("open_door")
    user.log_action(register_audit_action("close_door"), {"door": 1})
    user.log_action(AuditLogAction.grant_token)
    session.commit()
    rows = session.scalars(sa.select(AuditLog).order_by(AuditLog.created)).all()
    assert [(row.action, row.details) for row in rows] == [
        ("create_user", None),
        ("close_door", {"door": 1}),
        ("grant_token", None),
    ]


def test_a_workflow_takes_its_positional_arguments_and_defaults(session: Session) -> None:
    owner, id_ = make_user(session), uuid.uuid4()
    run = Workflow(id_, "analysis", owner.id_, {"steps": []}, "yadage", "started\n")
    session.add(run)
    session.commit()
    assert run.workspace_path.endswith(f"/users/{owner.id_}/workflows/{id_}")
    assert (run.status, run.get_specification(), run.get_input_parameters()) == (
        RunStatus.created,
        {"steps": []},
        {},
    )
    assert (run.logs, run.git_ref, run.job_progress, run.labels) == ("started\n", "", {}, {})
    assert run.get_full_workflow_name() == "analysis.1"


def test_a_workflow_takes_all_its_arguments_by_place(session: Session) -> None:
    owner = make_user(session)
    git = ("main", "https://git.example.org/a.git", "gitlab")
    arguments = (None, "analysis", owner.id_, {}, "serial", "", {"n": 1}, {"cache": "on"}, "queued", [[1, 2]])
    run = Workflow(*arguments, *git, "/data/a", False, "7", "https://launch.example.org")
    session.add(run)
    session.commit()
    assert (run.get_input_parameters(), run.operational_options) == ({"n": 1}, {"cache": "on"})
    assert (run.status, run.complexity, run.run_number) == (RunStatus.queued, [[1, 2]], "7")
    assert (run.git_ref, run.git_repo, run.git_provider) == git
    assert (run.workspace_path, run.launcher_url) == ("/data/a", "https://launch.example.org")


@pytest.mark.parametrize("malformed", ["nonsense", 7, b"bytes", ["list"]])
def test_a_malformed_id_is_refused_before_it_reaches_the_server(malformed: object) -> None:
    refused = re.escape(f"{malformed!r} is not a valid owner id")
    with pytest.raises(errors.InvalidIdentifier, match=refused):
        Workflow(name="x", owner_id=malformed, type_="serial", specification={})


def test_lists_do_not_load_specifications(session: Session, session_factory: sessionmaker[Session]) -> None:
    make_run(session, make_user(session), specification={"large": "x" * 100_000})
    with session_factory() as other:
        run = other.scalars(sa.select(Workflow)).one()
        assert "specification" in sa.inspect(run).unloaded
        assert run.get_specification()["large"].startswith("xxx")


def test_logs_keep_what_programs_print(session: Session) -> None:
    run = make_run(session, make_user(session), logs="one\n")
    run.append_logs("two \N{SNOWMAN}\n")
    run.append_logs(b"\xff\x00raw\n")
    run.append_logs("\ud800")
    session.commit()
    assert run.logs == "one\ntwo \N{SNOWMAN}\n\\xff\x00raw\n\\xed\\xa0\\x80"
    job = Job(workflow_id=run.id_, job_name="step")
    session.add(job)
    session.flush()
    job.append_logs("of the job")
    assert job.logs == "of the job"
    assert "of the job" not in run.logs


def test_a_child_takes_its_owner_from_its_parent(session: Session) -> None:
    run = make_run(session, make_user(session))
    job = Job(workflow_id=run.id_)
    cached = JobCache(job_id=job.id_, parameters="p" * 10_000, workspace_hash="h", result_path="/r")
    session.add_all([job, cached])
    session.commit()
    assert job.owner_id == cached.owner_id == run.owner_id
    assert session.get(Job, job.id_) is job
    assert run.jobs == [job]
    assert job.cached == [cached]


def test_the_job_cache_is_unique_per_owner_and_content(session: Session) -> None:
    run = make_run(session, make_user(session))
    job = Job(workflow_id=run.id_)
    session.add(job)
    session.commit()
    for values in ({"parameters": "a", "workspace_hash": "b"}, {"parameters": "ab", "workspace_hash": ""}):
        session.add(JobCache(job_id=job.id_, result_path="/r", **values))
    session.commit()
    session.add(JobCache(job_id=job.id_, result_path="/other", parameters="a", workspace_hash="b"))
    with pytest.raises(sa.exc.IntegrityError, match="uq_job_cache_owner_id_digest"):
        session.flush()


def test_a_tenants_rows_cannot_hang_on_anothers(session: Session) -> None:
    run, stranger = make_run(session, make_user(session)), make_user(session)
    session.add(Job(workflow_id=run.id_, owner_id=stranger.id_))
    with pytest.raises(sa.exc.IntegrityError, match="fk_job_owner_id_workflow_id"):
        session.flush()


def test_sessions_and_services(session: Session) -> None:
    owner = make_user(session)
    run = make_run(session, owner)
    notebook = InteractiveSession(name="n", path="/n", owner_id=owner.id_, secret="open sesame")
    service = Service(name="dask", owner_id=owner.id_, uri="tcp://scheduler:8786")
    session.add_all([notebook, service])
    session.flush()
    session.add(WorkflowSession(workflow_id=run.id_, session_id=notebook.id_))
    service.append_logs("ready\n")
    session.commit()
    assert notebook.secret == "open sesame"
    assert notebook.workflows == [run]
    assert service.logs == "ready\n"
    notebook.status = RunStatus.running
    session.commit()
    assert notebook.run_started_at is not None
    with pytest.raises(errors.InvalidTransition):
        notebook.status = RunStatus.created
        session.flush()


def test_retention_rules_follow_the_run(session: Session) -> None:
    owner = make_user(session)
    run = make_run(session, owner, status="running")
    run.set_workspace_retention_rules([{"workspace_files": "*.tmp", "retention_days": 3}])
    session.commit()
    run.set_workspace_retention_rules([{"workspace_files": "*.tmp", "retention_days": 5}])
    session.commit()
    (rule,) = run.retention_rules
    assert (rule.status, rule.apply_on) == (WorkspaceRetentionRuleStatus.created, None)

    Workflow.update_workflow_status(session, run.id_, RunStatus.finished, "done\n", "all steps passed")
    session.commit()
    session.expire_all()
    today = datetime.now(timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)
    assert rule.status is WorkspaceRetentionRuleStatus.active
    assert rule.apply_on in (today + timedelta(days=6), today + timedelta(days=7))
    assert run.logs == "done\n"
    assert not run.workspace_has_pending_retention_rules()

    restart = make_run(session, owner, restart=True, workspace_path=run.workspace_path)
    session.expire_all()
    assert rule.status is WorkspaceRetentionRuleStatus.inactive
    assert restart.run_number == "1.1"
    assert [log.status.value for log in rule.audit_logs] == ["created", "created", "active", "inactive"]


def test_retention_rules_can_be_switched_by_hand(session: Session) -> None:
    run = make_run(session, make_user(session))
    run.set_workspace_retention_rules([{"workspace_files": "*", "retention_days": 0}])
    run.activate_workspace_retention_rules()
    assert run.retention_rules[0].status is WorkspaceRetentionRuleStatus.active
    run.inactivate_workspace_retention_rules()
    assert run.retention_rules[0].status is WorkspaceRetentionRuleStatus.inactive


def test_priorities(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLATFORM_DB_MAX_CONCURRENT_WORKFLOWS", "2")
    settings.reset_settings()
    owner = make_user(session)
    run = make_run(session, owner, complexity=[[2, 10], [1, 5]])
    assert run.get_complexity_priority(100) == 75
    assert run.get_priority(100) == 75
    make_run(session, owner, status="running")
    assert owner.get_workflow_overload_priority() == 0.55
    assert run.get_priority(100) == 41
    make_run(session, owner, status="pending")
    assert owner.get_workflow_overload_priority() == 0.1


def test_quota_usage_of_a_run(session: Session) -> None:
    run = make_run(session, make_user(session))
    disk = session.scalars(sa.select(Resource).where(Resource.type_ == "disk")).one()
    session.add(WorkflowResource(workflow_id=run.id_, resource_id=disk.id_, quota_used=35 * 1024))
    session.commit()
    assert run.get_quota_usage() == {"disk": {"usage": {"raw": 35840, "human_readable": "35 KiB"}}}
    with pytest.raises(sa.exc.IntegrityError, match="used_not_negative"):
        session.execute(sa.update(UserResource).values(quota_used=-1))


@pytest.mark.parametrize(
    ("statuses", "cleaned"), [("", True), ("failed", False), ("failed, stopped", False), ("finished", True)]
)
def test_jobs_are_kept_alive_by_status(monkeypatch: pytest.MonkeyPatch, statuses: str, cleaned: bool) -> None:
    monkeypatch.setenv("PLATFORM_DB_KEEP_ALIVE_JOBS_WITH_STATUSES", statuses)
    settings.reset_settings()
    assert JobStatus.should_cleanup_job(JobStatus.failed) == cleaned
    assert should_cleanup_job("failed") == should_cleanup_job(JobStatus.failed) == cleaned


def test_updated_moves_with_any_change(session: Session) -> None:
    user = make_user(session)
    before = user.updated
    session.commit()
    session.execute(sa.text("UPDATE platform.user_ SET full_name = 'Jane'"))
    session.commit()
    assert user.updated > before


def test_a_representation_shows_ids_only(session: Session) -> None:
    user = make_user(session, access_token="secret-value")
    assert repr(user) == f"<User {user.id_}>"
    assert "secret-value" not in repr(user.active_token)


def test_owners_are_found_through_new_parents_in_any_order(session: Session) -> None:
    owner = make_user(session)
    run = Workflow(name="new", type_="serial", specification={})
    owner.workflows.append(run)
    job = Job(workflow=run)
    by_id = Job(workflow_id=run.id_)
    caches = [
        JobCache(job_id=job.id_, parameters="a", workspace_hash="", result_path="/"),
        JobCache(job_id=by_id.id_, parameters="b", workspace_hash="", result_path="/"),
    ]
    session.add_all([*caches, by_id, job])
    session.commit()
    assert {row.owner_id for row in (run, job, by_id, *caches)} == {owner.id_}


def test_a_child_of_nobody_is_refused(session: Session) -> None:
    nobody = uuid.uuid4()
    session.add(Job(workflow_id=nobody))
    with pytest.raises(errors.NotFound, match=f"no Workflow {nobody}"):
        session.flush()


def test_a_retention_date_moves_with_its_days(session: Session) -> None:
    run = make_run(session, make_user(session), status="running")
    run.set_workspace_retention_rules([{"workspace_files": "*", "retention_days": 1}])
    Workflow.update_workflow_status(session, run.id_, RunStatus.finished)
    (rule,) = run.retention_rules
    before = rule.apply_on
    run.set_workspace_retention_rules([{"workspace_files": "*", "retention_days": 100}])
    session.commit()
    assert rule.apply_on - before == timedelta(days=99)
    rule.retention_days = 2147483647
    with pytest.raises(sa.exc.IntegrityError, match="days_within_a_century"):
        session.flush()


def test_a_time_can_be_set_anew(session: Session) -> None:
    run = make_run(session, make_user(session), status="finished", run_finished_at="2020-01-01T00:00:00Z")
    run.update_workflow_timestamp(RunStatus.finished)
    session.commit()
    assert run.run_finished_at.year > 2020


def test_what_exists_already_is_told(session: Session) -> None:
    owner = make_user(session, email="same@example.org")
    make_run(session, owner, run_number="3")
    session.add(Workflow(name="analysis", owner_id=owner.id_, type_="s", specification={}, run_number="3"))
    with pytest.raises(errors.RunNumberError, match="has this number already"):
        session.flush()
    session.rollback()
    session.add(User(email="SAME@example.org"))
    with pytest.raises(errors.UserExists):
        session.flush()
