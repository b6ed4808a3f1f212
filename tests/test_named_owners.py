"""Statements name the owner where it is known: by a row, by a key, or by the session's tenant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event, orm
from sqlalchemy.orm import Session

import platform_db
from platform_db import errors
from platform_db.database.session import PlatformSession
from platform_db.jobs import store_result
from platform_db.lifecycle import transition, transition_many
from platform_db.logs import append_log, read_log, stream_log, tail_log
from platform_db.models import Job, User, UserToken, UserTokenType, Workflow
from platform_db.query import find
from platform_db.tenancy import tenant_scope
from platform_db.tokens import revoke
from platform_db.workflows import update_workflow_status
from tests import named_owners
from tests.factories import make_run, make_user
from tests.named_owners import unnamed_tables
from tests.tenants import prepare_roles
from tests.unnamed_owners import REASONS


def unnamed(engine: sa.Engine, act: Callable[[], Any]) -> list[str]:
    """Return the statements on tenants' tables that ``act`` sends without an owner."""
    found: list[str] = []

    def look(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if unnamed_tables(statement):
            found.append(statement)

    event.listen(engine, "before_cursor_execute", look)
    act()
    event.remove(engine, "before_cursor_execute", look)
    return found


@pytest.fixture
def run(session: Session) -> Workflow:
    return make_run(session, make_user(session), status="running")


def test_with_a_row_at_hand(
    engine: sa.Engine,
    session: Session,
    session_factory: orm.sessionmaker[PlatformSession],
    run: Workflow,
    secret_key: str,
) -> None:
    other = make_run(session, make_user(session), status="running")
    job = Job(workflow_id=run.id_)
    token = UserToken(owner_id=run.owner_id, type_=UserTokenType.webhook, status="requested")
    session.add_all([job, token])
    session.flush()
    acts: list[Callable[[], Any]] = [
        lambda: store_result(session, job, "parameters", "hash", "/result"),
        lambda: revoke(session, token),
        lambda: append_log(session, run, "text"),
        lambda: list(stream_log(session_factory, run)),
        lambda: transition_many(session, [run, other], "stopped"),
        lambda: update_workflow_status(session, make_run(session, run.owner, status="running"), "finished"),
    ]
    for act in acts:
        session.commit()
        assert unnamed(engine, act) == []
    assert [each.status for each in (run, other)] == ["stopped", "stopped"]


def test_with_a_key(session: Session, run: Workflow) -> None:
    key, wrong = (run.owner_id, run.id_), (make_user(session).id_, run.id_)
    assert transition(session, key, "stopped", model=Workflow) == "stopped"
    append_log(session, key, "text", model=Workflow)
    assert tail_log(session, key, model=Workflow) == "text"
    with pytest.raises(errors.WorkflowNotFound):
        transition(session, wrong, "deleted", model=Workflow)
    (result,) = transition_many(session, [wrong], "deleted", model=Workflow)
    assert isinstance(result.refusal, errors.WorkflowNotFound)


def test_in_a_tenants_scope_an_id_will_do(engine: sa.Engine, session: Session, run: Workflow) -> None:
    prepare_roles(engine)
    with tenant_scope(engine, run.owner_id) as scoped:
        assert unnamed(engine, lambda: transition(scoped, run.id_, "stopped", model=Workflow)) == []
        assert unnamed(engine, lambda: append_log(scoped, run.id_, "text", model=Workflow)) == []
        assert unnamed(engine, lambda: read_log(scoped, run.id_, model=Workflow)) == []


@pytest.mark.parametrize(
    "act",
    [
        lambda session, id_: transition(session, id_, "stopped", model=User),
        lambda session, id_: append_log(session, id_, "text", model=UserToken),
        lambda session, id_: transition_many(session, [id_], "stopped", model=dict),
        lambda session, id_: revoke(session, User(id_=id_, email="a@example.org")),
    ],
)
def test_a_wrong_model_is_refused(session: Session, run: Workflow, act: Callable[..., Any]) -> None:
    with pytest.raises(errors.InvalidArgument, match="only a "):
        act(session, run.id_)


JOINED = "platform.job AS j JOIN platform.workflow AS w"


@pytest.mark.parametrize(
    ("statement", "tables"),
    [
        ("SELECT FROM platform.job WHERE owner_id = %(owner)s AND id_ = %(id)s", ""),
        ("SELECT FROM platform.job WHERE id_ = %(id)s", "job"),
        ("SELECT FROM platform.job WHERE owner_id = %(owner)s OR id_ = %(id)s", "job"),
        ("SELECT FROM platform.job WHERE (owner_id, id_) IN (SELECT * FROM unnest(%s, %s) AS given)", ""),
        (f"SELECT FROM {JOINED} ON w.owner_id = j.owner_id WHERE w.owner_id = ANY(%(owners)s)", ""),
        (f"SELECT FROM {JOINED} ON w.id_ = j.workflow_id WHERE w.owner_id = ANY(%(owners)s)", "job"),
        (f"SELECT FROM {JOINED} USING (owner_id) WHERE j.owner_id = %(owner)s", ""),
        (f"SELECT FROM {JOINED} USING (owner_id)", "job workflow"),
        ("SELECT FROM platform.user_ AS u JOIN platform.job AS j ON j.owner_id = u.id_ WHERE u.id_ = %s", ""),
        ("SELECT FROM platform.user_ AS u JOIN platform.job AS j ON j.owner_id = u.id_", "job"),
        ("WITH due AS (SELECT * FROM platform.job) SELECT FROM due WHERE owner_id = %(owner)s", "job"),
        ("UPDATE platform.job SET phase = NULL FROM due WHERE job.owner_id = due.owner_id", ""),
        ("DELETE FROM platform.job WHERE id_ = ANY(%(ids)s)", "job"),
        ("INSERT INTO platform.job (owner_id) VALUES (%(owner)s) RETURNING platform.job.id_", ""),
        ("INSERT INTO platform.job (owner_id) SELECT owner_id FROM platform.workflow", "workflow"),
        ("SELECT FROM platform.resource WHERE id_ = %(id)s", ""),
    ],
)
def test_a_statement_names_an_owner_by_an_equality(statement: str, tables: str) -> None:
    assert unnamed_tables(statement) == tuple(tables.split())


def test_what_the_package_sends_is_read_and_what_a_test_sends_is_not(
    session: Session, run: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.execute(sa.text("SELECT id_ FROM platform.workflow"))
    transition(session, run.id_, "stopped", model=Workflow)  # It was given the id alone.
    find(session, Workflow, {"owner_id": run.owner_id})
    find(session, Workflow, {})
    assert named_owners.unnamed == []
    monkeypatch.setattr(named_owners, "REASONS", {})
    find(session, Workflow, {"owner_id": run.owner_id})
    find(session, Workflow, {})
    (found,) = named_owners.unnamed
    named_owners.unnamed.clear()
    assert found.startswith("query.find.find names no owner of workflow:\nSELECT")


def test_what_is_listed_is_there() -> None:
    root = Path(platform_db.__file__).parent

    def is_there(name: str) -> bool:
        place = root / name.replace(".", "/")
        module = place.with_suffix(".py")
        return (
            module.exists()
            or place.is_dir()
            or f"def {place.name}(" in place.parent.with_suffix(".py").read_text()
        )

    assert [name for names in REASONS.values() for name in names if not is_there(name)] == []
