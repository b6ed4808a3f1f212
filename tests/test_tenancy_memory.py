"""What a session has read for one tenant is given to no other from its memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import ContextVar

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from platform_db import errors, sessions
from platform_db.database.session import PlatformSession
from platform_db.models import Job, Note, Workflow
from platform_db.tenancy import tenant_scope, tenant_sessionmaker
from tests.tenants import Tenant, make_tenant, prepare_roles

CURRENT: ContextVar[object] = ContextVar("current")


@pytest.fixture(autouse=True)
def engine(engine: sa.Engine) -> Iterator[sa.Engine]:
    prepare_roles(engine)
    token = CURRENT.set(None)
    yield engine
    CURRENT.reset(token)


@pytest.fixture
def ann(session: orm.Session) -> Tenant:
    return make_tenant(session, "ann")


@pytest.fixture
def bob(session: orm.Session) -> Tenant:
    return make_tenant(session, "bob")


@pytest.fixture
def scoped(engine: sa.Engine) -> Iterator[orm.Session]:
    """Give a session of the current tenant that keeps what it read when it commits."""
    with tenant_sessionmaker(engine, CURRENT.get, expire_on_commit=False)() as session:  # type: ignore[arg-type]
        yield session


def test_in_the_middle_of_a_transaction_the_tenant_cannot_change(
    scoped: orm.Session, ann: Tenant, bob: Tenant
) -> None:
    CURRENT.set(ann.id_)
    run = scoped.get(Workflow, ann.run)
    assert run is not None
    connection = scoped.connection()
    CURRENT.set(bob.id_)
    for read in (
        lambda: scoped.get(Workflow, ann.run),
        lambda: scoped.merge(Workflow(id_=ann.run)),
        lambda: scoped.scalars(sa.select(Workflow)).all(),
        lambda: scoped.execute(sa.text("SELECT 1")),
        lambda: connection.execute(sa.text("SELECT 1")),
        lambda: run.jobs,
    ):
        with pytest.raises(errors.Refused, match="current tenant changed"):
            read()
    scoped.rollback()
    assert scoped.get(Workflow, ann.run) is None
    assert scoped.get(Workflow, bob.run) is not None


def test_changes_for_one_tenant_are_not_written_for_another(
    scoped: orm.Session, ann: Tenant, bob: Tenant
) -> None:
    CURRENT.set(ann.id_)
    run = scoped.get(Workflow, ann.run)
    assert run is not None
    scoped.commit()
    run.type_ = "changed"
    CURRENT.set(bob.id_)
    with pytest.raises(errors.Refused, match="current tenant changed"):
        scoped.commit()
    scoped.rollback()
    CURRENT.set(ann.id_)
    assert run.type_ == "serial"
    with scoped.begin_nested():
        run.type_ = "changed"
        CURRENT.set(bob.id_)
        with pytest.raises(errors.Refused, match="current tenant changed"):
            scoped.flush()
        CURRENT.set(ann.id_)
        scoped.rollback()


def test_a_transaction_of_another_tenant_serves_nothing_from_memory(
    scoped: orm.Session, ann: Tenant, bob: Tenant
) -> None:
    CURRENT.set(ann.id_)
    run, job = scoped.get(Workflow, ann.run), scoped.get(Job, ann.job)
    assert run is not None and job is not None
    scoped.commit()
    assert run.name == "analysis"
    CURRENT.set(bob.id_)
    assert scoped.get(Workflow, ann.run) is None
    assert scoped.get(Workflow, bob.run) is not None
    with pytest.raises(orm.exc.ObjectDeletedError):
        _ = run.name
    with pytest.raises(orm.exc.ObjectDeletedError):
        _ = job.workflow
    scoped.commit()
    CURRENT.set(ann.id_)
    assert [run.id_ for run in scoped.scalars(sa.select(Workflow))] == [ann.run]
    assert scoped.get(Workflow, bob.run) is None
    scoped.commit()
    CURRENT.set(None)
    assert scoped.get(Workflow, ann.run) is None


def test_what_is_pending_is_written_for_whom_it_is(scoped: orm.Session, ann: Tenant, bob: Tenant) -> None:
    CURRENT.set(ann.id_)
    assert scoped.get(Workflow, ann.run) is not None
    scoped.commit()
    for owner in (bob, ann):
        scoped.add(Note(owner_id=owner.id_, entity="job", entity_id=owner.job, topic="t", message="m"))
        CURRENT.set(bob.id_)
        if owner is bob:
            scoped.commit()
        else:
            with pytest.raises(sa.exc.ProgrammingError, match="row-level security"):
                scoped.commit()
            scoped.rollback()
        CURRENT.set(ann.id_)


def test_a_tenant_that_cannot_be_told_leaves_no_transaction(engine: sa.Engine, ann: Tenant) -> None:
    def nobody() -> str:
        raise LookupError

    for current, error in ((nobody, LookupError), (lambda: "ann", errors.InvalidIdentifier)):
        with tenant_sessionmaker(engine, current)() as session:
            for _ in range(2):
                with pytest.raises((error, sa.exc.PendingRollbackError)):
                    session.connection().exec_driver_sql("SELECT * FROM platform.workflow")
            with pytest.raises(error):
                session.get(Workflow, ann.run)
            session.rollback()


def test_sessions_of_a_class_of_ones_own_are_scoped(engine: sa.Engine, ann: Tenant, bob: Tenant) -> None:
    class Own(orm.Session):
        """A service's own."""

    CURRENT.set(ann.id_)
    factory = tenant_sessionmaker(engine, CURRENT.get, class_=Own, info={"mine": 1})  # type: ignore[arg-type]
    with factory() as session:
        assert isinstance(session, Own)
        assert session.info["mine"] == 1
        assert session.get(Workflow, bob.run) is None


@pytest.mark.parametrize("keep", [True, False])
def test_a_scope_gives_nothing_that_was_read_outside_or_in_another(
    engine: sa.Engine, ann: Tenant, bob: Tenant, keep: bool
) -> None:
    with orm.Session(engine, expire_on_commit=not keep) as session:
        theirs = session.get(Workflow, bob.run)
        session.commit()
        with tenant_scope(session, ann.id_):
            own = session.get(Workflow, ann.run)
            assert own is not None and theirs is not None
            assert session.get(Workflow, bob.run) is None
            session.commit()
            with tenant_scope(session, bob.id_):
                assert session.get(Workflow, ann.run) is None
                assert session.get(Workflow, bob.run) is not None
                session.commit()
            assert session.get(Workflow, bob.run) is None
            session.commit()
        with tenant_scope(session, bob.id_):
            assert session.get(Workflow, ann.run) is None


def test_a_rollback_brings_nothing_back_into_a_scope(session: orm.Session, ann: Tenant, bob: Tenant) -> None:
    note = session.get(Note, bob.note)
    savepoint = session.begin_nested()
    session.delete(note)
    session.flush()
    with tenant_scope(session, ann.id_):
        savepoint.rollback()
        assert session.get(Note, bob.note) is None


def test_a_threads_session_can_be_scoped(database_uri: str, engine: sa.Engine, ann: Tenant) -> None:
    registry = orm.scoped_session(orm.sessionmaker(engine, class_=PlatformSession))
    with tenant_scope(registry, ann.id_):
        assert [run.id_ for run in registry.scalars(sa.select(Workflow))] == [ann.run]
    registry.remove()
    with tenant_scope(sessions.thread_session(bind=engine), ann.id_):
        assert [run.id_ for run in sessions.thread_session.scalars(sa.select(Workflow))] == [ann.run]
    sessions.thread_session.remove()
