"""A session of one tenant sees that tenant's rows and no others, from its beginning to its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import ContextVar

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from platform_db import database, errors, sessions
from platform_db.models import Job, Note, User, Workflow
from platform_db.tenancy import in_tenant_scope, tenant_scope, tenant_sessionmaker
from platform_db.tokens import find_interactive_session
from platform_db.workflows.sharing import list_shared
from tests.tenants import WHO, Tenant, make_tenant, prepare_roles

CURRENT: ContextVar[object] = ContextVar("current", default=None)


@pytest.fixture
def engine(engine: sa.Engine) -> sa.Engine:
    prepare_roles(engine)
    return engine


@pytest.fixture
def ann(session: orm.Session) -> Tenant:
    return make_tenant(session, "ann")


@pytest.fixture
def bob(session: orm.Session) -> Tenant:
    return make_tenant(session, "bob")


@pytest.fixture
def current() -> Iterator[ContextVar[object]]:
    token = CURRENT.set(None)
    yield CURRENT
    CURRENT.reset(token)


def names(session: orm.Session) -> list[str]:
    """Return the e-mail addresses of the users that the session sees."""
    return sorted(session.execute(sa.text("SELECT email FROM platform.user_")).scalars())


def test_only_the_tenants_rows_are_seen(
    engine: sa.Engine, session: orm.Session, ann: Tenant, bob: Tenant
) -> None:
    with tenant_scope(engine, ann.id_) as own:
        assert names(own) == ["ann@example.org"]
        assert [job.job_name for job in own.scalars(sa.select(Job))] == ["ann"]
        assert own.get(Workflow, bob.run) is None
        assert own.get(Workflow, ann.run) is not None
    assert names(session) == ["ann@example.org", "bob@example.org"]


def test_a_row_of_another_tenant_cannot_be_written(engine: sa.Engine, ann: Tenant, bob: Tenant) -> None:
    with (
        pytest.raises(sa.exc.ProgrammingError, match="row-level security"),
        tenant_scope(engine, ann.id_) as own,
    ):
        own.add(Workflow(name="x", owner_id=bob.id_, type_="serial", specification={}))
    with (
        pytest.raises(sa.exc.ProgrammingError, match="row-level security"),
        tenant_scope(engine, ann.id_) as own,
    ):
        own.execute(sa.text("UPDATE platform.note SET owner_id = :bob"), {"bob": bob.id_})


def test_the_tenants_own_work_can_be_done(engine: sa.Engine, ann: Tenant) -> None:
    with tenant_scope(engine, ann.id_) as session:
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


def test_the_scope_lasts_over_several_transactions(engine: sa.Engine, ann: Tenant, bob: Tenant) -> None:
    with tenant_scope(engine, ann.id_) as session:
        session.commit()
        assert names(session) == ["ann@example.org"]
        session.rollback()
        assert names(session) == ["ann@example.org"]


def test_it_commits_at_the_end_and_rolls_back_on_an_error(
    engine: sa.Engine, session: orm.Session, ann: Tenant
) -> None:
    with tenant_scope(engine, ann.id_) as own:
        own.get_one(Note, ann.note).message = "kept"
    with pytest.raises(KeyError), tenant_scope(engine, ann.id_) as own:
        own.get_one(Note, ann.note).message = "lost"
        own.flush()
        raise KeyError
    assert session.get_one(Note, ann.note).message == "kept"


def test_an_error_in_the_scope_leaves_nothing_behind(
    database_uri: str, engine: sa.Engine, ann: Tenant
) -> None:
    single = database.create_engine(database_uri, pool_size=1, max_overflow=0)
    for statement in ("SELECT 1/0", "COMMIT", "COMMIT; BEGIN", "SELECT 1"):
        try:
            with tenant_scope(single, ann.id_) as own:
                own.execute(sa.text(statement))
        except (sa.exc.DBAPIError, errors.Refused):
            pass
        with single.connect() as connection:
            role, tenant, application = connection.execute(WHO).one()
            assert (role, tenant or "", application) == ("postgres", "", "platform-db")
    single.dispose()


def test_what_makes_sessions_can_be_the_source(
    engine: sa.Engine, ann: Tenant, bob: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Own(orm.Session):
        """A service's own."""

    maker = orm.sessionmaker(engine, class_=Own, expire_on_commit=False, info={"mine": 1})
    monkeypatch.setattr(sessions, "_engine", engine)
    for source in (
        engine,
        maker,
        orm.scoped_session(maker),
        sessions.session_factory,
        sessions.thread_session,
    ):
        with tenant_scope(source, str(ann.id_)) as session:
            assert names(session) == ["ann@example.org"]
            assert isinstance(session, Own) == (session.info == {"mine": 1})
    with tenant_scope(tenant_sessionmaker(engine, ann.id_), bob.id_) as session:
        assert names(session) == ["bob@example.org"]


def test_a_user_can_be_given_instead_of_its_id(engine: sa.Engine, session: orm.Session, ann: Tenant) -> None:
    user = session.get_one(User, ann.id_)
    with tenant_scope(engine, user) as own:
        assert names(own) == ["ann@example.org"]
    with tenant_sessionmaker(engine, user)() as own:
        assert names(own) == ["ann@example.org"]


def test_a_session_tells_that_it_is_in_a_scope(engine: sa.Engine, ann: Tenant, session: orm.Session) -> None:
    registry = orm.scoped_session(tenant_sessionmaker(engine, ann.id_))
    with tenant_scope(engine, ann.id_) as own:
        assert in_tenant_scope(own)
        with pytest.raises(errors.Refused, match="outside the tenant's scope"):
            list_shared(own, ann.id_)
        with pytest.raises(errors.Refused, match="outside the tenant's scope"):
            find_interactive_session(own, "a-secret")
    assert in_tenant_scope(registry)
    assert not in_tenant_scope(session)
    registry.remove()


def test_a_malformed_id_never_reaches_the_server(engine: sa.Engine) -> None:
    with pytest.raises(errors.InvalidIdentifier), tenant_scope(engine, "'; DROP TABLE x --"):
        pass


def test_a_service_can_be_scoped_as_a_whole(
    engine: sa.Engine, ann: Tenant, bob: Tenant, current: ContextVar[object]
) -> None:
    factory = tenant_sessionmaker(engine, current.get)  # type: ignore[arg-type]
    with factory() as session:
        assert names(session) == []
        assert session.scalars(sa.select(Workflow)).all() == []
    current.set(ann.id_)
    with factory() as session:
        assert names(session) == ["ann@example.org"]
        session.commit()
        assert [run.id_ for run in session.scalars(sa.select(Workflow))] == [ann.run]


def test_a_session_that_an_earlier_request_left_open_serves_no_other_tenant(
    engine: sa.Engine, ann: Tenant, bob: Tenant, current: ContextVar[object]
) -> None:
    registry = orm.scoped_session(tenant_sessionmaker(engine, current.get))  # type: ignore[arg-type]
    current.set(ann.id_)
    assert registry.get(Workflow, ann.run) is not None
    registry.commit()
    for other in (bob.id_, None):
        current.set(other)
        with pytest.raises(errors.Refused, match="belongs to another tenant"):
            registry.get(Workflow, ann.run)
        with pytest.raises(sa.exc.PendingRollbackError):
            registry.execute(sa.text("SELECT 1"))
        registry.rollback()
    registry.remove()
    current.set(bob.id_)
    assert names(registry()) == ["bob@example.org"]
    registry.remove()


def test_a_tenant_that_cannot_be_told_makes_no_session(engine: sa.Engine) -> None:
    def nobody() -> str:
        raise LookupError

    for current, error in ((nobody, LookupError), (lambda: "ann", errors.InvalidIdentifier)):
        with pytest.raises(error):
            tenant_sessionmaker(engine, current)()


def test_without_transactions_there_is_no_scope(engine: sa.Engine, session: orm.Session, ann: Tenant) -> None:
    autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
    with (
        pytest.raises(errors.PlatformDBError, match="commits each statement"),
        tenant_scope(autocommit, ann.id_),
    ):
        pass
    with tenant_sessionmaker(autocommit, ann.id_)() as own:
        with pytest.raises(errors.PlatformDBError, match="commits each statement"):
            own.execute(sa.text("DELETE FROM platform.note"))
        with pytest.raises(sa.exc.PendingRollbackError):
            own.execute(sa.text("DELETE FROM platform.note"))
    assert len(session.scalars(sa.select(Note)).all()) == 1


def test_a_connection_or_a_session_is_no_source(engine: sa.Engine, session: orm.Session, ann: Tenant) -> None:
    with engine.connect() as connection:
        for source in (connection, orm.sessionmaker(connection), session):
            with pytest.raises(errors.Refused, match="needs an engine"), tenant_scope(source, ann.id_):  # type: ignore[arg-type]
                pass
        with (
            tenant_sessionmaker(None, ann.id_)(bind=connection) as own,
            pytest.raises(errors.Refused, match="needs an engine"),
        ):
            own.scalars(sa.select(Workflow))
        assert connection.execute(WHO).one()[0] == "postgres"


def test_each_orm_statement_names_the_owner(engine: sa.Engine, ann: Tenant) -> None:
    said: list[str] = []
    sa.event.listen(engine, "before_cursor_execute", lambda *args: said.append(args[2]))
    with tenant_scope(engine, ann.id_) as session:
        run = session.scalars(sa.select(Workflow)).one()
        assert len(run.jobs) == 1
        session.execute(sa.update(Job).values(job_name="x"))
    asked = [
        statement for statement in said if "platform.job" in statement or "platform.workflow" in statement
    ]
    assert asked
    assert all("owner_id = %(tenant" in statement for statement in asked), asked
