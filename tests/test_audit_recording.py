"""What the database records by itself: once, whoever does it, with who and from where."""

from __future__ import annotations

import uuid
from datetime import datetime, timezone
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import audit, errors, quota, users
from platform_db.audit import list_audit
from platform_db.models import Resource, User, UserResource, UserWorkflow, Workflow
from platform_db.tenancy import tenant_scope
from platform_db.workflows import sharing
from tests.factories import make_run, make_user
from tests.tenants import prepare_roles

UNTIL = datetime(2030, 1, 1, 12, tzinfo=timezone.utc)


@pytest.fixture
def ada(session: Session) -> User:
    Resource.initialise_default_resources(session)
    return make_user(session)


@pytest.fixture
def reader(session: Session, ada: User) -> User:
    return make_user(session)


@pytest.fixture
def run(session: Session, ada: User, reader: User) -> Workflow:
    run = make_run(session, ada)
    forget_all(session)
    return run


def forget_all(session: Session) -> None:
    """Empty the log, so that a test sees only what it does."""
    session.execute(sa.text("SET LOCAL session_replication_role = replica"))
    session.execute(sa.text("DELETE FROM platform.audit_inbox"))
    session.commit()


def recorded(session: Session) -> list[tuple[str, uuid.UUID, uuid.UUID | None, Any]]:
    """Return what the log says, oldest first: action, about whom, by whom, details."""
    session.flush()
    return [
        (row.action, row.user_id, row.actor_id, row.details) for row in reversed(list_audit(session).rows)
    ]


def share_details(run: Workflow, reader: User, **more: str | None) -> dict[str, str | None]:
    return {"workflow_id": str(run.id_), "user_id": str(reader.id_), **more}


def test_a_user_is_recorded_once_however_made_and_deleted(session: Session, ada: User) -> None:
    boss = ada.id_
    forget_all(session)
    plain, helped = User(email="plain@example.org"), users.create_user(session, "helped@example.org")
    session.add(plain)
    session.flush()
    session.delete(plain)
    users.delete_user(session, helped, actor_id=boss)
    bulk = uuid.uuid4()
    session.execute(
        sa.text("INSERT INTO platform.user_ (id_, email) VALUES (:id, 'bulk@example.org')"), {"id": bulk}
    )
    session.execute(sa.text("DELETE FROM platform.user_ WHERE id_ = :id"), {"id": bulk})
    assert recorded(session) == [
        ("create_user", helped.id_, None, None),
        ("create_user", plain.id_, None, None),
        ("delete_user", plain.id_, None, None),
        ("delete_user", helped.id_, boss, None),
        ("create_user", bulk, None, None),
        ("delete_user", bulk, None, None),
    ]


def test_what_went_with_a_user_is_said_of_that_user_only(session: Session, run: Workflow) -> None:
    owner, boss = session.get_one(User, run.owner_id), uuid.uuid4()
    users.delete_user(session, owner, delete_work=True, actor_id=boss)
    other = users.create_user(session, "other@example.org")
    assert recorded(session) == [
        ("delete_user", owner.id_, boss, {"deleted": {"workflow": 1}}),
        ("create_user", other.id_, None, None),
    ]


def test_a_limit_is_recorded_when_it_changes(session: Session, run: Workflow) -> None:
    ada = session.get_one(User, run.owner_id)
    disk = quota.get_default_quota_resource(session, "disk")
    total = next(total for total in ada.resources if total.resource_id == disk.id_)
    total.quota_limit = 5
    session.flush()
    total.quota_used = 3
    session.flush()
    quota.set_limit(session, ada, "disk", 5)
    quota.set_limit(session, ada, "disk", 7, actor=ada)
    session.execute(sa.update(UserResource).where(UserResource.resource_id == disk.id_).values(quota_limit=7))
    said = recorded(session)
    of_ada = [row for row in said if row[1] == ada.id_]
    assert of_ada == [
        ("set_quota_limit", ada.id_, None, {"resource_id": str(disk.id_), "before": None, "limit": 5}),
        ("set_quota_limit", ada.id_, ada.id_, {"resource_id": str(disk.id_), "before": 5, "limit": 7}),
    ]
    assert len(said) == 3, "and the reader's, whose limit the last statement changed"


def test_sharing_is_recorded_however_it_is_done(session: Session, run: Workflow, reader: User) -> None:
    share = UserWorkflow(workflow_id=run.id_, user_id=reader.id_, valid_until=UNTIL)
    session.add(share)
    session.flush()
    share.valid_until = None
    session.flush()
    session.delete(share)
    session.flush()
    sharing.share_workflow(session, run, reader, actor_id=reader.id_)
    session.execute(sa.text("SET LOCAL timezone = 'Asia/Tokyo'"))
    sharing.share_workflow(session, run, reader, valid_until=UNTIL)
    sharing.unshare_workflow(session, run, reader, actor_id=reader.id_)
    assert not sharing.unshare_workflow(session, run, reader, actor_id=reader.id_)
    until = share_details(run, reader, valid_until="2030-01-01T12:00:00+00:00")
    for_ever, gone = share_details(run, reader, valid_until=None), share_details(run, reader)
    owner = run.owner_id
    assert recorded(session) == [
        ("share_workflow", owner, None, until),
        ("share_workflow", owner, None, for_ever),
        ("unshare_workflow", owner, None, gone),
        ("share_workflow", owner, reader.id_, for_ever),
        ("share_workflow", owner, None, until),
        ("unshare_workflow", owner, reader.id_, gone),
    ]


def test_a_share_that_goes_with_its_reader_or_its_run_is_not_recorded(
    session: Session, run: Workflow, reader: User
) -> None:
    second = make_user(session)
    for user in (reader, second):
        sharing.share_workflow(session, run, user)
    session.commit()
    forget_all(session)
    users.delete_user(session, reader)
    session.execute(sa.delete(Workflow))
    assert recorded(session) == [("delete_user", reader.id_, None, None)]
    assert session.scalar(sa.select(sa.func.count()).select_from(UserWorkflow)) == 0


def test_who_acts_is_said_once_for_the_transaction(session: Session, run: Workflow, reader: User) -> None:
    boss = uuid.uuid4()
    audit.set_origin(session, actor_id=boss, service="api")
    sharing.share_workflow(session, run, reader, actor_id=reader.id_)
    with pytest.raises(errors.UserNotFound):
        sharing.share_workflow(session, run, uuid.uuid4(), actor_id=reader.id_)
    sharing.unshare_workflow(session, run, reader)
    assert [(actor, row.service) for row in list_audit(session).rows if (actor := row.actor_id)] == [
        (boss, "api"),
        (reader.id_, "api"),
    ]
    session.commit()
    sharing.share_workflow(session, run, reader)
    newest = list_audit(session, limit=1).rows[0]
    assert (newest.actor_id, newest.service) == (None, None)


def test_a_tenant_is_recorded_inside_its_scope(
    engine: sa.Engine, session: Session, run: Workflow, reader: User
) -> None:
    prepare_roles(engine)
    owner, run_id, reader_id = run.owner_id, run.id_, reader.id_
    session.commit()
    with tenant_scope(engine, owner) as own:
        own_run = own.get_one(Workflow, run_id)
        sharing.share_workflow(own, own_run, reader_id, actor_id=owner)
        sharing.unshare_workflow(own, own_run, reader_id)
    assert [(action, user) for action, user, _, _ in recorded(session)] == [
        ("share_workflow", owner),
        ("unshare_workflow", owner),
    ]
