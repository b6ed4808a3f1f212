"""Statements name the owner where it is known: by a row, by a key, or by the session's tenant."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event, orm
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.database.session import PlatformSession
from platform_db.jobs import store_result
from platform_db.lifecycle import transition, transition_many
from platform_db.logs import append_log, read_log, stream_log, tail_log
from platform_db.models import Job, User, UserToken, UserTokenType, Workflow
from platform_db.tenancy import tenant_scope
from platform_db.tokens import revoke
from platform_db.workflows import update_workflow_status
from tests.factories import make_run, make_user
from tests.tenants import prepare_roles

TABLES = r"(FROM|UPDATE|INTO|JOIN) platform\.(workflow|job|user_token|log_chunk|log_size|workflow_resource)\b"
OWNER = r"owner_id = (CAST\()?%\(|owner_id, id_\) IN|= lease.owner_id|= given.owner_id"


def unnamed(engine: sa.Engine, act: Callable[[], Any]) -> list[str]:
    """Return the statements on tenants' tables that ``act`` sends without an owner."""
    found: list[str] = []

    def look(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if re.search(TABLES, statement) and not re.search(OWNER, statement) and "VALUES" not in statement:
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
