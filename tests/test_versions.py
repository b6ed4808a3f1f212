"""Versions of what a run is asked to do: each is kept, and the run has the latest."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import Session

from platform_db import database, errors, transition
from platform_db.database.session import SessionFactory
from platform_db.lifecycle import history
from platform_db.models import Workflow, WorkflowVersion
from platform_db.tenancy import tenant_scope
from platform_db.workflows import (
    NewVersion,
    VersionSummary,
    create_workflow,
    get_version,
    list_versions,
    update_specification,
)
from tests.command_line import one_line
from tests.command_line import run as run_command
from tests.factories import make_run, make_user
from tests.processes import in_processes


@pytest.fixture
def run(session: Session) -> Workflow:
    return make_run(session, make_user(session), specification={"steps": ["fit"]}, labels={"team": "a"})


def test_each_version_is_kept_and_the_run_has_the_latest(session: Session, run: Workflow) -> None:
    assert update_specification(session, run, {"steps": ["fit", "plot"]}, priority=5) == NewVersion(2, 1)
    session.commit()
    assert update_specification(session, run, labels={"team": "b"}) == NewVersion(3, 2)
    session.commit()

    assert (run.version, run.revision) == (3, 2)
    assert (run.specification, run.labels, run.priority) == ({"steps": ["fit", "plot"]}, {"team": "b"}, 5)
    first, second, third = list_versions(session, run)
    assert first == VersionSummary(1, {"team": "a"}, None, first.replaced_at)
    assert (second.number, second.labels, second.priority) == (2, {"team": "a"}, 5)
    assert (third.number, third.labels, third.replaced_at) == (3, {"team": "b"}, None)
    assert first.replaced_at is not None and second.replaced_at is not None
    assert first.replaced_at < second.replaced_at

    assert get_version(session, run, 1).specification == {"steps": ["fit"]}
    assert get_version(session, run).specification == {"steps": ["fit", "plot"]}
    assert get_version(session, run).number == 3
    assert [one.number for one in list_versions(session, run, after=1, limit=1)] == [2]


def test_a_specification_and_a_priority_can_be_taken_away(session: Session, run: Workflow) -> None:
    update_specification(session, run, None, labels=None, priority=3)
    assert (run.specification, run.labels, run.priority) == (None, {}, 3)
    update_specification(session, run, priority=None)
    assert (run.specification, run.priority) == (None, None)
    with pytest.raises(errors.InvalidArgument, match="give a specification, labels or a priority"):
        update_specification(session, run)
    assert run.version == 3


def test_the_history_tells_of_each_version(session: Session, run: Workflow) -> None:
    transition(session, run, "queued", reason="to be run")
    update_specification(session, run, {"steps": []})
    transition(session, run, "running")
    told = [(e.from_status, e.to_status, e.revision, e.reason) for e in history(session, run).rows]
    assert told == [
        ("created", "queued", 1, "to be run"),
        ("queued", "queued", 2, "version 2"),
        ("queued", "running", 3, None),
    ]


def test_whoever_takes_a_version_keeps_the_one_before(session: Session, run: Workflow) -> None:
    run.specification, run.version = {"steps": ["by hand"]}, 9
    session.commit()
    assert run.version == 2
    assert get_version(session, run, 1).specification == {"steps": ["fit"]}
    assert get_version(session, run).specification == {"steps": ["by hand"]}


def test_a_plan_for_the_version_before_is_refused(session: Session, run: Workflow) -> None:
    planned_for = run.revision
    update_specification(session, run, {"steps": []}, expected_revision=planned_for)
    with pytest.raises(errors.Conflict, match="expected revision 0, stored is created at revision 1") as late:
        update_specification(session, run, {"steps": ["late"]}, expected_revision=planned_for)
    assert late.value.http_status == 409
    with pytest.raises(errors.Conflict, match="expected revision 0"):
        transition(session, run, "queued", expected_revision=planned_for)
    assert (run.specification, run.version) == ({"steps": []}, 2)


@pytest.mark.parametrize("status", ["finished", "failed", "stopped", "deleted"])
def test_a_run_that_has_ended_takes_no_version_and_its_restart_does(session: Session, status: str) -> None:
    run = make_run(session, make_user(session), status=status, specification=1)
    with pytest.raises(errors.Refused) as refused:
        update_specification(session, run, 2)
    assert str(refused.value) == (
        f"workflow {run.id_} has ended, it is {status}: only a restart of it takes a new version"
    )
    restart = create_workflow(session, run.owner_id, run.name, 1, type_="serial", restart=True)
    assert update_specification(session, restart.id_, 2).number == 2
    assert [one.number for one in list_versions(session, run)] == [1]


def test_what_is_not_there(session: Session, run: Workflow) -> None:
    unknown = uuid.uuid4()
    for row in (unknown, (run.owner_id, unknown)):
        with pytest.raises(errors.WorkflowNotFound, match=f"there is no workflow {unknown}"):
            update_specification(session, row, {})
        with pytest.raises(errors.WorkflowNotFound):
            get_version(session, row, 2)
        with pytest.raises(errors.WorkflowNotFound):
            list_versions(session, row)
    with pytest.raises(errors.NotFound, match=f"workflow {run.id_} has no version 2"):
        get_version(session, run, 2)
    for number in (0, -1, 2**31):
        with pytest.raises(errors.InvalidArgument, match="number of a version"):
            get_version(session, run, number)
    for wrong in ({"priority": "high"}, {"priority": 2**31}, {"labels": ["a"]}, {"expected_revision": 2**31}):
        with pytest.raises(errors.InvalidArgument):
            update_specification(session, run, {}, **wrong)
    with pytest.raises(errors.InvalidIdentifier, match="the key of a workflow is its owner's id and its own"):
        update_specification(session, (run.owner_id,), {})  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidText, match="steps"):
        update_specification(session, run, {"steps": "\0"})
    assert list_versions(session, run, after=1) == []


def test_versions_are_their_tenants_and_go_with_their_run(
    session: Session, run: Workflow, session_factory: SessionFactory, tenant_roles: None
) -> None:
    update_specification(session, run, {"steps": []})
    other = make_user(session)
    key = run.owner_id, run.id_
    with tenant_scope(session_factory, key[0]) as own:
        assert get_version(own, key[1], 1).specification == {"steps": ["fit"]}
        assert update_specification(own, key[1], priority=1).number == 3
    with tenant_scope(session_factory, other.id_) as foreign, pytest.raises(errors.WorkflowNotFound):
        get_version(foreign, key, 1)
    session.execute(sa.delete(Workflow).where(Workflow.id_ == key[1]))
    assert session.scalars(sa.select(WorkflowVersion)).all() == []


@pytest.mark.parametrize(
    "write", ["UPDATE platform.workflow_version SET priority = 1", "DELETE FROM platform.workflow_version"]
)
def test_a_tenant_cannot_rewrite_earlier_versions(
    session: Session, run: Workflow, session_factory: SessionFactory, tenant_roles: None, write: str
) -> None:
    update_specification(session, run, {"steps": []})
    session.commit()
    with (
        pytest.raises(sa.exc.ProgrammingError, match="permission denied"),
        tenant_scope(session_factory, run.owner_id) as own,
    ):
        own.execute(sa.text(write))
    with tenant_scope(session_factory, run.owner_id) as own:
        own.execute(sa.delete(Workflow).where(Workflow.id_ == run.id_))
    assert session.scalars(sa.select(WorkflowVersion)).all() == []


def test_the_command_line_shows_versions(session: Session, run: Workflow, database_uri: str) -> None:
    update_specification(session, run, {"steps": ["ü"]}, priority=5)
    session.commit()
    run_id = str(run.id_)
    listed = json.loads(run_command(database_uri, "workflow", "versions", run_id, "--json").stdout)
    assert [(row["number"], row["priority"]) for row in listed] == [(1, None), (2, 5)]
    assert "team=a" in run_command(database_uri, "workflow", "versions", run_id).stdout
    shown = run_command(database_uri, "workflow", "specification", run_id, "--version", "1").stdout
    assert json.loads(shown) == {"steps": ["fit"]}
    assert '"ü"' in run_command(database_uri, "workflow", "specification", run_id).stdout
    missing = run_command(database_uri, "workflow", "specification", run_id, "--version", "3")
    assert (missing.exit_code, one_line(missing.stderr)) == (
        10,
        f"platform-db: workflow {run_id} has no version 3",
    )


def change(uri: str, key: tuple[uuid.UUID, uuid.UUID], reports: Path, number: int) -> None:
    """Give a run ten versions, and for each revision of it one that only one writer can give."""
    engine = database.create_engine(uri, poolclass=sa.NullPool)
    won, give_up_at = 0, time.monotonic() + 60
    for round_ in range(10):
        with orm.Session(engine) as session, session.begin():
            update_specification(session, key, {"by": number, "round": round_})
    for revision in range(30, 40):
        while time.monotonic() < give_up_at:
            with orm.Session(engine) as session, session.begin():
                try:
                    update_specification(session, key, [number, revision], expected_revision=revision)
                    won += 1
                except errors.Conflict as conflict:
                    if conflict.stored_revision < revision:
                        continue
            break
    (reports / str(number)).write_text(str(won))


def test_racing_writers_lose_no_version_and_one_of_them_gets_each_revision(
    session: Session, run: Workflow, database_uri: str, tmp_path: Path
) -> None:
    in_processes(3, change, database_uri, (run.owner_id, run.id_), tmp_path)
    session.expire_all()
    assert (run.version, run.revision) == (41, 40)
    assert sum(int(report.read_text()) for report in tmp_path.iterdir()) == 10
    versions = [get_version(session, run, number).specification for number in range(1, 42)]
    assert versions[0] == {"steps": ["fit"]}
    rounds = [(one["by"], one["round"]) for one in versions[1:31]]
    assert sorted(rounds) == [(by, round_) for by in range(3) for round_ in range(10)]
    assert [one[1] for one in versions[31:]] == list(range(30, 40))
