"""The log as JSON: an object a line, with the request and the tenant, and no secret."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from platform_db import diagnostics, errors
from platform_db.database.session import PlatformSession
from platform_db.tenancy import tenant_scope, tenant_sessionmaker
from tests.command_line import run, start
from tests.factories import make_user
from tests.tenants import prepare_roles

logger = logging.getLogger("tests.service")
TOKEN = "pdb_" + "a" + 49 * "B"


@pytest.fixture
def lines() -> Iterator[Any]:
    """Give what returns the lines that were logged meanwhile, as objects."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(diagnostics.JsonFormatter())
    logger.addHandler(handler)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logger.removeHandler(handler)


def test_a_line_is_an_object_with_the_request(lines: Any) -> None:
    token = diagnostics.request_id.set("r-1")
    logger.warning("took %d\nlines", 2, extra={"password": "s3cr3t"})
    diagnostics.request_id.reset(token)
    logger.warning("after it")

    first, second = lines()
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "level": "warning",
        "logger": "tests.service",
        "message": "took 2\nlines",
        "request_id": "r-1",
    }
    assert "request_id" not in second


def test_an_exception_is_in_its_line(lines: Any) -> None:
    try:
        raise errors.Refused("no")
    except errors.Refused:
        logger.exception("it failed")

    (line,) = lines()
    assert line["exception"].startswith("Traceback")
    assert "Refused: no" in line["exception"]


def test_no_secret_gets_into_it(lines: Any) -> None:
    try:
        raise ValueError(f"token {TOKEN} of postgresql://ada:s3cr3t@server/db")
    except ValueError:
        logger.exception("postgresql+psycopg2://ada:s3cr3t@server/db?sslpassword=s3cr3t and %s", TOKEN)

    (line,) = lines()
    written = json.dumps(line)
    assert "s3cr3t" not in written
    assert TOKEN not in written
    assert "postgresql+psycopg2://ada:...@server/db?sslpassword=... and" in line["message"]


def test_a_tenants_transactions_name_the_tenant(
    session: PlatformSession, engine: sa.Engine, lines: Any
) -> None:
    prepare_roles(engine)
    ada, ben = make_user(session), make_user(session)
    logger.warning("before")
    with tenant_scope(engine, ada) as scoped:
        logger.warning("ada")
        with tenant_scope(engine, ben):
            logger.warning("ben")
        logger.warning("ada again")
        with scoped.begin_nested():
            pass
        logger.warning("ada after a savepoint")
        with ThreadPoolExecutor(1) as threads:
            threads.submit(logger.warning, "another thread").result()
    logger.warning("after")

    assert [(line["message"], line.get("tenant")) for line in lines()] == [
        ("before", None),
        ("ada", str(ada.id_)),
        ("ben", str(ben.id_)),
        ("ada again", str(ada.id_)),
        ("ada after a savepoint", str(ada.id_)),
        ("another thread", None),
        ("after", None),
    ]


def test_what_a_service_says_of_the_tenant_stays_outside_of_transactions(
    session: PlatformSession, engine: sa.Engine, lines: Any
) -> None:
    prepare_roles(engine)
    ada = make_user(session)
    session.commit()
    asking = tenant_sessionmaker(engine, ada)()
    asking.connection()
    asking.close()
    token = diagnostics.tenant.set("the service's")
    with asking.begin():
        pass  # It has not come to a connection.
    logger.warning("after a tenant's session")
    with tenant_sessionmaker(engine, lambda: None)() as of_none:
        of_none.connection()
    logger.warning("after that of no tenant")
    diagnostics.tenant.reset(token)

    assert [line.get("tenant") for line in lines()] == ["the service's"] * 2


class TestCommands:
    def test_they_log_and_fail_in_json(self, database_uri: str) -> None:
        process = start(database_uri, "user", "show", "ada@example.org", PLATFORM_DB_LOG_FORMAT="json")
        _, stderr = process.communicate(timeout=60)

        (line,) = [json.loads(line) for line in stderr.splitlines()]
        assert process.returncode == errors.NotFound.exit_code
        assert line["level"] == "error"
        assert "ada@example.org" in line["message"]
        assert line["logger"] == "platform_db.cli"

    def test_another_format_is_refused(self, database_uri: str) -> None:
        refused = run(database_uri, "db", "version", PLATFORM_DB_LOG_FORMAT="xml")
        assert refused.exit_code == errors.InvalidSetting.exit_code
        assert "PLATFORM_DB_LOG_FORMAT" in refused.stderr
