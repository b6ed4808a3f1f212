"""Finding runs: by id and by name, the user's own and what is shared."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta, timezone

import pytest
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.models import RunStatus, User, UserWorkflow, Workflow
from platform_db.workflows import get_workflow, list_workflows, update_workflow_status
from tests.factories import make_run, make_user


@pytest.fixture
def owner(session: Session) -> User:
    return make_user(session)


def test_by_id_and_by_name(session: Session, owner: User) -> None:
    first, second = make_run(session, owner), make_run(session, owner)
    restart = make_run(session, owner, restart=True, run_number="1")
    for asked, found in {
        str(first.id_): first,
        first.id_: first,
        "analysis": second,
        "analysis.1": first,
        "analysis.2": second,
        "analysis.1.1": restart,
    }.items():
        assert get_workflow(session, asked, owner.id_) is found


def test_a_name_means_its_latest_restart(session: Session, owner: User) -> None:
    make_run(session, owner)
    for _ in range(2):
        restart = make_run(session, owner, restart=True, run_number="1")
    assert get_workflow(session, "analysis", owner.id_) is restart


def test_names_with_dots(session: Session, owner: User) -> None:
    dotted = make_run(session, owner, name="v1.2")
    other = make_run(session, owner, name="v1")
    assert get_workflow(session, "v1.2", owner.id_) is dotted
    assert get_workflow(session, "v1.2.1", owner.id_) is dotted
    second = make_run(session, owner, name="v1")
    assert get_workflow(session, "v1.2", owner.id_) is second
    assert get_workflow(session, "v1.1", owner.id_) is other


@pytest.mark.parametrize(
    "asked", ["unknown", "analysis.7", "analysis.1.9", "", ".", "..", "a\0b", "a\ud800", "'; --"]
)
def test_what_is_not_there(session: Session, owner: User, asked: str) -> None:
    make_run(session, owner)
    with pytest.raises(errors.WorkflowNotFound):
        get_workflow(session, asked, owner.id_)


def test_a_foreign_run_and_none_look_the_same(session: Session, owner: User) -> None:
    foreign = make_run(session, make_user(session))
    messages = []
    for id_ in (str(foreign.id_), str(uuid.uuid4())):
        with pytest.raises(errors.WorkflowNotFound) as error:
            get_workflow(session, id_, owner.id_)
        messages.append(str(error.value).replace(id_, "ID"))
    assert messages[0] == messages[1]


def test_a_malformed_user_is_refused_before_the_server(session: Session) -> None:
    with pytest.raises(errors.InvalidIdentifier):
        get_workflow(session, "analysis", "nonsense")


def test_sharing_shows_a_run_until_it_expires(session: Session, owner: User) -> None:
    friend, run = make_user(session), make_run(session, owner)
    share = UserWorkflow(workflow_id=run.id_, user_id=friend.id_)
    session.add(share)
    session.commit()
    assert get_workflow(session, "analysis", friend.id_, include_shared=True) is run
    with pytest.raises(errors.WorkflowNotFound):
        get_workflow(session, run.id_, friend.id_)
    own = make_run(session, friend)
    assert get_workflow(session, "analysis", friend.id_, include_shared=True) is own
    share.valid_until = datetime.now(timezone.utc) - timedelta(seconds=1)
    session.commit()
    with pytest.raises(errors.WorkflowNotFound):
        get_workflow(session, run.id_, friend.id_, include_shared=True)


def test_pages_of_runs_newest_first(session: Session, owner: User) -> None:
    runs = [make_run(session, owner, status="running" if n % 2 else "created") for n in range(5)]
    make_run(session, make_user(session))
    first = list_workflows(session, owner.id_, limit=3)
    assert list(first.rows) == runs[:1:-1]
    assert list(list_workflows(session, owner.id_, cursor=first.cursor).rows) == runs[1::-1]
    assert list(list_workflows(session, owner.id_, statuses=[RunStatus.running]).rows) == [runs[3], runs[1]]


def test_a_status_message_appends_its_log(session: Session, owner: User) -> None:
    run = make_run(session, owner, status="running")
    assert update_workflow_status(session, str(run.id_), RunStatus.running, "step 1\n") is RunStatus.running
    assert Workflow.update_workflow_status(session, run.id_, RunStatus.failed, "broken\n") is RunStatus.failed
    with pytest.raises(errors.InvalidTransition):
        update_workflow_status(session, run.id_, RunStatus.queued, "too late\n")
    assert run.logs == "step 1\nbroken\n"
