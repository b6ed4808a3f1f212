"""A function that is found before PostgreSQL's own neither proves nor hides anything in the audit log."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from platform_db import audit, database, errors
from platform_db.database.session import PlatformSession
from platform_db.models import AuditLog
from tests.factories import make_user
from tests.tenants import make_tenant, prepare_roles

ANN = uuid.uuid4()

Factory = orm.sessionmaker[orm.Session]

SHADOWS = """
-- Hashes are what was sealed first, times and numbers are old, and no number is greater than another.
CREATE FUNCTION sha256(bytea) RETURNS bytea LANGUAGE sql AS
    $$SELECT content_hash FROM platform.audit_seal ORDER BY number LIMIT 1$$;
CREATE FUNCTION json_build_array(uuid, uuid, uuid, text, jsonb, text, inet, text, numeric) RETURNS json
    LANGUAGE sql AS $$SELECT '[]'::json$$;
CREATE FUNCTION convert_to(text, name) RETURNS bytea LANGUAGE sql AS $$SELECT ''::bytea$$;
CREATE FUNCTION first_of(text, text, text) RETURNS text LANGUAGE sql AS $$SELECT ''$$;
CREATE AGGREGATE string_agg(text, text) (SFUNC = first_of, STYPE = text);
CREATE FUNCTION jsonb_build_object(text, uuid, text, bigint, text, bigint) RETURNS jsonb
    LANGUAGE sql AS $$SELECT '{}'::jsonb$$;
CREATE FUNCTION clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$SELECT timestamptz '2000-01-01Z'$$;
CREATE FUNCTION greatest_of(bigint, bigint) RETURNS bigint LANGUAGE sql AS $$SELECT 1000000::bigint$$;
CREATE AGGREGATE max(bigint) (SFUNC = greatest_of, STYPE = bigint);
CREATE FUNCTION cardinality(anyarray) RETURNS integer LANGUAGE sql AS $$SELECT 0$$;
CREATE FUNCTION never(bigint, bigint) RETURNS boolean LANGUAGE sql AS $$SELECT false$$;
CREATE FUNCTION never(bigint, integer) RETURNS boolean LANGUAGE sql AS $$SELECT false$$;
CREATE OPERATOR > (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = never);
CREATE OPERATOR > (LEFTARG = bigint, RIGHTARG = integer, FUNCTION = never);
"""


@pytest.fixture
def shadowed(engine: sa.Engine) -> Iterator[Factory]:
    """Return sessions that find the functions in public first, as a login's search_path may have it."""
    with engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL search_path = public")
        connection.exec_driver_sql(SHADOWS)
    options = {"options": "-c search_path=public,pg_catalog"}
    other = database.create_engine(engine, connect_args=options)
    yield orm.sessionmaker(other, class_=PlatformSession)
    other.dispose()


def record(session: orm.Session, count: int) -> None:
    """Store so many audit rows."""
    for number in range(count):
        audit.record_action(session, ANN, "grant_token", {"n": number})
    session.commit()


def test_an_edit_is_found(session_factory: Factory, session: orm.Session, shadowed: Factory) -> None:
    record(session, 3)
    audit.seal_audit_log(session_factory)
    with shadowed() as looking:
        assert audit.verify_audit_log(looking).rows == 3
    session.execute(sa.text("SET LOCAL session_replication_role = replica"))
    session.execute(sa.text("UPDATE platform.audit_sealed SET details = '{}' WHERE number = 2"))
    session.commit()
    with shadowed() as looking, pytest.raises(errors.AuditLogChanged, match=r"row 2 .* was edited"):
        audit.verify_audit_log(looking)


def test_seals_are_right(session_factory: Factory, session: orm.Session, shadowed: Factory) -> None:
    for _ in range(2):
        record(session, 3)
        assert audit.seal_audit_log(shadowed).rows == 3
    verified = audit.verify_audit_log(session)
    assert (verified.rows, verified.unsealed_rows) == (6, 0)
    with shadowed() as looking:
        assert list(audit.export_seals(looking)) == list(audit.export_seals(session))
    assert audit.prune_audit_log(shadowed, timedelta(days=1)) == 0


def test_verifying_leaves_the_session_as_it_was(shadowed: Factory) -> None:
    with shadowed() as looking:
        looking.add(AuditLog(owner_id=ANN, action="grant_token"))
        audit.verify_audit_log(looking)
        list(audit.export_seals(looking))
        assert looking.execute(sa.text("SHOW search_path")).scalar_one() == "public,pg_catalog"
        looking.commit()
        assert looking.scalar(sa.select(AuditLog.owner_id)) == ANN


def test_a_tenant_stamps_no_row_and_says_no_facts(
    engine: sa.Engine, session: orm.Session, shadowed: Factory
) -> None:
    prepare_roles(engine)
    tenant, reader = make_tenant(session, "mallory"), make_user(session).id_
    session.commit()
    with engine.begin() as connection:
        began = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
        connection.exec_driver_sql("SET LOCAL search_path = public, pg_catalog")
        connection.exec_driver_sql("SET LOCAL ROLE platform_tenant")
        connection.exec_driver_sql(f"SET LOCAL platform.user_id = '{tenant.id_}'")
        connection.exec_driver_sql(
            "INSERT INTO platform.user_workflow (owner_id, workflow_id, user_id)"
            f" VALUES ('{tenant.id_}', '{tenant.run}', '{reader}')"
        )
    row = audit.list_audit(session, action="share_workflow").rows[0]
    assert row.details == {"workflow_id": str(tenant.run), "user_id": str(reader), "valid_until": None}
    assert row.created > began
