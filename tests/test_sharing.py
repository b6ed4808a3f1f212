"""Sharing runs: who sees them, until when, and what the audit log says."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta, timezone

import pytest
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.audit import list_audit
from platform_db.models import User, Workflow
from platform_db.workflows import get_workflow, list_shared, share_workflow, unshare_workflow
from tests.factories import make_run, make_user


@pytest.fixture
def run(session: Session) -> Workflow:
    return make_run(session, make_user(session))


@pytest.fixture
def reader(session: Session) -> User:
    return make_user(session)


def test_a_shared_run_is_found_until_it_is_taken_back(session: Session, run: Workflow, reader: User) -> None:
    share_workflow(session, run, reader, message="look", actor_id=reader.id_)
    session.commit()
    assert list_shared(session, reader).rows == [run]
    assert get_workflow(session, run.id_, reader.id_, include_shared=True) is run
    assert unshare_workflow(session, run, reader)
    assert not unshare_workflow(session, run, reader)
    assert list_shared(session, reader).rows == []
    said = list_audit(session, user_id=run.owner_id).rows
    assert [row.action for row in said] == ["unshare_workflow", "share_workflow", "create_user"]
    assert said[1].actor_id == reader.id_
    assert said[1].details is not None and said[1].details["workflow_id"] == str(run.id_)


def test_an_expired_share_grants_nothing_and_can_be_renewed(
    session: Session, run: Workflow, reader: User
) -> None:
    share_workflow(session, run, reader, valid_until=datetime.now(timezone.utc) - timedelta(seconds=1))
    assert list_shared(session, reader).rows == []
    share_workflow(session, run, reader)
    assert list_shared(session, reader).rows == [run]
    assert [share.valid_until for share in run.shares] == [None]


def test_neither_with_its_owner_nor_with_nobody(session: Session, run: Workflow) -> None:
    with pytest.raises(errors.Refused, match="its owner"):
        share_workflow(session, run, run.owner_id)
    with pytest.raises(errors.UserNotFound):
        share_workflow(session, run, uuid.uuid4())
    session.commit()


def test_of_two_shares_one_is_taken_back(session: Session) -> None:
    run = make_run(session, make_user(session))
    one, other = make_user(session), make_user(session)
    for reader in (one, other):
        share_workflow(session, run, reader)
    assert unshare_workflow(session, run, one)
    assert list_shared(session, one).rows == []
    assert list_shared(session, other).rows == [run]
