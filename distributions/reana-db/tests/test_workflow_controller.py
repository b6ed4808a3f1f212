"""What REANA's workflow controller does: runs, their messages, sessions, services, sharing and deletion."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm.attributes import flag_modified

from platform_db import errors
from reana_db.models import (
    InteractiveSession,
    InteractiveSessionType,
    Job,
    JobCache,
    ResourceType,
    RunStatus,
    Service,
    ServiceLog,
    ServiceStatus,
    ServiceType,
    User,
    UserWorkflow,
    Workflow,
    WorkflowResource,
    WorkflowSession,
)
from reana_db.utils import (
    _get_workflow_with_uuid_or_name,
    get_default_quota_resource,
    store_workflow_disk_quota,
    update_users_disk_quota,
)

SPECIFICATION = {
    "inputs": {"parameters": {"events": 20000}},
    "workflow": {"type": "serial", "specification": {"steps": [{"commands": ["make"]}]}},
}


# -- creating and starting


def test_a_run_is_created(session: Any, user: User, create: Callable[..., Any]) -> None:
    run = create(reana_specification=SPECIFICATION, launcher_url="https://example.org")
    session.expire_all()

    assert run.status == RunStatus.created
    assert (run.run_number, run.get_full_workflow_name()) == ("1", "analysis.1")
    assert run.workspace_path == f"/var/reana/users/{user.id_}/workflows/{run.id_}"
    assert run.reana_specification == SPECIFICATION
    assert run.get_input_parameters() == {"events": 20000}
    assert run.get_specification() == {"steps": [{"commands": ["make"]}]}
    assert (run.input_parameters, run.operational_options, run.complexity) == ({}, {}, [])
    assert (run.logs, run.job_progress) == ("", {})
    assert run.get_owner_access_token() == "ada's token"
    assert create().run_number == "2"


def test_a_specification_is_changed_in_place(session: Any, create: Callable[..., Any]) -> None:
    run = create(reana_specification=SPECIFICATION)
    run.reana_specification["workflow"]["type"] = "cwl"
    flag_modified(run, "reana_specification")
    session.commit()

    assert run.reana_specification["workflow"]["type"] == "cwl"
    found = session.query(Workflow).filter(Workflow.reana_specification["workflow"]["type"].astext == "cwl")
    assert found.one() is run


def test_a_run_with_dask_has_a_service(session: Any, user: User) -> None:
    id_ = str(uuid4())
    run = Workflow(
        id_=id_,
        name="dask",
        owner_id=str(user.id_),
        reana_specification=SPECIFICATION,
        type_="serial",
        logs="",
    )
    service = Service(
        name=f"dask-{id_}", uri="/dashboard", type_=ServiceType.dask, status=ServiceStatus.created
    )
    run.services.append(service)
    session.add(run)
    session.object_session(run).commit()

    assert (run.services[0], service.owner_id) == (service, user.id_)
    service.status = ServiceStatus.running
    session.object_session(service).commit()
    service.status = ServiceStatus.deleted
    session.object_session(service).commit()
    assert session.query(Service).filter_by(name=f"dask-{id_}").one().status == ServiceStatus.deleted


def test_the_lines_of_a_services_log_are_json(session: Any, create: Callable[..., Any]) -> None:
    run = create()
    service = Service(name="dask", uri="/", type_=ServiceType.dask)
    run.services.append(service)
    session.commit()
    for component in ("worker", "scheduler"):
        session.add(ServiceLog(service_id=service.id_, log={"component": component, "content": "…"}))
    session.commit()

    by_component = sorted([log.log for log in service.logs], key=lambda log: log["component"] != "scheduler")
    assert [log["component"] for log in by_component] == ["scheduler", "worker"]
    assert service.logs[0].service is service


def test_a_queued_run_is_started(session: Any, create: Callable[..., Any]) -> None:
    run = create(status=RunStatus.queued)

    run.status = RunStatus.pending
    run.input_parameters = {"events": 1}
    run.operational_options = {}
    current = session.object_session(run)
    current.add(run)
    current.commit()

    assert (run.status, run.input_parameters) == (RunStatus.pending, {"events": 1})


def test_a_run_that_was_not_queued_cannot_be_started(session: Any, create: Callable[..., Any]) -> None:
    run = create()
    run.status = RunStatus.pending
    run.status = RunStatus.running
    with pytest.raises(SQLAlchemyError) as refused:
        session.commit()
    session.rollback()

    assert isinstance(refused.value, errors.InvalidTransition)
    assert run.status == RunStatus.created


# -- messages of engines


def test_engines_send_numbers(session: Any, create: Callable[..., Any]) -> None:
    run = create(status=RunStatus.running)

    next_status = RunStatus(2)
    assert next_status == RunStatus.finished
    assert run.can_transition_to(next_status)
    Workflow.update_workflow_status(session, run.id_, next_status, "all done", None)
    session.commit()

    assert run.status == RunStatus.finished
    assert run.logs == "all done\n"
    assert run.run_finished_at >= run.run_started_at


@pytest.mark.parametrize(
    ("before", "after", "allowed"),
    [
        ("created", "queued", True),
        ("created", "running", False),
        ("queued", "failed", True),
        ("pending", "failed", False),
        ("running", "running", True),
        ("finished", "running", True),
        ("stopped", "running", False),
    ],
)
def test_a_message_is_obeyed_as_reanas_table_says(
    create: Callable[..., Any], before: str, after: str, allowed: bool
) -> None:
    assert create(status=RunStatus[before]).can_transition_to(RunStatus[after]) is allowed


def test_an_end_is_completed_by_the_controller(session: Any, create: Callable[..., Any]) -> None:
    run = create(status=RunStatus.running)
    Workflow.update_workflow_status(session, run.id_, RunStatus.stopped, "", None)
    run.run_finished_at = datetime.now()
    run.logs = run.logs or ""
    run.logs += "engine's log\n"
    run.logs += "more\n"
    session.commit()

    assert run.status == RunStatus.stopped
    assert run.logs == "engine's log\nmore\n"
    assert abs(run.run_finished_at - run.run_stopped_at) < timedelta(minutes=1)


def test_progress_is_counted(session: Any, create: Callable[..., Any]) -> None:
    run = create(status=RunStatus.running)
    progress = run.job_progress
    progress["total"] = {"total": 2, "job_ids": []}
    run.job_progress = progress
    flag_modified(run, "job_progress")
    session.add(run)
    session.commit()

    assert run.job_progress == {"total": {"total": 2, "job_ids": []}}


# -- interactive sessions


def test_a_notebook_is_opened_and_closed(session: Any, create: Callable[..., Any]) -> None:
    run = create()
    opened = InteractiveSession(
        name="run-session", path="/secret-path", type_=InteractiveSessionType(0).name, owner_id=run.owner_id
    )
    run.sessions.append(opened)
    session.object_session(run).add(run)
    session.object_session(run).commit()

    assert (opened.status, opened.type_) == (RunStatus.created, InteractiveSessionType.jupyter)
    assert opened.workflow[0] is run
    assert session.query(Workflow).filter(Workflow.sessions.any()).all() == [run]
    assert session.query(WorkflowSession).filter_by(workflow_id=run.id_).one().session_id == opened.id_

    opened.status = RunStatus.running
    session.object_session(opened).commit()
    session.delete(session.query(InteractiveSession).filter_by(id_=str(opened.id_)).first())
    session.commit()
    assert run.sessions == []


# -- lists and look-ups


@pytest.mark.parametrize("name", ["analysis", "analysis.2", "{id_}"])
def test_a_run_is_found_by_its_id_its_name_or_its_number(
    user: User, other: User, create: Callable[..., Any], name: str
) -> None:
    create()
    run = create()
    name = name.format(id_=run.id_)

    assert _get_workflow_with_uuid_or_name(name, str(user.id_)) is run
    for unknown in (name, "", None, "Ünïcode", "analysis.2.7"):
        with pytest.raises(ValueError, match="workflow"):
            _get_workflow_with_uuid_or_name(unknown, str(other.id_))


def test_a_page_of_the_list(session: Any, user: User, other: User, create: Callable[..., Any]) -> None:
    runs = [create(f"analysis-{number}") for number in range(3)]
    share(session, runs[0], other)
    owned = session.query(Workflow).filter(Workflow.owner_id == user.id_)
    shared_with_other = (
        session.query(Workflow)
        .join(UserWorkflow, UserWorkflow.workflow_id == Workflow.id_)
        .filter(UserWorkflow.user_id == other.id_)
    )

    def names(query: Any) -> list[str]:
        return [run.name for run in query.order_by(Workflow.created.desc())]

    assert names(owned) == ["analysis-2", "analysis-1", "analysis-0"]
    assert names(owned.filter(Workflow.name.ilike("%SIS-1%"))) == ["analysis-1"]
    assert names(owned.filter(Workflow.status.in_([RunStatus["created"]]))) == names(owned)
    assert names(owned.filter(Workflow.id_ == str(runs[1].id_))) == ["analysis-1"]
    assert names(owned.filter(Workflow.id_.in_(sa.select(UserWorkflow.workflow_id)))) == ["analysis-0"]
    assert names(owned.filter(Workflow.id_.notin_(sa.select(UserWorkflow.workflow_id)))) == names(owned)[:2]
    with_other = Workflow.users_it_is_shared_with.any(User.email == other.email)
    assert names(owned.filter(with_other)) == ["analysis-0"]
    by_user = Workflow.owner.has(User.email == user.email)
    assert names(shared_with_other.filter(by_user)) == ["analysis-0"]
    owned_by_other = session.query(Workflow).filter(Workflow.owner_id == other.id_)
    assert names(owned_by_other.union_all(shared_with_other)) == ["analysis-0"]
    assert [found.email for found in runs[0].users_it_is_shared_with] == [other.email]
    assert other.workflows_shared_with_me == [runs[0]]
    assert owned.offset(1).limit(1).count() == 1


def test_a_list_is_sorted_by_what_runs_take(
    session: Any, create: Callable[..., Any], policy: Callable[..., None]
) -> None:
    policy("disk")
    runs = [create(f"analysis-{number}") for number in range(3)]
    store_workflow_disk_quota(runs[1], bytes_to_sum=100)
    store_workflow_disk_quota(runs[2], bytes_to_sum=200)
    resource = get_default_quota_resource("disk")
    joined = session.query(Workflow).join(
        WorkflowResource,
        sa.and_(Workflow.id_ == WorkflowResource.workflow_id, WorkflowResource.resource_id == resource.id_),
        isouter=True,
    )

    found = joined.order_by(sa.nullslast(WorkflowResource.quota_used.desc())).all()

    assert found == [runs[2], runs[1], runs[0]]
    assert found[0].get_quota_usage()["disk"]["usage"]["raw"] == 200
    assert found[0].resources[0].workflow is found[0]


# -- sharing


def share(session: Any, run: Workflow, user: User, **values: Any) -> None:
    session.add(UserWorkflow(user_id=user.id_, workflow_id=run.id_, **values))
    session.commit()


def test_a_run_is_shared_until_a_day(session: Any, other: User, create: Callable[..., Any]) -> None:
    run = create()
    tomorrow = date.today() + timedelta(days=1)
    share(session, run, other, message="look", valid_until=tomorrow)

    with pytest.raises(IntegrityError):
        share(session, run, other)
    session.rollback()

    shares = (
        session.query(UserWorkflow)
        .filter_by(workflow_id=run.id_)
        .join(User, User.id_ == UserWorkflow.user_id)
        .with_entities(User.email, UserWorkflow.valid_until)
    )
    assert [(row.email, row.valid_until.strftime("%Y-%m-%d")) for row in shares] == [
        (other.email, tomorrow.isoformat())
    ]
    assert _get_workflow_with_uuid_or_name("analysis.1", other.id_, include_shared_workflows=True) is run

    session.delete(session.query(UserWorkflow).filter_by(user_id=other.id_, workflow_id=run.id_).first())
    session.commit()
    with pytest.raises(ValueError, match="workflow"):
        _get_workflow_with_uuid_or_name("analysis.1", other.id_, include_shared_workflows=True)


# -- deleting


def test_a_run_is_deleted_with_its_workspace(session: Any, user: User, create: Callable[..., Any]) -> None:
    run = create(status=RunStatus.finished)
    job = Job(workflow_uuid=str(run.id_), docker_img="busybox")
    session.add(job)
    session.commit()
    session.add(JobCache(job_id=job.id_, parameters="p", workspace_hash="h", result_path="/r"))
    session.commit()
    run.set_workspace_retention_rules([{"workspace_files": "*", "retention_days": 1}])
    store_workflow_disk_quota(run, bytes_to_sum=1000, override_policy_checks=True)
    update_users_disk_quota(user, bytes_to_sum=1000, override_policy_checks=True)
    assert user.get_quota_usage()["disk"]["usage"]["raw"] == 1000

    store_workflow_disk_quota(run, bytes_to_sum=-1000, override_policy_checks=True)
    update_users_disk_quota(run.owner, bytes_to_sum=-1000, override_policy_checks=True)
    run.inactivate_workspace_retention_rules()
    run.status = RunStatus.deleted
    session.object_session(run).add(run)
    session.object_session(run).commit()
    assert session.query(JobCache).filter_by(job_id=job.id_).delete() == 1
    session.commit()

    assert run.status == RunStatus.deleted
    assert user.get_quota_usage()[ResourceType.disk.name]["usage"]["raw"] == 0
