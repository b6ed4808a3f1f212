"""Users: created, found, and forgotten."""

from __future__ import annotations

import uuid

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors, users
from platform_db.models import AuditLog, InteractiveSession, Job, Service, User, UserToken, Workflow
from tests.factories import make_run, make_user


def test_a_user_is_created_and_found(session: Session) -> None:
    ada = users.create_user(session, "Ada@example.org", full_name="Ada Lovelace")
    session.commit()
    assert users.find_user(session, "ADA@example.org") is ada
    assert users.find_user(session, str(ada.id_)) is ada
    with pytest.raises(errors.UserExists):
        users.create_user(session, "ada@EXAMPLE.org")
    assert list(users.list_users(session)) == [ada]
    assert list(users.list_users(session, after=ada.id_)) == []
    for unknown in ("nobody@example.org", uuid.uuid4()):
        with pytest.raises(errors.UserNotFound):
            users.find_user(session, unknown)


def test_forgetting_a_user_leaves_ids_in_the_audit_log_only(session: Session, secret_key: str) -> None:
    ada = users.create_user(session, "ada@example.org", username="ada")
    ada.access_token = "own"
    session.commit()
    ada_id = ada.id_
    users.delete_user(session, ada)
    session.commit()
    assert session.get(User, ada_id) is None
    assert session.scalar(sa.select(sa.func.count()).select_from(UserToken)) == 0
    rows = session.scalars(sa.select(AuditLog).order_by(AuditLog.number)).all()
    assert [(row.user_id, row.action) for row in rows] == [
        (ada_id, "create_user"),
        (ada_id, "grant_token"),
        (ada_id, "delete_user"),
    ]
    assert "ada" not in str([row.details for row in rows])


def test_a_user_with_work_is_only_deleted_with_it(session: Session) -> None:
    ada, bob = make_user(session), make_user(session)
    run = make_run(session, ada)
    make_run(session, bob)
    session.add_all(
        [
            Job(workflow_id=run.id_),
            InteractiveSession(name="notebook", path="/n", owner_id=ada.id_),
            Service(name="dask", owner_id=ada.id_),
        ]
    )
    session.commit()
    with pytest.raises(errors.UserHasWork, match="1 workflow, 1 interactive_session, 1 service") as refusal:
        users.delete_user(session, ada)
    assert refusal.value.work == {"workflow": 1, "interactive_session": 1, "service": 1}
    users.delete_user(session, ada, delete_work=True)
    session.commit()
    assert session.scalars(sa.select(Workflow.owner_id)).all() == [bob.id_]
    for model in (Job, InteractiveSession, Service):
        assert session.scalar(sa.select(sa.func.count()).select_from(model)) == 0
    last = session.scalars(sa.select(AuditLog).order_by(AuditLog.number.desc())).first()
    assert last.details == {"deleted": refusal.value.work}
