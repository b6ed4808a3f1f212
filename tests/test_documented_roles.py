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
from platform_db.lifecycle.transitions import override_guard, transition
from platform_db.models import RunStatus
from platform_db.tenancy import roles
from tests.factories import make_run, make_user

PAGE = Path(__file__).parents[1] / "docs" / "operations.rst"


class Logins(NamedTuple):
    """The URLs of one database for two logins."""

    owner: str
    api: str


@pytest.fixture
def logins(postgres_server_uri: str) -> Iterator[Logins]:
    """Run what the page says under random names, and remove what it made."""
    suffix = secrets.token_hex(4)
    server = sa.create_engine(database.normalise_url(postgres_server_uri), isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        if not connection.scalar(sa.text("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")):
            pytest.skip("the login is no superuser, so it may not act as the roles that it creates")
    owner, api, name = (f"{name}_{suffix}" for name in ("platform_owner", "api", "platform"))
    url = server.url.set(database=name)

    def as_role(role: str) -> str:
        options = {"options": f"-c role={role}"}
        return url.update_query_dict(options).render_as_string(hide_password=False)

    found = Logins(as_role(owner), as_role(api))
    try:
        execute(server, documented_sql(suffix))
        roles.create_roles(lambda: Session(server))
        as_owner = database.create_engine(found.owner, poolclass=sa.NullPool)
        schema.init_db(as_owner)
        roles.grant_privileges(lambda: Session(as_owner))
        as_administrator = database.create_engine(url, poolclass=sa.NullPool)
        roles.grant_privileges(lambda: Session(as_administrator), to=api)
        yield found
    finally:
        execute(server, [f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"])
        execute(server, [f"DROP ROLE IF EXISTS {role}" for role in (owner, api)])
        server.dispose()


def documented_sql(suffix: str) -> list[str]:
    """Return the statements of the page."""
    section = PAGE.read_text(encoding="utf-8").partition("\nRoles\n-----\n")[2]
    block = re.search(r"code-block:: sql\n\n((?: {3}.*\n|\n)+)", section)
    assert block is not None
    sql = re.sub(r"\b(platform_owner|api|DATABASE platform)\b", rf"\1_{suffix}", block[1])
    return [statement for part in sql.split(";") if (statement := part.strip())]


def execute(server: sa.Engine, statements: list[str]) -> None:
    with server.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def test_a_service_works_with_the_documented_roles(logins: Logins) -> None:
    engine = database.create_engine(logins.api, poolclass=sa.NullPool)
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
        "UPDATE platform.audit_log SET action = action",
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
