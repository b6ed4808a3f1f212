"""The roles that the documentation recommends suffice for a service, and allow it no more."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import database, quota, schema
from platform_db.models import RunStatus
from platform_db.transitions import override_guard, transition
from tests.factories import make_run, make_user

PAGE = Path(__file__).parents[1] / "docs" / "operations.rst"


class Roles(NamedTuple):
    """The URLs of one database for two roles."""

    owner: str
    service: str


@pytest.fixture
def roles(postgres_server_uri: str) -> Iterator[Roles]:
    """Run the documented statements under random names, and remove what they made."""
    suffix = secrets.token_hex(4)
    server = sa.create_engine(database.normalise_url(postgres_server_uri), isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        if not connection.scalar(sa.text("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")):
            pytest.skip("the login is no superuser, so it may not act as the roles that it creates")
    once, per_database = documented_sql(suffix)
    names = {role: f"platform_{role}_{suffix}" for role in Roles._fields}
    url = server.url.set(database=f"platform_{suffix}")

    def as_role(role: str) -> str:
        options = {"options": f"-c role={names[role]}"}
        return url.update_query_dict(options).render_as_string(hide_password=False)

    try:
        execute(server, once)
        found = Roles(*map(as_role, Roles._fields))
        owner = database.create_engine(found.owner, poolclass=sa.NullPool)
        schema.init_db(owner)
        with owner.begin() as connection:
            for statement in per_database:
                connection.exec_driver_sql(statement)
        yield found
    finally:
        execute(server, [f"DROP DATABASE IF EXISTS platform_{suffix} WITH (FORCE)"])
        execute(server, [f"DROP ROLE IF EXISTS {name}" for name in names.values()])
        server.dispose()


def documented_sql(suffix: str) -> tuple[list[str], list[str]]:
    """Return what the page says to run on the server, and then in the database."""
    section = PAGE.read_text(encoding="utf-8").partition("\nRoles\n-----\n")[2]
    block = re.search(r"code-block:: sql\n\n((?: {3}.*\n|\n)+)", section)
    assert block is not None
    sql = re.sub(r"(platform_owner|platform_service|DATABASE platform)\b", rf"\1_{suffix}", block[1])
    once, marker, per_database = sql.partition("-- After the first")
    assert marker
    return statements(once), statements(per_database.partition("\n")[2])


def statements(sql: str) -> list[str]:
    return [statement for part in re.sub(r"--.*", "", sql).split(";") if (statement := part.strip())]


def execute(server: sa.Engine, statements: list[str]) -> None:
    with server.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def test_a_service_works_with_the_documented_roles(roles: Roles) -> None:
    engine = database.create_engine(roles.service, poolclass=sa.NullPool)
    with Session(engine) as session:
        owner = make_user(session)
        run = make_run(session, owner, logs="collecting\n")
        transition(session, run, RunStatus.queued)
        with override_guard(session, reason="its worker was lost"):
            run.status = RunStatus.finished
        quota.update_users_cpu_quota(session, owner)
        quota.set_limit(session, owner, "disk", 100)
        quota.release(session, quota.reserve(session, owner, "disk", 40))
        session.commit()
        session.delete(run)
        session.commit()

    refused = (
        "UPDATE platform.status_change SET reason = 'mine'",
        "DELETE FROM platform.status_change",
        "DELETE FROM platform.audit_log",
        "UPDATE platform.log_chunk SET owner_id = owner_id",
        "UPDATE platform.alembic_version SET version_num = '9999'",
        "CREATE TABLE platform.mine ()",
        "ALTER TABLE platform.workflow DISABLE TRIGGER ALL",
    )
    for statement in refused:
        with pytest.raises(sa.exc.ProgrammingError, match=r"permission denied|must be owner"):
            execute(engine, [statement])
    with engine.connect() as connection:
        schema.status(connection).require_current()


def test_a_table_of_a_later_revision_can_be_used(roles: Roles) -> None:
    later = database.create_engine(roles.owner, poolclass=sa.NullPool)
    with later.begin() as connection:
        connection.exec_driver_sql("CREATE SEQUENCE platform.later_version")
        connection.exec_driver_sql(
            "CREATE TABLE platform.later (version bigint DEFAULT nextval('platform.later_version'))"
        )

    with database.create_engine(roles.service, poolclass=sa.NullPool).begin() as connection:
        connection.exec_driver_sql("INSERT INTO platform.later DEFAULT VALUES")
