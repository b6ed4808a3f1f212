"""Inside a tenant's scope: that tenant's rows and no others, whatever happens to the transaction."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from platform_db import database, errors, tenancy
from platform_db.models import Job, User, Workflow
from platform_db.tenancy import tenant_scope, tenant_sessionmaker
from tests.tenants import Tenant, make_tenant, prepare_roles

WHO = sa.text("SELECT current_user, current_setting('platform.user_id', true)")


@pytest.fixture
def engine(engine: sa.Engine) -> sa.Engine:
    prepare_roles(engine)
    return engine


@pytest.fixture
def ann(engine: sa.Engine, session: orm.Session) -> Tenant:
    return make_tenant(session, "ann")


@pytest.fixture
def bob(engine: sa.Engine, session: orm.Session) -> Tenant:
    return make_tenant(session, "bob")


def names(session: orm.Session) -> list[str]:
    """Return the e-mail addresses of the users that the session sees."""
    return sorted(session.execute(sa.text("SELECT email FROM platform.user_")).scalars())


def test_only_the_tenants_rows_are_seen(session: orm.Session, ann: Tenant, bob: Tenant) -> None:
    with tenant_scope(session, ann.id_):
        assert names(session) == ["ann@example.org"]
        assert [job.job_name for job in session.scalars(sa.select(Job))] == ["ann"]
        assert session.get(Workflow, bob.run) is None
        assert session.get(Workflow, ann.run) is not None
    assert names(session) == ["ann@example.org", "bob@example.org"]


def test_what_was_loaded_before_is_not_seen_from_the_sessions_memory(
    session: orm.Session, ann: Tenant, bob: Tenant
) -> None:
    run = session.get(Workflow, bob.run)
    assert run is not None and run.name == "analysis"
    with tenant_scope(session, ann.id_):
        assert session.get(Workflow, bob.run) is None
        with pytest.raises(orm.exc.ObjectDeletedError):
            _ = run.name


def test_a_row_of_another_tenant_cannot_be_written(session: orm.Session, ann: Tenant, bob: Tenant) -> None:
    with pytest.raises(sa.exc.ProgrammingError, match="row-level security"), tenant_scope(session, ann.id_):
        session.add(Workflow(name="x", owner_id=bob.id_, type_="serial", specification={}))
        session.flush()
    session.rollback()
    with pytest.raises(sa.exc.ProgrammingError, match="row-level security"), tenant_scope(session, ann.id_):
        session.execute(sa.text("UPDATE platform.note SET owner_id = :bob"), {"bob": bob.id_})


def test_the_tenants_own_work_can_be_done(session: orm.Session, ann: Tenant) -> None:
    with tenant_scope(session, ann.id_):
        run = Workflow(name="analysis", owner_id=ann.id_, type_="serial", specification={})
        session.add(run)
        session.flush()
        assert run.run_number == "2"
        for status in ("queued", "pending", "running", "finished"):
            Workflow.update_workflow_status(session, run.id_, status, new_logs=f"{status}\n")
        run.set_workspace_retention_rules([{"workspace_files": "*", "retention_days": 1}])
        user = session.get(User, ann.id_)
        assert user is not None
        user.full_name = "Ann"
        user.log_action("request_token")
        session.commit()
        session.delete(run)
        session.commit()
        assert session.get(Workflow, run.id_) is None


def test_the_scope_lasts_over_several_transactions(session: orm.Session, ann: Tenant, bob: Tenant) -> None:
    with tenant_scope(session, ann.id_):
        session.commit()
        assert names(session) == ["ann@example.org"]
        session.rollback()
        assert names(session) == ["ann@example.org"]
    assert len(names(session)) == 2


def test_a_rollback_to_a_savepoint_from_before_the_scope_does_not_end_it(
    session: orm.Session, ann: Tenant, bob: Tenant
) -> None:
    savepoint = session.begin_nested()
    with tenant_scope(session, ann.id_):
        savepoint.rollback()
        assert names(session) == ["ann@example.org"]
    assert len(names(session)) == 2


def test_scopes_are_nested(session: orm.Session, ann: Tenant, bob: Tenant) -> None:
    with tenant_scope(session, ann.id_):
        with tenant_scope(session, bob.id_):
            assert names(session) == ["bob@example.org"]
        assert names(session) == ["ann@example.org"]
        assert [run.id_ for run in session.scalars(sa.select(Workflow))] == [ann.run]


def test_an_error_in_the_scope_leaves_nothing_behind(
    database_uri: str, session: orm.Session, ann: Tenant, bob: Tenant
) -> None:
    engine = database.create_engine(database_uri, pool_size=1, max_overflow=0)
    own = orm.Session(engine)
    with pytest.raises(sa.exc.DBAPIError), tenant_scope(own, ann.id_):
        own.execute(sa.text("SELECT 1/0"))
    own.close()
    with engine.connect() as connection:
        assert connection.execute(WHO).one() in [("postgres", ""), ("postgres", None)]

    with own, pytest.raises(KeyError), tenant_scope(own, ann.id_):
        own.add(Workflow(name="x", owner_id=bob.id_, type_="serial", specification={}))
        raise KeyError
    with own:
        own.commit()
        assert own.scalar(sa.select(sa.func.count()).select_from(Workflow)) == 2
        assert own.execute(WHO).one()[0] == "postgres"
    engine.dispose()


def test_what_an_error_left_pending_is_not_written_outside(
    session: orm.Session, ann: Tenant, bob: Tenant
) -> None:
    with pytest.raises(KeyError), tenant_scope(session, ann.id_):
        session.delete(session.get(Job, ann.job))
        session.add(Workflow(name="x", owner_id=bob.id_, type_="serial", specification={}))
        raise KeyError
    session.commit()
    assert session.get(Job, ann.job) is not None
    assert session.scalar(sa.select(sa.func.count()).select_from(Workflow)) == 2


def test_a_malformed_id_never_reaches_the_server(session: orm.Session) -> None:
    with pytest.raises(errors.InvalidIdentifier), tenant_scope(session, "'; DROP TABLE x --"):
        pass
    assert not tenancy.in_tenant_scope(session)


def test_a_service_can_be_scoped_as_a_whole(engine: sa.Engine, ann: Tenant, bob: Tenant) -> None:
    current = None
    factory = tenant_sessionmaker(engine, lambda: current)
    with factory() as session:
        assert names(session) == []
        assert session.scalars(sa.select(Workflow)).all() == []
    current = ann.id_
    with factory() as session:
        assert names(session) == ["ann@example.org"]
        session.commit()
        assert [run.id_ for run in session.scalars(sa.select(Workflow))] == [ann.run]
    with orm.Session(engine) as session:
        assert len(names(session)) == 2


def test_without_transactions_there_is_no_scope(engine: sa.Engine, ann: Tenant) -> None:
    with (
        orm.Session(engine.execution_options(isolation_level="AUTOCOMMIT")) as session,
        pytest.raises(errors.PlatformDBError, match="commits each statement"),
        tenant_scope(session, ann.id_),
    ):
        pass


def test_each_orm_statement_names_the_owner(session: orm.Session, ann: Tenant) -> None:
    said: list[str] = []
    sa.event.listen(session.get_bind(), "before_cursor_execute", lambda *args: said.append(args[2]))
    with tenant_scope(session, ann.id_):
        run = session.scalars(sa.select(Workflow)).one()
        assert len(run.jobs) == 1
        session.execute(sa.update(Job).values(job_name="x"))
    asked = [
        statement for statement in said if "platform.job" in statement or "platform.workflow" in statement
    ]
    assert asked
    assert all("owner_id = %(tenant" in statement for statement in asked), asked
