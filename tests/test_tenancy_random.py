"""Thousands of random operations inside a tenant's scope touch no row of another tenant."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import psycopg2
import pytest
import sqlalchemy as sa
from sqlalchemy import event, orm

from platform_db import database, errors
from platform_db.models import Note
from platform_db.states import MACHINES
from platform_db.tenancy import connections, sessions, tenant_scope, tenant_sessionmaker
from platform_db.tenancy.privileges import Role
from tests.tenant_operations import EXTRAS, OWNERS, Operations
from tests.tenants import Tenant, login_engine, make_tenant, prepare_roles

SEED = 20261121

# After so many operations the other tenant's rows are compared, and the own ones made again.
ROUND = 50

EXPECTED = (sa.exc.SQLAlchemyError, psycopg2.Error, orm.exc.StaleDataError, errors.PlatformDBError)

Scope = Callable[[Tenant], AbstractContextManager[orm.Session]]


class Touched(AssertionError):
    """An operation saw or changed another tenant's row, or removed what was recorded."""


@pytest.fixture
def bob(engine: sa.Engine, session: orm.Session) -> Tenant:
    prepare_roles(engine)
    with engine.begin() as connection:
        for statement in EXTRAS:
            connection.exec_driver_sql(statement)
    return make_tenant(session, "bob")


@pytest.fixture
def without_criteria() -> Iterator[None]:
    event.remove(sessions._TenantSession, "do_orm_execute", sessions.add_owner)
    yield
    event.listen(sessions._TenantSession, "do_orm_execute", sessions.add_owner)


def fingerprint(engine: sa.Engine, tenant: Tenant) -> dict[str, str]:
    """Return what there is of a tenant, by table, as the superuser sees it."""
    query = " UNION ALL ".join(
        f"SELECT '{table}', coalesce(md5(string_agg(t::text, ',' ORDER BY t::text)), '')"
        f" FROM platform.{table} AS t WHERE {owner} = '{tenant.id_}'"
        for table, owner in OWNERS.items()
    )
    with engine.connect() as connection:
        return {row[0]: row[1] for row in connection.exec_driver_sql(query)}


def recorded(engine: sa.Engine, tenant: Tenant) -> set[Any]:
    """Return what is recorded of a tenant: the audit log, and the history of the rows that there are."""
    rows = " UNION ALL ".join(f"SELECT id_ FROM platform.{entity}" for entity in MACHINES)
    query = (
        f"SELECT id_, 0 FROM platform.audit_log WHERE owner_id = '{tenant.id_}' UNION ALL"
        f" SELECT entity_id, revision FROM platform.status_change WHERE owner_id = '{tenant.id_}'"
    )
    with engine.connect() as connection:
        living = set(connection.exec_driver_sql(rows).scalars())
        return {tuple(row) for row in connection.exec_driver_sql(query)} | {("living", id_) for id_ in living}


def lost(before: set[Any], after: set[Any]) -> set[Any]:
    """Return what is no longer recorded, of what has not gone with its row."""
    gone = {id_ for mark, id_ in before - after if mark == "living"}
    return {row for row in before - after if row[0] != "living" and row[0] not in gone}


def trace(engine: sa.Engine, seed: int) -> None:
    """Let statements begin with a comment, as tracing hooks write it."""
    choose = random.Random(seed)

    def tag(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> Any:
        return choose.choice(["", "/* trace=1 */ ", "-- trace\n", "  \n"]) + statement, parameters

    event.listen(engine, "before_cursor_execute", tag, retval=True)


def roll_back(session: orm.Session) -> None:
    """Roll back, also where the rollback to a savepoint is what notices that the transaction was ended."""
    for _ in range(2):
        with contextlib.suppress(*EXPECTED):
            session.rollback()


def operate(
    engine: sa.Engine,
    scope: Scope,
    bob: Tenant,
    count: int,
    *,
    nobody: bool = False,
    commit_outside: bool = False,
) -> int:
    """Do so many operations as Ann's service; return how many of them the database did not refuse.

    :param scope: gives Ann's session, or that of no tenant.
    """
    before = fingerprint(engine, bob)
    marks = [str(id_) for id_ in vars(bob).values()] + ["bob@example.org", "'bob'"]
    done = 0
    for round_ in range(count // ROUND):
        with orm.Session(engine) as session:
            ann = make_tenant(session, f"ann-{round_}")
            for table in ("workflow", "job"):
                session.execute(
                    sa.text(f"UPDATE platform.{table} SET status = 'queued' WHERE owner_id = :own"),
                    {"own": ann.id_},
                )
            session.commit()
        story = recorded(engine, ann)
        operations = Operations(SEED + round_, ann, bob, commit_outside=commit_outside)
        hidden = [*marks, str(ann.id_), str(ann.run)] if nobody else marks
        with scope(ann) as session:
            for _ in range(ROUND):
                session.info.pop("points", None)
                try:
                    seen = repr(operations.run(session))
                    session.commit()
                    done += 1
                except EXPECTED:
                    roll_back(session)
                    continue
                if any(mark in seen for mark in hidden):
                    raise Touched(f"round {round_} saw {seen[:500]}")
        after = fingerprint(engine, bob)
        if after != before:
            raise Touched(f"round {round_} changed {[t for t in after if after[t] != before[t]]}")
        if missing := lost(story, recorded(engine, ann)):
            raise Touched(f"round {round_} removed {missing}")
    return done


# Operations leave it to the flush to find a parent's owner, whom it must not see, and end savepoints by SQL.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Column 'platform.job.owner_id'", "ignore:nested transaction already deassociated"
)

COUNTS = [300, pytest.param(10_000, marks=pytest.mark.soak)]


@pytest.fixture
def scope(engine: sa.Engine, database_uri: str, bob: Tenant) -> Iterator[Scope]:
    """Give Ann's sessions on an engine of their own, whose login may do everything."""
    own = database.create_engine(database_uri)
    trace(own, SEED)
    yield lambda ann: tenant_scope(own, ann.id_)
    own.dispose()


@pytest.mark.parametrize("count", COUNTS)
def test_no_row_of_another_tenant_is_touched(
    engine: sa.Engine, scope: Scope, bob: Tenant, count: int
) -> None:
    assert operate(engine, scope, bob, count) > count / 3


@pytest.mark.parametrize("count", [200, *COUNTS[1:]])
def test_the_policies_hold_without_the_criteria(
    engine: sa.Engine, scope: Scope, bob: Tenant, without_criteria: None, count: int
) -> None:
    assert operate(engine, scope, bob, count) > count / 3


@pytest.mark.parametrize("count", COUNTS)
def test_a_login_of_the_tenants_role_alone_cannot_leave_the_scope(
    engine: sa.Engine, bob: Tenant, count: int
) -> None:
    own = login_engine(engine, "platform_test_tenant", Role.tenant)
    trace(own, SEED)
    done = operate(engine, lambda ann: tenant_scope(own, ann.id_), bob, count, commit_outside=True)
    assert done > count / 3
    own.dispose()


def test_without_the_policies_rows_are_touched(engine: sa.Engine, scope: Scope, bob: Tenant) -> None:
    with engine.begin() as connection:
        for table in OWNERS:
            connection.exec_driver_sql(f"ALTER TABLE platform.{table} DISABLE ROW LEVEL SECURITY")
    with pytest.raises(Touched):
        operate(engine, scope, bob, 300)


def test_without_the_watch_rows_are_touched(
    engine: sa.Engine, scope: Scope, bob: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_watch", lambda connection, info: None)
    with pytest.raises(Touched):
        operate(engine, scope, bob, 300)


def test_with_internal_functions_for_everybody_history_is_removed(
    engine: sa.Engine, scope: Scope, bob: Tenant
) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA platform TO PUBLIC")
    with pytest.raises(Touched, match="removed"):
        operate(engine, scope, bob, 300)


@pytest.mark.parametrize("count", [200, *COUNTS[1:]])
def test_a_session_on_two_connections_is_in_the_scope_on_both(
    engine: sa.Engine, database_uri: str, bob: Tenant, count: int
) -> None:
    # The two may wait for each other, which the server cannot see.
    impatient = {"connect_args": {"options": "-c lock_timeout=10"}}
    first, second = (database.create_engine(database_uri, **impatient) for _ in range(2))
    maker = orm.sessionmaker(first, binds={Note: second})
    assert operate(engine, lambda ann: tenant_scope(maker, ann.id_), bob, count) > count / 3
    first.dispose()
    second.dispose()


@pytest.mark.parametrize("count", [200, *COUNTS[1:]])
def test_without_a_tenant_nothing_is_touched(engine: sa.Engine, bob: Tenant, count: int) -> None:
    factory = tenant_sessionmaker(engine, lambda: None)
    operate(engine, lambda ann: factory(), bob, count, nobody=True)
