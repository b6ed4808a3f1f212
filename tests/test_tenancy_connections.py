"""The scope holds on each connection of its session until the transaction ends, and its end is noticed."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy import event, orm

from platform_db import database, errors
from platform_db.models import Note, Workflow
from platform_db.tenancy import tenant_scope, tenant_sessionmaker
from tests.tenants import WHO, Tenant, make_tenant, prepare_roles

ENDED = "was ended on its connection"


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
    role, tenant, _ = connection.execute(WHO).one()
    return tenant if role == "platform_tenant" else None


def notes(session: orm.Session) -> list[str]:
    """Return all notes, as the superuser sees them."""
    session.rollback()
    return sorted(session.scalars(sa.select(Note.message)))


def test_every_connection_of_the_session_is_in_the_scope(
    engine: sa.Engine, second: sa.Engine, session: orm.Session, ann: Tenant, bob: Tenant
) -> None:
    with tenant_scope(orm.sessionmaker(engine, binds={Note: second}), ann.id_) as own:
        on_second = own.connection(bind_arguments={"mapper": Note})
        assert on_second is not own.connection()
        assert tenant_on(on_second) == tenant_on(own.connection()) == str(ann.id_)
        assert on_second.execute(sa.update(Note.__table__).values(message="x")).rowcount == 1
    assert notes(session) == ["bob", "x"]


@pytest.mark.parametrize("comment", ["", "/* trace=1 */ ", "-- trace\n"])
@pytest.mark.parametrize("kind", ["orm", "core", "text"])
def test_no_rollback_to_a_savepoint_ends_the_scope(
    engine: sa.Engine, ann: Tenant, bob: Tenant, kind: str, comment: str
) -> None:
    def tag(connection: object, cursor: object, statement: str, parameters: object, *_: object) -> object:
        return comment + statement, parameters

    event.listen(engine, "before_cursor_execute", tag, retval=True)
    with tenant_scope(engine, ann.id_) as session:

        class Text:
            def __init__(self) -> None:
                session.execute(sa.text("SAVEPOINT mine"))

            def rollback(self) -> None:
                session.execute(sa.text("rollback to mine; SELECT 1"))

        begin = {"orm": session.begin_nested, "core": session.connection().begin_nested, "text": Text}[kind]
        outer = begin()
        inner = begin()
        assert tenant_on(session.connection()) == str(ann.id_)
        with pytest.raises(sa.exc.DataError):
            session.execute(sa.text("SELECT 1/0"))
        inner.rollback()
        assert tenant_on(session.connection()) == str(ann.id_)
        outer.rollback()
        assert tenant_on(session.connection()) == str(ann.id_)


def test_an_error_in_a_savepoint_leaves_the_rest_in_the_scope(
    engine: sa.Engine, ann: Tenant, bob: Tenant
) -> None:
    with tenant_scope(engine, ann.id_) as session:
        with pytest.raises(sa.exc.DataError), session.begin_nested():
            session.execute(sa.text("SELECT 1/0"))
        # A flush that fails rolls back to the savepoint by itself.
        with pytest.raises(sa.exc.ProgrammingError), session.begin_nested():
            session.add(Workflow(name="x", owner_id=bob.id_, type_="serial", specification={}))
        assert tenant_on(session.connection()) == str(ann.id_)


STEAL = "SELECT message FROM platform.note"


@pytest.mark.parametrize(
    "text",
    [
        "rollback",
        "/* trace */ COMMIT;",
        "-- trace\nCOMMIT",
        "END",
        "ABORT",
        "COMMIT AND CHAIN",
        "ROLLBACK AND CHAIN",
        "PREPARE TRANSACTION 'p'",
        f"ROLLBACK; {STEAL}",
        f"COMMIT; BEGIN; {STEAL}",
        f"/* trace */ COMMIT; /* trace */ BEGIN; SAVEPOINT s; {STEAL}",
        f"SELECT 1; ROLLBACK; BEGIN; {STEAL}",
        "COMMIT; BEGIN; DELETE FROM platform.note",
        "COMMIT; DELETE FROM platform.note; BEGIN",
        "COMMIT; BEGIN; SET LOCAL platform.user_id = 'x'; UPDATE platform.note SET message = 'x'",
        "RESET ALL",
    ],
)
def test_a_statement_that_ends_the_scopes_transaction_gives_nothing_and_commits_nothing(
    engine: sa.Engine, session: orm.Session, ann: Tenant, bob: Tenant, text: str
) -> None:
    with tenant_sessionmaker(engine, ann.id_)() as own:
        with pytest.raises((errors.Refused, sa.exc.DBAPIError)) as caught:
            own.execute(sa.text(text))
        if not text.startswith("PREPARE"):  # which the server refuses where it keeps none
            assert ENDED in str(caught.value)
        for _ in range(2):
            with pytest.raises((errors.Refused, sa.exc.SQLAlchemyError)):
                own.execute(sa.text("DELETE FROM platform.note"))
        own.rollback()
        assert tenant_on(own.connection()) == str(ann.id_)
    assert notes(session) == ["ann", "bob"]


@pytest.mark.parametrize("end", ["rollback", "commit"])
def test_a_transaction_that_is_ended_by_core_is_not_followed_by_one_outside(
    engine: sa.Engine, session: orm.Session, ann: Tenant, bob: Tenant, end: str
) -> None:
    with tenant_sessionmaker(engine, ann.id_)() as own:
        getattr(own.connection(), end)()
        with pytest.raises((errors.Refused, sa.exc.InvalidRequestError)):
            own.execute(sa.text("DELETE FROM platform.note"))
    assert notes(session) == ["ann", "bob"]


@pytest.mark.parametrize("then", ["execute", "commit"])
@pytest.mark.parametrize("text", ["COMMIT", "COMMIT; BEGIN; DELETE FROM platform.note", "COMMIT; SELECT 1/0"])
def test_what_is_done_behind_sqlalchemy_is_noticed_at_the_next_statement_or_the_commit(
    engine: sa.Engine, session: orm.Session, ann: Tenant, bob: Tenant, text: str, then: str
) -> None:
    with tenant_sessionmaker(engine, ann.id_)() as own:
        cursor = own.connection().connection.cursor()
        try:
            cursor.execute(text)
        except Exception as error:
            assert "division by zero" in str(error)
        with pytest.raises(errors.Refused, match=ENDED):
            own.commit() if then == "commit" else own.execute(sa.text("DELETE FROM platform.note"))
    assert notes(session) == ["ann", "bob"]


def test_an_error_after_the_transaction_was_ended_is_followed_by_nothing(
    engine: sa.Engine, session: orm.Session, ann: Tenant, bob: Tenant
) -> None:
    for text in ("COMMIT; SELECT 1/0", "COMMIT; BEGIN; SELECT 1/0"):
        with tenant_sessionmaker(engine, ann.id_)() as own:
            with pytest.raises(sa.exc.DataError):
                own.execute(sa.text(text))
            with pytest.raises((errors.Refused, sa.exc.PendingRollbackError)):
                own.execute(sa.text("DELETE FROM platform.note"))
    assert notes(session) == ["ann", "bob"]


def test_scopes_leave_nothing_in_memory(engine: sa.Engine, ann: Tenant) -> None:
    left = []
    for _ in range(20):
        with tenant_scope(engine, ann.id_) as session:
            session.execute(WHO)
            left += [weakref.ref(session), weakref.ref(session.connection()), weakref.ref(type(session))]
    kept = type(session)
    del session
    gc.collect()
    assert {reference() for reference in left} == {None, kept}  # one class, for all scopes


def test_a_scope_adds_nothing_to_each_statement(engine: sa.Engine, ann: Tenant) -> None:
    said: list[str] = []
    with tenant_scope(engine, ann.id_) as session:
        event.listen(session.connection(), "before_cursor_execute", lambda *args: said.append(args[2]))
        for _ in range(3):
            session.execute(WHO)
    assert len(said) == 3


def test_the_mark_shows_whose_connection_it_is(database_uri: str, session: orm.Session, ann: Tenant) -> None:
    engine = database.create_engine(database_uri, connect_args={"application_name": "a" * 63})
    with tenant_scope(engine, ann.id_) as own:
        assert own.execute(WHO).one()[2] == ("scope: " + "a" * 63)[:63]
    engine.dispose()
