"""Two platforms on one server have roles of their own, and what a role reaches in both is told."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from platform_db import errors, settings
from platform_db.database.session import PlatformSession
from platform_db.models import Workflow
from platform_db.schema.objects import PARTITIONS
from platform_db.tenancy import drift, reach, roles, tenant_scope
from platform_db.tenancy.privileges import Role, role_name
from platform_db.testing import databases
from tests.command_line import run
from tests.tenants import make_tenant, prepare_roles


@pytest.fixture
def prefix(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Give roles a prefix of this test's own, and drop them when it ends."""
    prefix = f"lab_{secrets.token_hex(4)}"
    monkeypatch.setenv("PLATFORM_DB_ROLE_PREFIX", prefix)
    settings.reset_settings()
    names = [role_name(role) for role in Role]
    yield prefix
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        existing = connection.execute(
            sa.text("SELECT rolname FROM pg_roles WHERE rolname = ANY (:names)"), {"names": names}
        )
        for name in existing.scalars().all():
            connection.exec_driver_sql(f"DROP OWNED BY {name} CASCADE")
            connection.exec_driver_sql(f"DROP ROLE {name}")
    monkeypatch.undo()
    settings.reset_settings()


@pytest.fixture
def second(database_uri: str, postgres_server, template_database: str) -> Iterator[sa.Engine]:
    """Give another migrated database on the same server."""
    name = f"{sa.make_url(database_uri).database}_second"
    engine = sa.create_engine(
        databases.create_database(postgres_server.uri, name, template=template_database)
    )
    yield engine
    engine.dispose()
    databases.drop_database(postgres_server.uri, name)


def test_the_roles_have_the_prefix(engine: sa.Engine, session: orm.Session, prefix: str) -> None:
    prepare_roles(engine)
    assert drift.differences(session) == []
    tenant = make_tenant(session, "ann")
    with tenant_scope(engine, tenant.id_) as own:
        assert own.scalar(sa.text("SELECT current_user")) == f"{prefix}_tenant"
        assert own.get(Workflow, tenant.run) is not None
    statements = [*roles.create_statements(), *roles.grant_statements()]
    assert not [statement for statement in statements if "platform_" in statement.replace(PARTITIONS, "")]


def test_services_may_act_as_tenants_again(engine: sa.Engine, session: orm.Session, prefix: str) -> None:
    prepare_roles(engine)
    session.execute(sa.text(f"REVOKE {prefix}_tenant FROM {prefix}_service"))
    session.commit()
    assert roles.create_roles(orm.sessionmaker(engine, class_=PlatformSession)) == []
    assert drift.differences(session) == []


def test_a_database_of_other_roles_differs(
    engine: sa.Engine, session: orm.Session, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_roles(engine)
    monkeypatch.delenv("PLATFORM_DB_ROLE_PREFIX")
    settings.reset_settings()
    roles.create_roles(orm.sessionmaker(engine, class_=PlatformSession))
    assert ("job", "platform_service") in [(found.table, found.role) for found in drift.differences(session)]


@pytest.mark.parametrize("attribute", ["SUPERUSER", "BYPASSRLS"])
def test_a_role_that_sees_past_the_policies_differs(
    engine: sa.Engine, session: orm.Session, prefix: str, attribute: str
) -> None:
    prepare_roles(engine)
    session.execute(sa.text(f"ALTER ROLE {prefix}_readonly {attribute}"))
    assert [found.role for found in drift.differences(session)] == [f"{prefix}_readonly"]
    session.rollback()


@pytest.mark.parametrize("value", ["Lab", "lab-1", "1lab", "a" * 54, "pg", "pg_lab", 'lab"; --'])
def test_a_prefix_is_an_identifier(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLATFORM_DB_ROLE_PREFIX", value)
    settings.reset_settings()
    try:
        with pytest.raises(errors.InvalidSetting, match="PLATFORM_DB_ROLE_PREFIX"):
            role_name(Role.service)
    finally:
        monkeypatch.undo()
        settings.reset_settings()


def test_what_the_roles_reach_in_another_database_is_told(
    database_uri: str, engine: sa.Engine, second: sa.Engine, session: orm.Session, prefix: str
) -> None:
    login = f"{prefix}_login"
    prepare_roles(engine)
    roles.grant_privileges(orm.sessionmaker(engine, class_=PlatformSession), to=None)
    assert reach.elsewhere(session) == []
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {login}")
    try:
        roles.grant_privileges(orm.sessionmaker(engine, class_=PlatformSession), to=login, role=Role.readonly)
        with second.begin() as connection:
            database = connection.dialect.identifier_preparer.quote(second.url.database)
            connection.exec_driver_sql("CREATE SCHEMA other")
            connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA other TO {prefix}_service, {login}")
            connection.exec_driver_sql(f"REVOKE CONNECT ON DATABASE {database} FROM PUBLIC")
            connection.exec_driver_sql(f"GRANT CONNECT ON DATABASE {database} TO {login}")
        name = str(second.url.database)
        found = [reach.Reach(name, login, 2, True), reach.Reach(name, f"{prefix}_service", 1, False)]
        session.rollback()
        assert reach.elsewhere(session) == found
        shown = run(database_uri, "roles", "show", "--json", PLATFORM_DB_ROLE_PREFIX=prefix)
        assert json.loads(shown.stdout)["elsewhere"] == [each.__dict__ for each in found]
        shown = run(database_uri, "roles", "show", PLATFORM_DB_ROLE_PREFIX=prefix)
        assert f"in the database {name}, {login} has 2 objects, and may connect" in shown.stdout
    finally:
        for each in (engine, second):
            with each.begin() as connection:
                connection.exec_driver_sql(f"DROP OWNED BY {login} CASCADE")
                connection.exec_driver_sql(f"DROP OWNED BY {prefix}_service CASCADE")
        with engine.begin() as connection:
            connection.exec_driver_sql(f"DROP ROLE {login}")


def test_a_login_that_acts_on_two_platforms_is_named(
    database_uri: str, engine: sa.Engine, second: sa.Engine, session: orm.Session, prefix: str
) -> None:
    login, other = f"{prefix}_login", f"{prefix}_other_service"
    prepare_roles(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {other}")
        connection.exec_driver_sql(f"CREATE ROLE {login} IN ROLE {prefix}_service, {other}")
    try:
        with second.begin() as connection:
            connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA platform TO {other}")
        name = str(second.url.database)
        assert reach.elsewhere(session) == [reach.Reach(name, other, 1, True, [login])]
        shown = run(database_uri, "roles", "show", PLATFORM_DB_ROLE_PREFIX=prefix)
        assert f"in the database {name}, {other} ({login} acts as it) has 1 objects" in shown.stdout
    finally:
        with second.begin() as connection:
            connection.exec_driver_sql(f"DROP OWNED BY {other}")
            connection.exec_driver_sql(f"DROP ROLE {login}, {other}")
