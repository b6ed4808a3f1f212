"""What only the database may say, it says, whatever was sent; hooks that are off by default."""

from __future__ import annotations

import uuid
from datetime import datetime, timezone

import pytest
import sqlalchemy as sa

from platform_db import errors
from platform_db.database.session import PlatformSession
from platform_db.lifecycle import add_note, history, transition
from platform_db.models import (
    AuditLog,
    ExtraTransition,
    Note,
    RunStatus,
    StatusChange,
    User,
    UserResource,
    Workflow,
)
from platform_db.workflows import share_workflow
from tests.factories import make_run, make_user

LONG_AGO = datetime(2000, 1, 1, tzinfo=timezone.utc)


@pytest.mark.parametrize("change", [{}, {"name": "new"}, {"status": RunStatus.queued}])
def test_created_and_updated_are_the_databases(session: PlatformSession, change: dict[str, object]) -> None:
    run = make_run(session, make_user(session), created=LONG_AGO, updated=LONG_AGO)
    made = run.created
    assert made == run.updated
    assert made.year > 2000
    for name, value in {"created": LONG_AGO, "updated": LONG_AGO, **change}.items():
        setattr(run, name, value)
    session.commit()
    assert (run.created, run.updated > made) == (made, True)


def test_the_place_and_the_time_of_an_entry_are_the_databases(session: PlatformSession) -> None:
    run = make_run(session, make_user(session))
    values = {
        "owner_id": run.owner_id,
        "entity": "workflow",
        "entity_id": run.id_,
        "topic": "t",
        "message": "m",
    }
    session.add(Note(**values, number=7, at=LONG_AGO, transaction_id=1))
    session.flush()
    note = session.scalars(sa.select(Note)).one()
    assert (note.at.year > 2000, note.transaction_id > 1) == (True, True)
    transition(session, run, "queued")
    add_note(session, run, "later", "m")
    numbers = [note.number, session.scalars(sa.select(StatusChange.number)).one()]
    assert numbers == sorted(numbers)
    assert [entry.kind for entry in history(session, run).rows] == ["note", "status", "note"]


def test_a_servers_clock_that_steps_back_leaves_a_history_in_order(session: PlatformSession) -> None:
    run = make_run(session, make_user(session))
    for status in ("queued", "pending", "running", "finished"):
        transition(session, run, status)
    session.execute(
        sa.text("UPDATE platform.status_change SET at = at - interval '1 hour' WHERE revision = 4")
    )
    assert [entry.revision for entry in history(session, run).rows] == [1, 2, 3, 4]


def test_an_import_keeps_its_times_and_is_silent(session: PlatformSession) -> None:
    session.execute(sa.text("SET LOCAL platform.import = 'on'"))
    user = User(email="moved@example.org", created=LONG_AGO, updated=LONG_AGO)
    session.add(user)
    session.commit()
    assert user.created == LONG_AGO
    assert session.scalars(sa.select(AuditLog)).all() == []
    session.add(User(email="new@example.org", created=LONG_AGO))
    session.commit()
    assert [row.action for row in session.scalars(sa.select(AuditLog))] == ["create_user"]


def test_a_row_keeps_its_owner_and_its_id(session: PlatformSession) -> None:
    run = make_run(session, make_user(session))
    for values in ({"owner_id": make_user(session).id_}, {"id_": uuid.uuid4()}):
        with pytest.raises(errors.Refused, match="keeps its id and its owner"), session.begin_nested():
            session.execute(sa.update(Workflow).where(Workflow.owner_id == run.owner_id).values(values))


def test_an_import_that_brings_no_times_gets_them(session: PlatformSession) -> None:
    session.execute(sa.text("SET LOCAL platform.import = 'on'"))
    user = make_user(session)
    run = make_run(session, user)
    transition(session, run, "queued")
    add_note(session, run, "engine", "started")
    session.add(AuditLog(owner_id=user.id_, action="create_user"))
    session.commit()
    assert user.created and run.created and user.updated
    assert [entry.at is not None for entry in history(session, run).rows] == [True, True]
    assert session.scalars(sa.select(AuditLog.created)).one()


def test_what_an_import_removes_or_limits_is_silent(session: PlatformSession) -> None:
    users = [make_user(session) for _ in range(3)]
    run = make_run(session, users[0])
    share_workflow(session, run, users[1])
    session.commit()
    known = session.scalars(sa.select(AuditLog.id_)).all()
    session.execute(sa.text("SET LOCAL platform.import = 'on'"))
    session.execute(sa.update(UserResource).values(quota_limit=5))
    session.execute(sa.text("DELETE FROM platform.user_workflow"))
    session.delete(users[2])
    session.commit()
    assert session.scalars(sa.select(AuditLog.id_)).all() == known


@pytest.mark.parametrize(
    ("entity", "reason"), [("user_token", "they come back"), ("workflows", "misspelt"), ("workflow", "")]
)
def test_an_extra_transition_is_of_a_known_entity_and_has_a_reason(
    session: PlatformSession, entity: str, reason: str
) -> None:
    session.add(ExtraTransition(entity=entity, from_status="revoked", to_status="active", reason=reason))
    with pytest.raises(sa.exc.IntegrityError, match=r"known_entity|has_reason"):
        session.commit()
