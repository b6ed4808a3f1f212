"""Importing: what only moves is stored as it is, and leaves no trace of what it did not do."""

from __future__ import annotations

import uuid
from datetime import datetime, timezone

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from platform_db import errors
from platform_db.database.session import PlatformSession
from platform_db.lifecycle import history, importing, transition
from platform_db.models import (
    AuditLog,
    Job,
    Note,
    RowEvent,
    User,
    Workflow,
    WorkspaceRetentionAuditLog,
    WorkspaceRetentionRule,
)
from platform_db.tenancy import tenant_scope
from platform_db.tenancy.privileges import Role
from tests.tenants import login_engine, prepare_roles

LONG_AGO = datetime(2000, 1, 1, tzinfo=timezone.utc)
LATER = datetime(2001, 1, 1, tzinfo=timezone.utc)

TRACES = (AuditLog, Note, RowEvent, WorkspaceRetentionAuditLog)


def count_traces(session: orm.Session) -> int:
    return sum(session.scalar(sa.select(sa.func.count()).select_from(model)) or 0 for model in TRACES)


def make_user(session: orm.Session, **values: object) -> User:
    user = User(**{"email": f"{uuid.uuid4()}@example.org", **values})
    session.add(user)
    session.flush()
    return user


def make_run(session: orm.Session, owner: User, **values: object) -> Workflow:
    given = {"name": "moved", "owner_id": owner.id_, "type_": "serial", "specification": {}, **values}
    run = Workflow(**given)
    session.add(run)
    session.flush()
    return run


def make_rule(run: Workflow, **values: object) -> WorkspaceRetentionRule:
    rule = WorkspaceRetentionRule(workflow_id=run.id_, workspace_files="*", retention_days=7, **values)
    run.retention_rules.append(rule)
    return rule


def test_what_is_new_leaves_no_trace(session: PlatformSession) -> None:
    with importing(session):
        user = make_user(session, created=LONG_AGO)
        run = make_run(session, user, status="finished", workspace_path="/moved", created=LONG_AGO)
        session.add(Job(workflow_id=run.id_, status="failed"))
        rule = make_rule(run, status="active", apply_on=LATER)
        session.flush()
        restart = make_run(
            session,
            user,
            restart=True,
            run_number_major=1,
            status="running",
            workspace_path="/moved",
        )
    session.commit()
    assert (user.created, run.created, restart.run_number_minor) == (LONG_AGO, LONG_AGO, 1)
    assert (rule.status, rule.apply_on) == ("active", LATER)
    assert count_traces(session) == 0


def test_what_has_changed_since_is_as_it_is_there(session: PlatformSession) -> None:
    with importing(session):
        run = make_run(session, make_user(session), status="stopped")
        session.add(job := Job(workflow_id=run.id_, status="finished"))
        rule = make_rule(run, status="created")
    with importing(session):
        session.execute(
            sa.update(Workflow).values(
                status="finished",
                run_started_at=LONG_AGO,
                run_finished_at=LATER,
                created=LONG_AGO,
                updated=LATER,
            )
        )
        job.phase = "publishing"
        rule.retention_days, rule.apply_on = 8, LATER
        session.flush()
        rule.retention_days = 9
    session.commit()
    session.refresh(run)
    assert (run.status, run.revision, run.run_finished_at) == ("finished", 0, LATER)
    assert (run.created, run.updated) == (LONG_AGO, LATER)
    assert (rule.status, rule.apply_on, job.phase) == ("created", LATER, "publishing")
    with importing(session):
        session.delete(job)
    assert count_traces(session) == 0
    assert history(session, run).rows == []


def test_after_the_block_everything_is_recorded_and_guarded_again(session: PlatformSession) -> None:
    with importing(session):
        run = make_run(session, make_user(session))
    transition(session, run, "queued")
    assert [entry.revision for entry in history(session, run).rows] == [1]
    with pytest.raises(errors.InvalidTransition):
        transition(session, run, "finished")
    other = make_run(session, make_user(session))
    assert session.scalars(sa.select(RowEvent.entity_id)).all() == [other.id_]


def test_an_error_undoes_the_block_and_ends_it(session: PlatformSession) -> None:
    with pytest.raises(ZeroDivisionError), importing(session):
        make_user(session)
        raise ZeroDivisionError
    make_run(session, make_user(session))
    assert count_traces(session) == 2  # the user's audit row, the run's event


def test_a_services_login_imports_nothing(engine: sa.Engine, session: PlatformSession) -> None:
    prepare_roles(engine)
    user = make_user(session)
    session.commit()
    before = count_traces(session)
    login = login_engine(engine, "importing_service", Role.service)
    with orm.Session(login) as services:
        with pytest.raises(errors.RolesMissing), importing(services):
            pass
        services.execute(sa.text("SET LOCAL platform.import = 'on'"))
        run = make_run(services, user, created=LONG_AGO)
        services.refresh(run)
        assert run.created > LATER
        with pytest.raises(errors.InvalidTransition), services.begin_nested():
            services.execute(sa.update(Workflow).values(status="finished"))
        services.execute(sa.update(Workflow).values(status="queued"))
        services.delete(run)
        services.commit()
    login.dispose()
    assert count_traces(session) == before + 2  # it came, it went


def test_a_tenants_scope_imports_nothing(engine: sa.Engine, session: PlatformSession) -> None:
    prepare_roles(engine)
    user = make_user(session)
    session.commit()
    with (
        tenant_scope(engine, user.id_) as tenant,
        pytest.raises(errors.RolesMissing),
        importing(tenant),
    ):
        pass
