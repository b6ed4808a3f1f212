"""The relationships that services read and write."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta, timezone

import pytest
import sqlalchemy as sa

from platform_db import errors
from platform_db.database.session import PlatformSession
from platform_db.models import (
    InteractiveSession,
    Job,
    Service,
    User,
    UserToken,
    Workflow,
    WorkspaceRetentionRule,
)
from platform_db.workflows import share_workflow
from tests.factories import make_guarded, make_run, make_user

pytestmark = pytest.mark.usefixtures("secret_key")


def test_what_belongs_to_a_row_comes_oldest_first_whatever_its_ids(session: PlatformSession) -> None:
    owner = make_user(session)
    run = make_run(session, owner, id_=uuid.uuid4())
    made: dict[str, list[uuid.UUID]] = {"runs": [run.id_], "jobs": [], "rules": [], "tokens": []}
    for number in range(6):
        rows = {
            "runs": Workflow(uuid.uuid4(), f"run-{number}", owner.id_, {}, "serial"),
            "jobs": Job(id_=uuid.uuid4(), workflow_id=run.id_),
            "rules": WorkspaceRetentionRule(
                id_=uuid.uuid4(), workflow_id=run.id_, workspace_files=f"{number}", retention_days=1
            ),
            "tokens": UserToken(
                id_=uuid.uuid4(), owner_id=owner.id_, type_="access", status="revoked", token=f"t{number}"
            ),
        }
        session.add_all(rows.values())
        session.flush()
        for name, row in rows.items():
            made[name].append(row.id_)
    session.commit()
    assert {
        "runs": [row.id_ for row in owner.workflows],
        "jobs": [row.id_ for row in run.jobs],
        "rules": [row.id_ for row in run.retention_rules],
        "tokens": [row.id_ for row in session.scalars(owner.tokens.select())],
    } == made
    assert owner.latest_access_token.id_ == made["tokens"][-1]


def test_shares_are_read_from_both_sides_until_they_end(session: PlatformSession) -> None:
    owner, reader, late = make_user(session), make_user(session), make_user(session)
    runs = [make_run(session, owner, name, id_=uuid.uuid4()) for name in ("a", "b", "c")]
    for run in reversed(runs):
        share_workflow(session, run, reader)
    share_workflow(session, runs[0], late, valid_until=datetime.now(timezone.utc) - timedelta(seconds=1))
    session.commit()
    assert reader.workflows_shared_with_me == runs
    assert (late.workflows_shared_with_me, owner.workflows_shared_with_me) == ([], [])
    assert runs[0].users_it_is_shared_with == [reader]
    assert session.scalars(sa.select(User).where(User.workflows_shared_with_me.any())).all() == [reader]


def test_the_audit_rows_about_a_user_are_selected_from_the_user(session: PlatformSession) -> None:
    user, other = make_user(session), make_user(session)
    user.log_action("revoke_token", {"reason": "leaked"})
    other.log_action("grant_token")
    session.commit()
    rows = session.scalars(user.audit_logs.select()).all()
    assert [(row.action, row.details) for row in rows] == [
        ("create_user", None),
        ("revoke_token", {"reason": "leaked"}),
    ]


@pytest.mark.parametrize(
    ("entity", "status", "may", "may_not"),
    [
        ("workflow", "running", "finished", "created"),
        ("job", "queued", "failed", "created"),
        ("interactive_session", "running", "stopped", "queued"),
        ("service", "created", "running", "finished"),
        ("user_token", "active", "revoked", "requested"),
        ("workspace_retention_rule", "active", "pending", "applied"),
    ],
)
def test_every_row_with_a_status_tells_what_may_follow(
    session: PlatformSession, entity: str, status: str, may: str, may_not: str
) -> None:
    row = make_guarded(session, make_user(session), entity, status)
    answers = [row.can_transition_to(asked) for asked in (status, may, type(row.status)(may), may_not)]
    assert answers == [True, True, True, False]
    with pytest.raises(errors.UnknownStatus, match="'gone'"):
        row.can_transition_to("gone")


def test_sessions_and_services_of_a_run_get_its_owner(session: PlatformSession) -> None:
    owner = make_user(session)
    run, other = make_run(session, owner), make_run(session, owner, "other")
    notebooks = [InteractiveSession(id_=uuid.uuid4(), name="n", path=f"/{n}") for n in range(3)]
    for notebook in notebooks:
        run.sessions.append(notebook)
        session.flush()
    run.services.append(Service(name="dask"))
    session.commit()
    (service,) = run.services
    assert run.sessions == notebooks
    assert {row.owner_id for row in (*notebooks, service)} == {owner.id_}
    assert (notebooks[0].workflows, service.workflows) == ([run], [run])
    run.sessions.remove(notebooks[0])
    service.workflows.append(other)
    session.commit()
    assert (run.sessions, other.services) == (notebooks[1:], [service])
    session.delete(run)
    session.commit()
    assert (notebooks[1].workflows, service.workflows) == ([], [other])


def test_a_session_and_its_run_may_be_new_together(session: PlatformSession) -> None:
    owner = make_user(session)
    with session.no_autoflush:
        run = Workflow(name="new", type_="serial", specification={}, owner=owner)
        notebook = InteractiveSession(name="n", path="/n", workflows=[run])
        session.add(notebook)
    session.commit()
    assert notebook.owner_id == run.owner_id == owner.id_


def test_a_session_of_another_owner_cannot_be_on_a_run(session: PlatformSession) -> None:
    run, other = make_run(session, make_user(session)), make_user(session)
    run.sessions.append(InteractiveSession(name="n", path="/n", owner_id=other.id_))
    with pytest.raises(sa.exc.IntegrityError, match="fk_workflow_session"):
        session.commit()
