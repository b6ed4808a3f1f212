"""What one tenant writes into the audit log does not stop others: all that is done with the log goes on."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from platform_db import audit, errors
from platform_db.models import NOBODY, AuditLog
from platform_db.tenancy import tenant_scope
from tests.tenants import Tenant, make_tenant, prepare_roles

Factory = orm.sessionmaker[orm.Session]

MIB = 2**20

RANDOM = "gen_random_uuid()"

INSERT = "INSERT INTO platform.audit_log (id_, owner_id, action"

REMOVAL = '{"table": "audit_log", "first_seal": 1, "last_seal": 1, "rows": 1}'


@pytest.fixture
def tenants(engine: sa.Engine, session: orm.Session) -> tuple[Tenant, Tenant]:
    """Two tenants: the first writes what the second suffers from."""
    prepare_roles(engine)
    return make_tenant(session, "mallory"), make_tenant(session, "ada")


def insert(columns: str = "", values: str = "", *, owner: str = "{me}", id_: str = RANDOM) -> str:
    """Return the statement that stores an audit row with these further values."""
    return f"{INSERT}{columns}) VALUES ({id_}, '{owner}', 'grant_token'{values})"


def details(text: str) -> str:
    return insert(", details", f", ({text})::jsonb")


# What each statement comes to: the rows that it leaves, or None where the database refuses it.
HOSTILE: dict[str, tuple[str, int | None]] = {
    "the far future": (insert(", created", ", '200000-01-01'"), 1),
    "the end of time": (insert(", created", ", 'infinity'"), 1),
    "the beginning of time": (insert(", created", ", '4713-01-01 BC'"), 1),
    "a huge number": (
        insert(", number", ", 1::bigint << 62").replace("VALUES", "OVERRIDING SYSTEM VALUE VALUES"),
        1,
    ),
    "a number below all": (insert(", number", ", -1"), 1),
    "an import of its own": ("SET LOCAL platform.import = 'on'; " + insert(", created", ", 'infinity'"), 1),
    "an unknown action": (f"{INSERT}) VALUES (gen_random_uuid(), '{{me}}', 'become_root')", 1),
    "a line of its own": (insert(", service", ", E'x\\n2026-01-01 \\x1b[2J'"), 1),
    "what looks like a removal": (
        f"{INSERT}, details) VALUES (gen_random_uuid(), '{{me}}', 'apply_retention', '{REMOVAL}')",
        1,
    ),
    "20 MB of details": (details("'{\"a\": \"' || repeat('a', 20000000) || '\"}'"), None),
    "a number that takes six bytes to say": (details("'{\"a\": 1e131000}'"), None),
    "a number of 5,000 digits": (details("'{\"a\": ' || repeat('9', 5000) || '}'"), None),
    "a number that no double holds": (details("'{\"a\": [-1e309]}'"), None),
    "5,000 objects in each other": (details("repeat('{\"a\":', 5000) || 1 || repeat('}', 5000)"), None),
    "arrays in an object": (details("'{\"a\":' || repeat('[', 5000) || repeat(']', 5000) || '}'"), None),
    "an array": (details("'[1]'"), None),
    "an escaped NUL": (details('\'{"a": "\\u0000"}\''), None),
    "half a surrogate pair": (details('\'{"a": "\\ud800"}\''), None),
    "a huge action": (f"{INSERT}) VALUES (gen_random_uuid(), '{{me}}', repeat('x', 257))", None),
    "a huge service": (insert(", service", ", repeat('x', 1025)"), None),
    "a huge request": (insert(", request_id", ", repeat('x', 1000000)"), None),
    "a huge request by a setting": (
        "SELECT set_config('platform.request_id', repeat('x', 1025), true); " + insert(),
        None,
    ),
    "no address": ("SET LOCAL platform.address = '10.0.0.1, x'; " + insert(), None),
    "another's row": (insert(owner="{other}"), None),
    "nobody's row": (insert(owner=str(NOBODY)), None),
    "a removal in nobody's name": (
        f"{INSERT}, details) VALUES (gen_random_uuid(), '{NOBODY}', 'apply_retention', '{REMOVAL}')",
        None,
    ),
    "another's id": (insert(id_="'{theirs}'"), 1),
    "an id of its own again": (insert(id_="'{mine}'"), 1),
    "an insertion that updates": (
        insert(id_="'{mine}'") + " ON CONFLICT (id_) DO UPDATE SET action = 'x'",
        None,
    ),
    "a place in the log": (
        insert(", number, created", ", 1::bigint << 62, now()").replace("audit_log", "audit_sealed"),
        None,
    ),
    "rows that are collected": ("SELECT platform.collect_audit_rows(1)", None),
    "a COPY": ("COPY platform.audit_log FROM '/dev/null'", None),
    "a removal": ("DELETE FROM platform.audit_log", None),
    "a removal of what waits": ("DELETE FROM platform.audit_inbox", None),
    "a removal of what is sealed": ("DELETE FROM platform.audit_sealed", None),
    "a seal of its own": ("INSERT INTO platform.audit_seal SELECT * FROM platform.audit_seal", None),
    "a lock of its own": ("INSERT INTO platform.audit_chain VALUES (true)", None),
}


def test_no_row_of_one_tenant_stops_the_others(
    engine: sa.Engine, session_factory: Factory, session: orm.Session, tenants: tuple[Tenant, Tenant]
) -> None:
    mallory, ada = tenants
    audit.seal_audit_log(session_factory)
    began = now(session)
    mine = session.scalars(sa.select(AuditLog.id_).where(AuditLog.owner_id == mallory.id_)).first()
    theirs = session.scalars(sa.select(AuditLog.id_).where(AuditLog.owner_id == ada.id_)).first()
    names = {"me": mallory.id_, "other": ada.id_, "mine": mine, "theirs": theirs}
    session.commit()

    outcomes = {
        name: outcome(engine, mallory, fill(statement, names)) for name, (statement, _) in HOSTILE.items()
    }

    assert outcomes == {name: expected for name, (_, expected) in HOSTILE.items()}
    stamped = sa.select(sa.func.count()).where(AuditLog.created.between(began, now(session)))
    assert session.scalar(stamped) == sum(filter(None, outcomes.values()))
    again = [
        row.number is None for row in audit.list_audit(session, user_id=mallory.id_).rows if row.id_ == mine
    ]
    assert again == [True, False], "a row with the id of a sealed one hides it"
    go_on(session_factory, ada)


def test_a_tenant_reads_its_own_rows_alone_before_and_after_they_are_sealed(
    session_factory: Factory, tenants: tuple[Tenant, Tenant]
) -> None:
    mallory, _ = tenants
    for table, other in (("audit_inbox", "audit_sealed"), ("audit_sealed", "audit_inbox")):
        with tenant_scope(session_factory, mallory.id_) as own:
            read = {
                name: own.scalars(sa.text(f"SELECT owner_id FROM platform.{name}")).all()
                for name in ("audit_log", table, other)
            }
            listed = [row.owner_id for row in audit.list_audit(own).rows]
        assert set(listed) == {mallory.id_}
        assert read == {"audit_log": listed, table: listed, other: []}
        audit.seal_audit_log(session_factory)


def test_no_lock_of_one_tenant_stops_the_others(
    engine: sa.Engine, session_factory: Factory, tenants: tuple[Tenant, Tenant]
) -> None:
    mallory, ada = tenants
    with engine.connect() as connection:
        become(connection, mallory)
        connection.exec_driver_sql("SELECT pg_advisory_lock(hashtextextended('platform.audit_seal', 0))")
        connection.exec_driver_sql("LOCK TABLE platform.audit_inbox IN ROW EXCLUSIVE MODE")
        connection.exec_driver_sql("SELECT FROM platform.audit_log")
        go_on(session_factory, ada)
        for table in ("audit_chain", "audit_seal"):
            with pytest.raises(sa.exc.ProgrammingError, match="denied"), connection.begin_nested():
                connection.exec_driver_sql(f"LOCK TABLE platform.{table} IN ACCESS SHARE MODE")


def test_a_time_of_the_orm_is_the_databases(
    session_factory: Factory, session: orm.Session, tenants: tuple[Tenant, Tenant]
) -> None:
    mallory, ada = tenants
    with tenant_scope(session_factory, mallory.id_) as own:
        own.add(
            AuditLog(
                owner_id=mallory.id_,
                action="grant_token",
                number=2**62,
                created=datetime.max.replace(tzinfo=timezone.utc),
            )
        )
    assert audit.list_audit(session).rows[0].created < now(session)
    go_on(session_factory, ada)


@pytest.mark.parametrize("time", ["infinity", "-infinity", "200000-01-01", "4713-01-01 BC", "9999-12-31"])
def test_a_time_that_python_cannot_hold_ends_no_list(
    session_factory: Factory, session: orm.Session, tenants: tuple[Tenant, Tenant], time: str
) -> None:
    _, ada = tenants
    session.execute(sa.text("ALTER TABLE platform.audit_inbox DISABLE TRIGGER stamp_audit_row"))
    session.execute(
        sa.text(
            "INSERT INTO platform.audit_inbox (id_, owner_id, action, created)"
            f" VALUES (gen_random_uuid(), :owner, 'grant_token', '{time}')"
        ),
        {"owner": ada.id_},
    )
    session.execute(sa.text("ALTER TABLE platform.audit_inbox ENABLE TRIGGER stamp_audit_row"))
    session.commit()
    page = audit.list_audit(session, user_id=ada.id_, limit=1)
    ids = [row.id_ for row in page.rows]
    while page.cursor:
        page = audit.list_audit(session, user_id=ada.id_, limit=1, cursor=page.cursor)
        ids += [row.id_ for row in page.rows]
    assert len(ids) == len(set(ids)) == 3
    go_on(session_factory, ada)


def test_thousands_of_large_rows_take_little_memory(
    engine: sa.Engine, session_factory: Factory, session: orm.Session, tenants: tuple[Tenant, Tenant]
) -> None:
    mallory, ada = tenants
    large = (
        f"{INSERT}, details) SELECT gen_random_uuid(), '{mallory.id_}', 'grant_token',"
        " jsonb_build_object('a', repeat('a', 65000)) FROM generate_series(1, 2000)"
    )
    assert outcome(engine, mallory, large) == 2000
    before = server_peak(session)
    session.close()

    for work in (
        lambda: audit.seal_audit_log(session_factory),
        lambda: audit.verify_audit_log(session),
        lambda: sum(1 for _ in audit.export_audit(session)),
        lambda: audit.list_audit(session),
    ):
        assert client_peak(work) < 40 * MIB
        session.close()

    assert server_peak(session) - before < 40 * MIB
    session.close()
    go_on(session_factory, ada)


def outcome(engine: sa.Engine, tenant: Tenant, statements: str) -> int | None:
    """Run statements as the tenant's role; return how many rows they leave, None where they are refused."""
    with engine.connect() as connection:
        become(connection, tenant)
        try:
            connection.exec_driver_sql(statements)
            inserted = connection.exec_driver_sql(
                "SELECT count(*) FROM platform.audit_inbox"
                " WHERE xmin::text::bigint = pg_current_xact_id_if_assigned()::text::bigint"
            ).scalar_one()
            connection.commit()
        except (sa.exc.DBAPIError, errors.PlatformDBError):
            return None
    return int(inserted)


def become(connection: sa.Connection, tenant: Tenant) -> None:
    """Be the tenant until the transaction ends."""
    connection.exec_driver_sql("SET LOCAL ROLE platform_tenant")
    connection.exec_driver_sql(f"SET LOCAL platform.user_id = '{tenant.id_}'")


def fill(statement: str, names: dict[str, Any]) -> str:
    """Put ids in the places of their names; JSON has braces of its own."""
    for name, value in names.items():
        statement = statement.replace(f"{{{name}}}", str(value))
    return statement


def go_on(factory: Factory, tenant: Tenant) -> None:
    """Do everything that is done with the log, for another tenant and for all."""
    with factory() as session:
        audit.record_action(session, tenant.id_, "revoke_token")
        session.commit()
    audit.seal_audit_log(factory)
    with factory() as session:
        stored = session.scalar(sa.select(sa.func.count()).select_from(AuditLog))
        assert audit.list_audit(session, user_id=tenant.id_, action="revoke_token").rows
        assert len(audit.list_audit(session, limit=10_000).rows) == stored
        assert sum(1 for _ in audit.export_audit(session)) == stored
        verified = audit.verify_audit_log(session)
        assert (verified.rows, verified.unsealed_rows) == (stored, 0)
    assert audit.prune_audit_log(factory, timedelta(0)) > 0
    with factory() as session:
        assert [row.owner_id for row in audit.list_audit(session).rows] == [NOBODY]
        assert audit.verify_audit_log(session).removed_rows == stored


def now(session: orm.Session) -> datetime:
    """Return the database's time."""
    return session.scalars(sa.select(sa.func.clock_timestamp())).one()


def client_peak(work: Callable[[], object]) -> int:
    """Return how many bytes Python holds at most while it works."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def server_peak(session: orm.Session) -> int:
    """Return how many bytes the server's process for this connection held at most."""
    process = Path(f"/proc/{session.scalar(sa.text('SELECT pg_backend_pid()'))}/status")
    if not process.exists():
        pytest.skip("the server's memory is seen on Linux alone")
    (line,) = (line for line in process.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
