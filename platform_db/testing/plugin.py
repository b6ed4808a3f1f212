"""pytest fixtures: a server for the run, a migrated template made once, a database for each test.

Tests commit for real: every test has a database of its own, cloned from the template and dropped
afterwards. All processes of pytest-xdist share one server and one template.
"""

from __future__ import annotations

import functools
import itertools
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import pytest
from sqlalchemy import orm
from sqlalchemy.engine import Engine

from platform_db import database, schema, sessions, settings
from platform_db.database.session import PlatformSession
from platform_db.models import Job, User, Workflow
from platform_db.models.identity import UserOrId
from platform_db.settings.secret_keys import generate_key
from platform_db.tenancy import roles, tenant_scope
from platform_db.testing import databases, factories, server, statements
from platform_db.testing import pooler as poolers
from platform_db.testing.pooler import Pooler
from platform_db.testing.server import RunServer

Made = TypeVar("Made", User, Workflow, Job)

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres_server(request: pytest.FixtureRequest) -> Iterator[RunServer]:
    """Use the server of this run; the last process of the run stops it."""
    worker = getattr(request.config, "workerinput", None)
    with server.run_server(worker["testrunuid"] if worker else secrets.token_hex(16)) as run_server:
        yield run_server


@pytest.fixture(scope="session")
def postgres_server_uri(postgres_server: RunServer) -> str:
    """Give the URL of a database to connect to for creating others."""
    return postgres_server.uri


@pytest.fixture(scope="session")
def seed_template() -> Callable[[orm.Session], None]:
    """Give what adds rows to the template once, beside the default resources; a project overrides it."""
    return lambda session: None


@pytest.fixture(scope="session")
def template_database(postgres_server: RunServer, seed_template: Callable[[orm.Session], None]) -> str:
    """Give the name of a migrated database with the default resources, which can be cloned."""
    name = f"{postgres_server.prefix}template"

    def make() -> None:
        databases.drop_database(postgres_server.uri, name)  # left by a process that failed or was killed
        migrate(databases.create_database(postgres_server.uri, name), seed_template)
        databases.close_to_connections(postgres_server.uri, name)

    postgres_server.once("template", make)
    return name


@pytest.fixture(scope="session")
def pooler(postgres_server: RunServer) -> Iterator[Pooler]:
    """Give a PgBouncer in transaction mode before the server; without one installed the test is skipped."""
    if poolers.pgbouncer() is None:
        pytest.skip("there is no pgbouncer: install it, or run ./run-tests.sh pooler once")
    with poolers.run_pooler(postgres_server) as pooler:
        yield pooler


@pytest.fixture
def direct_database_uri(postgres_server: RunServer, template_database: str) -> Iterator[str]:
    """Give a migrated database of this test's own, whose server is reached without a pooler."""
    yield from _own_database(postgres_server, template_database)


@pytest.fixture
def pooled_database_uri(direct_database_uri: str, pooler: Pooler) -> str:
    """Give the same database through a PgBouncer in transaction mode."""
    return pooler.before(direct_database_uri)


@pytest.fixture
def database_uri(request: pytest.FixtureRequest) -> str:
    """Give a migrated database of this test's own."""
    pooled = os.environ.get(poolers.VARIABLE)
    uri: str = request.getfixturevalue("pooled_database_uri" if pooled else "direct_database_uri")
    return uri


@pytest.fixture
def empty_database_uri(postgres_server: RunServer) -> Iterator[str]:
    """Give an empty database of this test's own."""
    yield from _own_database(postgres_server, None)


@pytest.fixture
def engine(database_uri: str) -> Iterator[Engine]:
    """Give an engine on this test's migrated database."""
    engine = database.create_engine(database_uri)
    yield engine
    engine.dispose()


@pytest.fixture
def session_factory(engine: Engine) -> orm.sessionmaker[PlatformSession]:
    """Give a maker of sessions on this test's migrated database."""
    return orm.sessionmaker(engine, class_=PlatformSession)


@pytest.fixture
def session(session_factory: orm.sessionmaker[PlatformSession]) -> Iterator[PlatformSession]:
    """Give a session on this test's migrated database; its commits are real."""
    with session_factory() as session:
        yield session


@pytest.fixture
def secret_key(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Set a random secret key for the length of a test, and give it."""
    key = generate_key()
    monkeypatch.setenv("PLATFORM_DB_SECRET_KEY", key)
    settings.reset_settings()
    yield key
    settings.reset_settings()


@pytest.fixture
def configured_database(
    database_uri: str, direct_database_uri: str, secret_key: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Make this test's database the configured one, which the process's engine is on; give its URL."""
    monkeypatch.setenv("PLATFORM_DB_URI", database_uri)
    if database_uri != direct_database_uri:
        monkeypatch.setenv("PLATFORM_DB_MIGRATION_URI", direct_database_uri)
    settings.reset_settings()
    sessions.reset_engine()
    yield database_uri
    sessions.reset_engine()


@pytest.fixture
def tenant_roles(session_factory: orm.sessionmaker[PlatformSession]) -> None:
    """Make the roles that a tenant's scope needs, with their privileges in this test's database."""
    roles.create_roles(session_factory)
    roles.grant_privileges(session_factory)


@pytest.fixture
def as_tenant(
    engine: Engine, tenant_roles: None
) -> Callable[[UserOrId], AbstractContextManager[orm.Session]]:
    """Give ``as_tenant(user)``, a block's session that sees the user's rows alone and commits at its end."""
    return functools.partial(tenant_scope, engine)


@pytest.fixture
def make_user(session: PlatformSession) -> Callable[..., User]:
    """Give :func:`platform_db.testing.factories.make_user`, on this test's session and with a commit."""
    return _committing(session, factories.make_user)


@pytest.fixture
def make_run(session: PlatformSession) -> Callable[..., Workflow]:
    """Give :func:`platform_db.testing.factories.make_run`, on this test's session and with a commit."""
    return _committing(session, factories.make_run)


@pytest.fixture
def make_job(session: PlatformSession) -> Callable[..., Job]:
    """Give :func:`platform_db.testing.factories.make_job`, on this test's session and with a commit."""
    return _committing(session, factories.make_job)


@pytest.fixture
def assert_num_statements() -> Callable[[int], AbstractContextManager[list[str]]]:
    """Give :func:`platform_db.testing.statements.assert_num_statements`."""
    return statements.assert_num_statements


def _committing(session: PlatformSession, make: Callable[..., Made]) -> Callable[..., Made]:
    @functools.wraps(make)
    def make_and_commit(*args: Any, **options: Any) -> Made:
        row = make(session, *args, **options)
        session.commit()
        return row

    return make_and_commit


def migrate(uri: str, seed: Callable[[orm.Session], None] = lambda session: None) -> None:
    """Bring a database to the newest schema, leaving no connection.

    :param seed: adds rows.
    """
    engine = database.create_engine(uri)
    try:
        schema.init_db(engine)
        with PlatformSession(engine) as session, session.begin():
            seed(session)
    finally:
        engine.dispose()


def _own_database(run_server: RunServer, template: str | None) -> Iterator[str]:
    name = f"{run_server.prefix}{os.getpid()}_{next(_numbers)}"
    try:
        yield databases.create_database(run_server.uri, name, template=template)
    finally:
        databases.drop_database(run_server.uri, name)
