"""A scope holds on each connection of its session, whoever rolls back what, and is nowhere afterwards."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy import event, orm

from platform_db import database, errors
from platform_db.models import Note, Workflow
from platform_db.tenancy import connections, tenant_scope, tenant_sessionmaker
from tests.tenants import Tenant, make_tenant, prepare_roles

WHO = sa.text("SELECT current_user, current_setting('platform.user_id', true)")


@pytest.fixture(autouse=True)
def engine(engine: sa.Engine) -> sa.Engine:
    prepare_roles(engine)
    return engine


@pytest.fixture
def second(database_uri: str) -> Iterator[sa.Engine]:
    """Give another engine on the same database."""
    engine = database.create_engine(database_uri)
    yield engine
    engine.dispose()


@pytest.fixture
def ann(session: orm.Session) -> Tenant:
    return make_tenant(session, "ann")


@pytest.fixture
def bob(session: orm.Session) -> Tenant:
    return make_tenant(session, "bob")


def tenant_on(connection: sa.Connection) -> str | None:
    """Return the tenant that a connection is confined to, or None."""
    role, tenant = connection.execute(WHO).one()
    return tenant if role == "platform_tenant" else None


@pytest.mark.parametrize("used", [True, False])
def test_every_connection_of_the_session_is_in_the_scope(
    engine: sa.Engine, second: sa.Engine, ann: Tenant, bob: Tenant, used: bool
) -> None:
    with orm.Session(engine, binds={Note: second}) as session:
        if used:
            assert len(session.scalars(sa.select(Note)).all()) == 2
        with tenant_scope(session, ann.id_):
            on_second = session.connection(bind_arguments={"mapper": Note})
            assert tenant_on(on_second) == tenant_on(session.connection()) == str(ann.id_)
            assert on_second.execute(sa.update(Note.__table__).values(message="x")).rowcount == 1
            with tenant_scope(session, bob.id_):
                assert tenant_on(on_second) == str(bob.id_)
            assert tenant_on(on_second) == str(ann.id_)
        assert tenant_on(on_second) is tenant_on(session.connection()) is None
        session.commit()
        assert sorted(note.message for note in session.scalars(sa.select(Note))) == ["bob", "x"]


@pytest.mark.parametrize("kind", ["orm", "core", "text"])
def test_no_rollback_to_a_savepoint_ends_the_scope_or_outlives_it(
    session: orm.Session, ann: Tenant, bob: Tenant, kind: str
) -> None:
    class Text:
        def __init__(self) -> None:
            session.execute(sa.text("SAVEPOINT mine"))

        def rollback(self) -> None:
            session.execute(sa.text("rollback to mine"))

    begin = {"orm": session.begin_nested, "core": session.connection().begin_nested, "text": Text}[kind]
    before = begin()
    with tenant_scope(session, ann.id_):
        inside = begin()
        assert tenant_on(session.connection()) == str(ann.id_)
        inside.rollback()
        assert tenant_on(session.connection()) == str(ann.id_)
        before.rollback()
        assert tenant_on(session.connection()) == str(ann.id_)
        left_open = begin()
    assert tenant_on(session.connection()) is None
    left_open.rollback()
    assert tenant_on(session.connection()) is None


def test_an_error_in_a_savepoint_of_the_scope_ends_with_both(
    session: orm.Session, ann: Tenant, bob: Tenant
) -> None:
    savepoint = None
    with pytest.raises(sa.exc.DataError), tenant_scope(session, ann.id_):
        savepoint = session.begin_nested()
        session.execute(sa.text("SELECT 1/0"))
    assert savepoint is not None
    savepoint.rollback()
    assert tenant_on(session.connection()) is None

    # A flush that fails rolls back to the savepoint by itself.
    with pytest.raises(sa.exc.ProgrammingError), tenant_scope(session, ann.id_):
        savepoint = session.begin_nested()
        session.add(Workflow(name="x", owner_id=bob.id_, type_="serial", specification={}))
        session.flush()
    savepoint.rollback()
    assert tenant_on(session.connection()) is None


def test_a_session_on_a_connection_is_refused(engine: sa.Engine, ann: Tenant, bob: Tenant) -> None:
    with engine.connect() as connection:
        with orm.Session(connection) as session:
            with pytest.raises(errors.Refused, match="bound to a connection"), tenant_scope(session, ann.id_):
                pass
            assert tenant_on(session.connection()) is None
        assert tenant_on(connection) is None
        with (
            tenant_sessionmaker(None, lambda: ann.id_)(bind=connection) as session,
            pytest.raises(errors.Refused, match="bound to a connection"),
        ):
            session.scalars(sa.select(Workflow))
        assert tenant_on(connection) is None


@pytest.mark.parametrize("whole", [True, False])
def test_a_transaction_that_is_ended_on_its_connection_is_not_followed_by_one_outside(
    engine: sa.Engine, ann: Tenant, bob: Tenant, whole: bool
) -> None:
    with tenant_sessionmaker(engine, lambda: ann.id_)() as scoped, orm.Session(engine) as plain:
        session = scoped if whole else plain
        for end in ("rollback", "commit", "ROLLBACK", "commit;"):
            with tenant_scope(session, ann.id_):
                with pytest.raises(errors.Refused, match="was ended on its connection"):
                    if end.isupper() or ";" in end:
                        session.execute(sa.text(end))
                    else:
                        getattr(session.connection(), end)()
                        session.execute(sa.text("SELECT 1"))
                for _ in range(2):
                    with pytest.raises((errors.Refused, sa.exc.SQLAlchemyError)):
                        session.execute(sa.text("DELETE FROM platform.note"))
                session.close()
                assert tenant_on(session.connection()) == str(ann.id_)
            session.close()


def test_a_scope_that_could_not_be_entered_is_not_worked_outside_of(
    engine: sa.Engine, ann: Tenant, bob: Tenant
) -> None:
    autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
    with tenant_sessionmaker(autocommit, lambda: ann.id_)() as session:
        with pytest.raises(errors.PlatformDBError, match="commits each statement"):
            session.execute(sa.text("DELETE FROM platform.note"))
        with pytest.raises(sa.exc.PendingRollbackError):
            session.execute(sa.text("DELETE FROM platform.note"))
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM platform.note")).scalar() == 2


def test_scopes_leave_nothing_in_memory(engine: sa.Engine, ann: Tenant) -> None:
    for _ in range(20):
        with orm.Session(engine) as session, tenant_scope(session, ann.id_):
            session.execute(WHO)
    del session
    gc.collect()
    assert len(connections._watches) == 0


def test_a_scope_adds_nothing_to_each_statement(session: orm.Session, ann: Tenant) -> None:
    said: list[str] = []
    with tenant_scope(session, ann.id_):
        event.listen(session.connection(), "before_cursor_execute", lambda *args: said.append(args[2]))
        for _ in range(3):
            session.execute(WHO)
    assert len(said) == 3 + 2
