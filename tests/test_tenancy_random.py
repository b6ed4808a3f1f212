"""Thousands of random operations inside a tenant's scope touch no row of another tenant."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import pytest
import sqlalchemy as sa
from sqlalchemy import event, orm

from platform_db import database, errors
from platform_db.models import Note
from platform_db.tenancy import sessions, tenant_scope, tenant_sessionmaker
from tests.tenant_operations import EXTRAS, OWNERS, Operations
from tests.tenants import Tenant, make_tenant, prepare_roles

SEED = 20261121

# After so many operations the other tenant's rows are compared, and the own ones made anew.
ROUND = 50

EXPECTED = (sa.exc.DBAPIError, sa.exc.InvalidRequestError, orm.exc.StaleDataError, errors.PlatformDBError)


class Touched(AssertionError):
    """An operation saw or changed another tenant's row."""


@pytest.fixture
def bob(engine: sa.Engine, session: orm.Session) -> Tenant:
    prepare_roles(engine)
    with engine.begin() as connection:
        for statement in EXTRAS:
            connection.exec_driver_sql(statement)
    return make_tenant(session, "bob")


@pytest.fixture
def without_criteria() -> Iterator[None]:
    event.remove(orm.Session, "do_orm_execute", sessions.add_owner)
    yield
    event.listen(orm.Session, "do_orm_execute", sessions.add_owner)


@pytest.fixture
def without_policies(engine: sa.Engine, bob: Tenant) -> None:
    with engine.begin() as connection:
        for table in OWNERS:
            connection.exec_driver_sql(f"ALTER TABLE platform.{table} DISABLE ROW LEVEL SECURITY")


def fingerprint(engine: sa.Engine, tenant: Tenant) -> dict[str, str]:
    """Return what there is of a tenant, by table, as the superuser sees it."""
    query = " UNION ALL ".join(
        f"SELECT '{table}', coalesce(md5(string_agg(t::text, ',' ORDER BY t::text)), '')"
        f" FROM platform.{table} AS t WHERE {owner} = '{tenant.id_}'"
        for table, owner in OWNERS.items()
    )
    with engine.connect() as connection:
        return {row[0]: row[1] for row in connection.exec_driver_sql(query)}


def work_as(session: orm.Session, ann: Tenant, bob: Tenant) -> AbstractContextManager[object]:
    """Give Ann's scope on a session that Bob's rows were read in, and that has a savepoint from before."""
    session.info["held"] = [session.get(model, id_) for model, id_ in bob.rows()]
    session.info["savepoint"] = session.connection().begin_nested()
    return tenant_scope(session, ann.id_)


def operate(
    engine: sa.Engine,
    factory: orm.sessionmaker[orm.Session],
    bob: Tenant,
    count: int,
    *,
    begin: Callable[[orm.Session, Tenant, Tenant], AbstractContextManager[object]] | None = work_as,
) -> int:
    """Do so many operations as Ann's service; return how many of them the database did not refuse.

    :param begin: how each session comes to be Ann's; None where it is nobody's.
    """
    before = fingerprint(engine, bob)
    marks = [str(id_) for id_ in vars(bob).values()] + ["bob@example.org", "'bob'"]
    done = 0
    for round_ in range(count // ROUND):
        with orm.Session(engine) as session:
            ann = make_tenant(session, f"ann-{round_}")
        operations = Operations(SEED + round_, ann, bob)
        hidden = marks if begin else [*marks, str(ann.id_), str(ann.run)]
        with factory() as session, begin(session, ann, bob) if begin else nullcontext():
            if "savepoint" in session.info:
                session.info["savepoint"].rollback()
            for _ in range(ROUND):
                try:
                    seen = repr(operations.run(session))
                    session.commit()
                    done += 1
                except EXPECTED:
                    session.rollback()
                    continue
                if any(mark in seen for mark in hidden):
                    raise Touched(f"round {round_} saw {seen[:500]}")
        after = fingerprint(engine, bob)
        if after != before:
            raise Touched(f"round {round_} changed {[t for t in after if after[t] != before[t]]}")
    return done


# One of the operations leaves it to the flush to find a parent's owner, whom it must not see.
pytestmark = pytest.mark.filterwarnings("ignore:Column 'platform.job.owner_id'")

COUNTS = [1000, pytest.param(10_000, marks=pytest.mark.soak)]


@pytest.mark.parametrize("count", COUNTS)
def test_no_row_of_another_tenant_is_touched(
    engine: sa.Engine, session_factory: orm.sessionmaker[orm.Session], bob: Tenant, count: int
) -> None:
    assert operate(engine, session_factory, bob, count) > count / 2


@pytest.mark.parametrize("count", [500, *COUNTS[1:]])
def test_the_policies_hold_without_the_criteria(
    engine: sa.Engine,
    session_factory: orm.sessionmaker[orm.Session],
    bob: Tenant,
    without_criteria: None,
    count: int,
) -> None:
    assert operate(engine, session_factory, bob, count) > count / 2


def test_without_the_policies_rows_are_touched(
    engine: sa.Engine,
    session_factory: orm.sessionmaker[orm.Session],
    bob: Tenant,
    without_policies: None,
) -> None:
    with pytest.raises(Touched):
        operate(engine, session_factory, bob, 500)


@pytest.mark.parametrize("count", [200, *COUNTS[1:]])
def test_a_session_of_many_tenants_touches_only_the_current_ones(
    engine: sa.Engine, bob: Tenant, count: int
) -> None:
    current: list[uuid.UUID] = [bob.id_]

    def begin(session: orm.Session, ann: Tenant, bob: Tenant) -> AbstractContextManager[object]:
        current[0] = bob.id_
        session.info["held"] = [session.get(model, id_) for model, id_ in bob.rows()]
        session.commit()
        current[0] = ann.id_
        return nullcontext()

    factory = tenant_sessionmaker(engine, lambda: current[0], expire_on_commit=False)
    assert operate(engine, factory, bob, count, begin=begin) > count / 2


@pytest.mark.parametrize("count", [200, *COUNTS[1:]])
def test_a_session_on_two_connections_is_in_the_scope_on_both(
    engine: sa.Engine, database_uri: str, bob: Tenant, count: int
) -> None:
    # The two may wait for each other, which the server cannot see.
    impatient = {"connect_args": {"options": "-c lock_timeout=10"}}
    first, second = (database.create_engine(database_uri, **impatient) for _ in range(2))
    factory = orm.sessionmaker(first, binds={Note: second})
    assert operate(engine, factory, bob, count) > count / 2
    first.dispose()
    second.dispose()


@pytest.mark.parametrize("count", [200, *COUNTS[1:]])
def test_without_a_tenant_nothing_is_touched(engine: sa.Engine, bob: Tenant, count: int) -> None:
    operate(engine, tenant_sessionmaker(engine, lambda: None), bob, count, begin=None)
