"""What PUBLIC and each role can really do in a database is what the table in code says, and no more."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from platform_db.health.deep_check import PRIVILEGES_CHECK, check_deeply
from platform_db.models import Resource, ResourceType, ResourceUnit, StatusChange, UserResource, Workflow
from platform_db.quota import commit_reservation, reserve
from platform_db.tenancy import drift, reach, tenant_scope
from platform_db.tenancy.privileges import OTHERS, Role, privileges, role_name
from tests.tenants import login_engine, make_tenant, prepare_roles

STRANGER = "platform_test_stranger"

# Every object of the schema, with its kind in the table in code. The server tells whether a role can do
# something with it, by its own grant, by another role's or by PUBLIC's.
CATALOGUE = """
    SELECT CASE WHEN relkind = 'S' THEN 'sequence' WHEN relispartition THEN 'partition' ELSE 'table' END
               AS kind,
           concat(nullif(relnamespace::regnamespace || '.', 'platform.'), relname) AS name, oid,
           CASE relkind WHEN 'S' THEN 'sequence' ELSE 'table' END AS tested,
           CASE relkind WHEN 'S' THEN ARRAY['USAGE', 'SELECT', 'UPDATE']
           ELSE ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']
           END AS verbs
    FROM pg_class
    WHERE relnamespace::regnamespace::text IN ('platform', 'platform_partitions', 'redun')
      AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
    UNION ALL
    SELECT CASE WHEN proname LIKE 'estimate_%' THEN 'reading ' WHEN proname LIKE 'collect_%' THEN 'sealing '
                WHEN proname LIKE '%_partition%' AND prosecdef THEN 'partitioning '
                WHEN proname LIKE '%_number' AND proname <> 'next_number' AND prorettype = 'bigint'::regtype
                     OR proname IN ('first_id_at', 'log_partitions', 'time_of_id')
                THEN 'common '
                WHEN prosecdef OR prorettype = 'trigger'::regtype THEN 'internal ' ELSE '' END || 'function',
           proname, oid, 'function', ARRAY['EXECUTE']
    FROM pg_proc WHERE pronamespace = 'platform'::regnamespace
    UNION ALL
    SELECT 'type', typname, oid, 'type', ARRAY['USAGE']
    FROM pg_type WHERE typnamespace = 'platform'::regnamespace AND typcategory <> 'A'
    UNION ALL
    SELECT CASE nspname WHEN 'platform_partitions' THEN 'partition' ELSE 'schema' END, nspname, oid, 'schema',
           ARRAY['USAGE', 'CREATE']
    FROM pg_namespace WHERE nspname IN ('platform', 'platform_partitions', 'redun')
    UNION ALL
    SELECT 'database', datname, oid, 'database', ARRAY['CONNECT', 'TEMPORARY', 'CREATE']
    FROM pg_database WHERE datname = current_database()
"""


@pytest.fixture
def stranger(engine: sa.Engine) -> str:
    """Give the name of a role that has nothing but what everybody has."""
    login_engine(engine, STRANGER)
    return STRANGER


def can(session: orm.Session, role: str) -> dict[tuple[str, str], set[str]]:
    """Return what a role can do, by kind and name of each object."""
    found: dict[tuple[str, str], set[str]] = {}
    for kind, name, oid, tested, verbs in session.execute(sa.text(CATALOGUE)).all():
        ask = sa.text(
            "SELECT verb FROM unnest(CAST(:verbs AS text[])) AS verb"
            f" WHERE has_{tested}_privilege(:role, CAST(:oid AS oid), verb)"
        )
        asked = {"role": role, "oid": oid, "verbs": verbs}
        found.setdefault((kind, name), set()).update(session.execute(ask, asked).scalars())
    return found


def allowed(kind: str, name: str, role: Role) -> set[str]:
    """Return what the table in code allows a role with all of an object; services are tenants, too."""
    by_role = privileges()[name] if kind == "table" else OTHERS[kind]
    inherited = allowed(kind, name, Role.tenant) if role is Role.service else set()
    return {*(verb for verb in by_role.get(role, ()) if "(" not in verb), *inherited}


@pytest.mark.parametrize("role", Role)
def test_a_role_can_do_what_the_table_says(engine: sa.Engine, session: orm.Session, role: Role) -> None:
    prepare_roles(engine)
    found = can(session, role_name(role))
    assert len(found) > len(privileges()) + 60
    assert found == {(kind, name): allowed(kind, name, role) for kind, name in found}


SECRETS = {"user_token", "secret_digest", "interactive_session"}


@pytest.mark.parametrize("role", [Role.readonly, Role.auditor])
def test_people_read_no_secret(engine: sa.Engine, session: orm.Session, role: Role) -> None:
    prepare_roles(engine)
    read = sa.text(
        "SELECT table_name, column_name FROM information_schema.columns WHERE data_type IN ('bytea', 'ARRAY')"
        " AND CASE table_schema WHEN 'platform'"
        " THEN has_column_privilege(:role, 'platform.' || table_name, column_name, 'SELECT') END"
    )
    columns = session.execute(read, {"role": role_name(role)}).all()
    assert {table for table, _ in columns} & SECRETS == set()


def test_a_tenant_counts_its_usage_and_leaves_its_limit(engine: sa.Engine, session: orm.Session) -> None:
    prepare_roles(engine)
    ann = make_tenant(session, "ann")
    with tenant_scope(engine, ann.id_) as own:
        held = reserve(own, ann.id_, ResourceType.disk, 10)
        commit_reservation(own, held)
    for column in ("quota_limit", "quota_period_months", "quota_period_start_at"):
        with (
            pytest.raises(sa.exc.ProgrammingError, match="permission denied for table user_resource"),
            tenant_scope(engine, ann.id_) as own,
        ):
            own.execute(sa.text(f"UPDATE platform.user_resource SET {column} = NULL"))


def test_a_tenant_gives_itself_no_limit_of_a_new_resource(engine: sa.Engine, session: orm.Session) -> None:
    prepare_roles(engine)
    ann = make_tenant(session, "ann")
    session.add(Resource(name="tape", type_=ResourceType.disk, unit=ResourceUnit.bytes_, title="Tape"))
    session.commit()
    tape = session.scalars(sa.select(UserResource).join(Resource).where(Resource.name == "tape")).all()
    assert ann.id_ in {limit.owner_id for limit in tape}
    session.execute(sa.delete(UserResource))
    session.commit()
    with (
        pytest.raises(sa.exc.ProgrammingError, match="permission denied for table user_resource"),
        tenant_scope(engine, ann.id_) as own,
    ):
        own.add(UserResource(owner_id=ann.id_, resource_id=tape[0].resource_id))
        own.flush()


def test_everybody_can_do_nothing(engine: sa.Engine, session: orm.Session, stranger: str) -> None:
    prepare_roles(engine)
    assert {key: verbs for key, verbs in can(session, stranger).items() if verbs} == {}


def test_no_role_can_change_what_is_recorded_or_who_is_a_tenant(
    engine: sa.Engine, session: orm.Session
) -> None:
    prepare_roles(engine)
    for role in Role:
        found = can(session, role_name(role))
        for table in ("audit_log", "audit_sealed", "audit_seal", "audit_seal_digests"):
            assert not found["table", table] & {"UPDATE", "DELETE", "TRUNCATE", "TRIGGER"}
        assert not [key for key, verbs in found.items() if verbs & {"TRUNCATE", "TRIGGER", "CREATE"}]


@pytest.mark.parametrize("role", Role)
def test_a_trigger_of_ones_own_on_our_functions_is_refused(
    engine: sa.Engine, session: orm.Session, role: Role
) -> None:
    prepare_roles(engine)
    tenant = make_tenant(session, "ann")
    Workflow.update_workflow_status(session, tenant.run, "queued")
    session.commit()
    with engine.begin() as connection:
        database = connection.dialect.identifier_preparer.quote(engine.url.database)
        connection.exec_driver_sql(f"GRANT TEMPORARY ON DATABASE {database} TO {role_name(role)}")
    internal = [name for kind, name in can(session, role_name(role)) if kind == "internal function"]
    assert "forget" in internal
    with engine.connect() as connection:
        connection.exec_driver_sql(f"SET ROLE {role_name(role)}")
        connection.exec_driver_sql("CREATE TEMPORARY TABLE t (owner_id uuid, id_ uuid)")
        for name in internal:
            with (
                pytest.raises(sa.exc.ProgrammingError, match="permission denied for function"),
                connection.begin_nested(),
            ):
                connection.exec_driver_sql(
                    "CREATE TRIGGER forget AFTER DELETE ON t"
                    f" FOR EACH ROW EXECUTE FUNCTION platform.{name}('workflow')"
                )
    assert len(session.scalars(sa.select(StatusChange)).all()) == 1


def test_a_deep_check_finds_what_was_granted_beside_the_table(
    engine: sa.Engine, session: orm.Session
) -> None:
    assert check_deeply(session) == []  # where one login does all
    session.commit()
    prepare_roles(engine)
    assert check_deeply(session) == []
    session.execute(sa.text("GRANT EXECUTE ON FUNCTION platform.forget() TO platform_readonly"))
    (finding,) = check_deeply(session)
    assert (finding.check, finding.count) == (PRIVILEGES_CHECK, 1)
    (example,) = finding.examples
    assert example.startswith(
        "platform_readonly on internal function forget() has EXECUTE instead of nothing: "
    )


def test_the_schemas_owner_may_connect_to_a_database_of_another(
    engine: sa.Engine, session: orm.Session, stranger: str
) -> None:
    session.execute(sa.text(f"ALTER SCHEMA platform OWNER TO {stranger}"))
    session.commit()
    prepare_roles(engine)
    assert session.scalar(
        sa.text(f"SELECT has_database_privilege('{stranger}', current_database(), 'CONNECT')")
    )


def test_who_does_not_own_the_database_is_told_that_it_is_open(
    engine: sa.Engine, session: orm.Session, stranger: str
) -> None:
    assert reach.open_to_everybody(session), "a new database is open, though nothing was granted"
    prepare_roles(engine)
    assert reach.open_to_everybody(session) is None
    database = session.connection().dialect.identifier_preparer.quote(engine.url.database)
    session.execute(sa.text(f"GRANT CONNECT ON DATABASE {database} TO PUBLIC"))
    assert [found.table for found in drift.differences(session)] == ["database itself"]
    session.execute(sa.text(f"SET LOCAL ROLE {stranger}"))
    assert drift.differences(session) == []
    closing = reach.open_to_everybody(session)
    assert closing == f"REVOKE ALL ON DATABASE {database} FROM PUBLIC"
    session.execute(sa.text("RESET ROLE"))
    session.execute(sa.text(closing))
    assert reach.open_to_everybody(session) is None
