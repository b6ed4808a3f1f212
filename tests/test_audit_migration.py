"""The revision that puts an inbox before the audit log, there and back, with rows in every state."""

from __future__ import annotations

import threading
import time
import uuid

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from platform_db import schema
from platform_db.audit import list_audit, record_action, seal_audit_log, verify_audit_log
from platform_db.database.session import PlatformSession
from tests.tenants import prepare_roles

Factory = orm.sessionmaker[PlatformSession]

ANN = uuid.uuid4()

INSERT = sa.text(
    "INSERT INTO platform.audit_log (id_, owner_id, action)"
    " VALUES (gen_random_uuid(), :owner, 'grant_token') RETURNING number"
)
CREATE_USER = sa.text("INSERT INTO platform.user_ (id_, email) VALUES (gen_random_uuid(), :email)")

BECOME_SERVICE = sa.text("SET LOCAL ROLE platform_service")


def record(factory: Factory, count: int) -> None:
    """Store so many audit rows."""
    with factory() as session, session.begin():
        for number in range(count):
            record_action(session, ANN, "grant_token", {"n": number})


def write_as_the_release_before(engine: sa.Engine) -> list[int | None]:
    """Store two audit rows by a service's role, and one by a trigger; return the numbers that they got."""
    with engine.begin() as connection:
        connection.execute(BECOME_SERVICE)
        connection.execute(CREATE_USER, {"email": f"{uuid.uuid4()}@example.org"})
        return [connection.scalar(INSERT, {"owner": ANN}) for _ in range(2)]


def test_rows_that_wait_are_sealed_after_it_and_numbered_before_it(
    engine: sa.Engine, database_uri: str, session_factory: Factory
) -> None:
    prepare_roles(engine)
    record(session_factory, 3)
    seal_audit_log(session_factory)

    schema.downgrade(database_uri, "0012")
    assert write_as_the_release_before(engine) == [5, 6]

    schema.upgrade(database_uri)
    assert write_as_the_release_before(engine) == [None, None]
    with session_factory() as session:
        assert verify_audit_log(session).unsealed_rows == 6
        assert len(list_audit(session).rows) == 9
    assert seal_audit_log(session_factory).rows == 6

    record(session_factory, 2)
    schema.downgrade(database_uri, "0012")
    with engine.connect() as connection:
        numbers = connection.scalars(sa.text("SELECT number FROM platform.audit_log ORDER BY 1")).all()
    assert numbers == list(range(1, 12))
    assert write_as_the_release_before(engine) == [13, 14]

    schema.upgrade(database_uri)
    schema.require_agreement(database_uri)
    assert seal_audit_log(session_factory).rows == 5
    with session_factory() as session:
        verified = verify_audit_log(session)
    assert (verified.rows, verified.unsealed_rows) == (14, 0)


def test_a_service_writes_no_place_in_the_log(engine: sa.Engine, database_uri: str) -> None:
    prepare_roles(engine)
    schema.downgrade(database_uri, "0012")
    schema.upgrade(database_uri)

    with engine.connect() as connection:
        connection.execute(BECOME_SERVICE)
        with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
            connection.exec_driver_sql(
                "INSERT INTO platform.audit_sealed SELECT * FROM platform.audit_sealed"
            )


WAITS = sa.text(
    "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database"
    " WHERE datname = current_database() AND locktype = 'relation' AND NOT granted"
)


def test_a_row_that_commits_while_the_inbox_goes_is_kept(
    engine: sa.Engine, database_uri: str, session_factory: Factory
) -> None:
    with session_factory() as writer, writer.begin():
        record_action(writer, ANN, "grant_token")
        writer.flush()
        downgrade = threading.Thread(target=schema.downgrade, args=(database_uri, "0012"))
        downgrade.start()
        with engine.connect() as looking:
            while downgrade.is_alive() and not looking.scalar(WAITS):
                time.sleep(0.01)
    downgrade.join()

    with engine.connect() as connection:
        numbers = connection.scalars(sa.text("SELECT number FROM platform.audit_log")).all()
    assert numbers == [1]


def test_the_inbox_has_the_policies_that_a_platform_gave_the_log(
    engine: sa.Engine, database_uri: str
) -> None:
    prepare_roles(engine)
    schema.downgrade(database_uri, "0012")
    with engine.begin() as connection:
        for policy in (
            "recent ON platform.audit_log AS RESTRICTIVE FOR SELECT USING (created > 'epoch')",
            "appended ON platform.audit_log FOR INSERT TO platform_service WITH CHECK (action <> 'x')",
        ):
            connection.exec_driver_sql(f"CREATE POLICY {policy}")

    schema.upgrade(database_uri)

    policies = (
        "SELECT policyname, permissive, roles, cmd, qual, with_check FROM pg_policies"
        " WHERE schemaname = 'platform' AND tablename = '{}' ORDER BY policyname"
    )
    with engine.connect() as connection:
        of_log, of_inbox = (
            connection.exec_driver_sql(policies.format(table)).all()
            for table in ("audit_sealed", "audit_inbox")
        )
    assert {"recent", "appended"} <= {policy.policyname for policy in of_inbox}
    assert of_inbox == of_log
