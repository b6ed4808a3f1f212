"""Values that the database has no place for are refused before it is asked, by every way."""

from __future__ import annotations

import math
import uuid
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import scoped_session, sessionmaker

from platform_db import errors
from platform_db.database.session import PlatformSession
from platform_db.leases.tasks import lease
from platform_db.lifecycle import add_note, transition
from platform_db.models import (
    Job,
    LogSize,
    RunStatus,
    UserResource,
    UserToken,
    UserTokenStatus,
    Workflow,
)
from platform_db.testing.statements import assert_num_statements
from platform_db.users import find_user
from tests.factories import make_run, make_user


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"team": "a\0b"}, "at team has a NUL"),
        ({"a": [{"b": "\ud800"}]}, r"at a\[0\].b has a NUL or half of a surrogate"),
        ({"a": math.nan}, "nan at a is no number"),
        ({"a": [1.0, -math.inf]}, r"-inf at a\[1\] is no number"),
        ({"a": (1, "b\0")}, r"at a\[1\] has a NUL"),
        ({"k\0": 1}, r"at the key k\\x00 has a NUL"),
        ("\0", "the text has a NUL"),
    ],
)
def test_what_json_cannot_hold_is_refused_by_its_place(
    session: PlatformSession, value: Any, place: str
) -> None:
    run = make_run(session, make_user(session))
    with pytest.raises(errors.InvalidText, match=place):
        session.execute(sa.update(Workflow).where(Workflow.owner_id == run.owner_id).values(labels=value))
    with pytest.raises(errors.InvalidText, match=place):
        add_note(session, run, "topic", "message", value)
    # The server was never asked, so the transaction goes on.
    transition(session, run, "queued")
    session.commit()
    run.labels = value
    with pytest.raises(errors.InvalidText, match=place):
        session.flush()
    session.rollback()
    assert run.status is RunStatus.queued


def test_a_status_may_be_set_by_its_name(session: PlatformSession, secret_key: str) -> None:
    user = make_user(session)
    run = make_run(session, user)
    run.status = "queued"
    assert run.status is RunStatus.queued
    token = UserToken(owner_id=user.id_, type_="webhook", status="requested")
    session.add(token)
    session.commit()
    token.status = "revoked"
    assert token.status is UserTokenStatus.revoked
    with pytest.raises(errors.UnknownStatus, match="no status 'gone', only requested"):
        token.status = "gone"
    assert RunStatus.should_cleanup_job("failed")


def test_only_what_has_an_id_of_its_own_is_found_by_it(session: PlatformSession) -> None:
    run = make_run(session, make_user(session))
    assert session.get(Workflow, str(run.id_)) is run
    for model in (LogSize, UserResource):
        with pytest.raises(sa.exc.InvalidRequestError, match="Incorrect number of values in identifier"):
            session.get(model, run.id_)


def test_the_session_may_be_given_by_name(session: PlatformSession) -> None:
    user = make_user(session)
    assert find_user(session=session, id_or_email=user.id_) is user  # type: ignore[call-arg]
    registry = scoped_session(sessionmaker(session.get_bind(), class_=PlatformSession))
    assert find_user(session=registry, id_or_email=user.id_).id_ == user.id_  # type: ignore[call-arg]
    registry.remove()


def test_a_rule_of_any_run_that_shares_the_workspace_is_pending_for_all(session: PlatformSession) -> None:
    user = make_user(session)
    one = make_run(session, user, workspace_path="/var/platform/shared")
    other = make_run(session, user, workspace_path="/var/platform/shared")
    apart = make_run(session, user)
    one.set_workspace_retention_rules([{"workspace_files": "*", "retention_days": 1}])
    session.commit()
    assert not other.workspace_has_pending_retention_rules()
    one.activate_workspace_retention_rules()
    one.retention_rules[0].status = "pending"
    session.commit()
    assert [run.workspace_has_pending_retention_rules() for run in (one, other, apart)] == [True, True, False]


def test_a_lease_from_before_the_servers_clock_was_set_back_blocks_no_job(
    session: PlatformSession, session_factory: Any
) -> None:
    for ahead, free in ((timedelta(hours=23), True), (timedelta(seconds=30), False)):
        session.execute(
            sa.text(
                "INSERT INTO platform.task_lease VALUES ('job', 'elsewhere ? 1 ?',"
                " now() + CAST(:ahead AS interval), now() + :ahead + interval '1 minute')"
            ),
            {"ahead": ahead},
        )
        session.commit()
        if free:
            with lease(session_factory, "job"):
                pass
            session.execute(sa.text("DELETE FROM platform.task_lease"))
        else:
            with pytest.raises(errors.AlreadyRunning), lease(session_factory, "job"):
                pass


@pytest.mark.parametrize("malformed", ["nonsense", "", 7, b"bytes"])
def test_a_malformed_id_never_reaches_the_server(session: PlatformSession, malformed: Any) -> None:
    run = make_run(session, make_user(session))
    assert run.version == 1  # A transaction is open.
    statements = (
        sa.select(Workflow).where(Workflow.id_ == malformed),
        sa.select(Workflow).where(Workflow.id_.in_([run.id_, malformed])),
        sa.select(Workflow).filter_by(owner_id=malformed),
        sa.update(Workflow).where(Workflow.id_ == malformed).values(name="renamed"),
        sa.insert(Job).values(id_=uuid.uuid4(), owner_id=run.owner_id, workflow_id=malformed),
    )
    with assert_num_statements(0):
        for statement in statements:
            with pytest.raises(errors.InvalidIdentifier, match="is not a valid id: a UUID is needed"):
                session.execute(statement)
        with pytest.raises(errors.InvalidIdentifier, match="is not a valid workflow id"):
            Job(workflow_id=malformed)
    assert session.scalars(sa.select(Workflow.id_)).all() == [run.id_]


def test_the_text_of_an_id_is_as_good_as_the_id(session: PlatformSession) -> None:
    run = make_run(session, make_user(session))
    ids = [uuid.uuid4() for _ in range(3)]
    jobs = [Job(id_=str(id_), workflow_id=str(run.id_)) for id_ in ids]
    session.add_all(jobs)
    session.commit()
    assert [(job.id_, job.workflow_id) for job in jobs] == [(id_, run.id_) for id_ in ids]
    for find in (ids[0], str(ids[0])):
        assert session.scalars(sa.select(Job).where(Job.id_ == find)).one() is jobs[0]


def test_an_id_may_be_what_a_query_finds(session: PlatformSession) -> None:
    run = make_run(session, make_user(session))
    job = Job(owner_id=run.owner_id, workflow_id=sa.select(Workflow.id_).scalar_subquery())
    session.add(job)
    session.commit()
    assert job.workflow_id == run.id_
