"""The roles and their privileges: in the code, in the database and on the page."""

from __future__ import annotations

import secrets
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from platform_db import errors
from platform_db.audit import prune_seals, record_action, seal_audit_log
from platform_db.database.session import PlatformSession
from platform_db.health.deep_check import PRIVILEGES_CHECK, check_deeply
from platform_db.models import Base, Workflow
from platform_db.tenancy import roles, tenant_scope
from platform_db.tenancy.drift import differences, read_grants
from platform_db.tenancy.privileges import OTHERS, Role, privileges, role_name
from tests.command_line import one_line, run
from tests.tenants import login_engine, make_tenant, prepare_roles

LOGIN = "platform_test_login"
OTHER = f'"{LOGIN} 2"'

Factory = orm.sessionmaker[orm.Session]


@pytest.fixture
def login(engine: sa.Engine) -> Iterator[sa.Engine]:
    """Give an engine whose connections are a login that has no rights of its own."""
    login_engine(engine, OTHER)
    own = login_engine(engine, LOGIN)
    yield own
    own.dispose()


def test_a_login_that_there_is_not_is_to_be_created_first(engine: sa.Engine, database_uri: str) -> None:
    prepare_roles(engine)
    refused = run(database_uri, "roles", "grant", "--to", "no_such_login")
    assert refused.exit_code == errors.NotFound.exit_code
    assert "no login 'no_such_login' (create it first" in one_line(refused.stderr)


def test_what_is_granted_is_what_the_table_says(engine: sa.Engine, session: orm.Session) -> None:
    prepare_roles(engine)
    assert differences(session) == []
    table = {("table", name): by_role for name, by_role in privileges().items()}
    for (kind, name), granted in read_grants(session).items():
        allowed = table[kind, name] if kind == "table" else OTHERS[kind]
        assert {role: set(verbs) for role, verbs in granted.items()} == {
            role_name(role): set(verbs) for role, verbs in allowed.items()
        }, (kind, name)


# What is changed, where it shows, and whether granting mends it.
CHANGES = [
    ("GRANT DELETE ON platform.audit_log TO platform_service", ("audit_log", "platform_service"), True),
    ("REVOKE SELECT ON platform.job FROM platform_readonly", ("job", "platform_readonly"), True),
    ("GRANT SELECT ON platform.user_token TO PUBLIC", ("user_token", "PUBLIC"), True),
    (
        "GRANT SELECT ON platform_partitions.log_chunk_before TO platform_tenant",
        ("partition platform_partitions.log_chunk_before", "platform_tenant"),
        True,
    ),
    (
        "GRANT SELECT (token) ON platform.user_token TO platform_auditor",
        ("user_token", "platform_auditor"),
        True,
    ),
    (
        "REVOKE USAGE ON ALL SEQUENCES IN SCHEMA platform FROM platform_service",
        ("sequence quota_version", "platform_service"),
        True,
    ),
    ("REVOKE USAGE ON SCHEMA platform FROM platform_tenant", ("schema platform", "platform_tenant"), True),
    ("GRANT CREATE ON SCHEMA platform TO PUBLIC", ("schema platform", "PUBLIC"), True),
    (
        "GRANT USAGE ON SCHEMA platform_partitions TO platform_tenant",
        ("partition platform_partitions", "platform_tenant"),
        True,
    ),
    (
        "GRANT SELECT ON platform.job TO platform_service WITH GRANT OPTION",
        ("job", "platform_service"),
        True,
    ),
    (
        "GRANT EXECUTE ON FUNCTION platform.forget() TO PUBLIC",
        ("internal function forget()", "PUBLIC"),
        True,
    ),
    (
        "GRANT EXECUTE ON FUNCTION platform.forget_user() TO platform_tenant",
        ("internal function forget_user()", "platform_tenant"),
        True,
    ),
    (
        "REVOKE EXECUTE ON FUNCTION platform.guard_is_overridden() FROM platform_service",
        ("function guard_is_overridden()", "platform_service"),
        True,
    ),
    (
        "CREATE FUNCTION platform.mine() RETURNS void LANGUAGE sql SECURITY DEFINER AS ''",
        ("internal function mine()", "PUBLIC"),
        True,
    ),
    ("GRANT USAGE ON TYPE platform.run_status TO PUBLIC", ("type run_status", "PUBLIC"), True),
    ("CREATE DOMAIN platform.mine AS text", ("type mine", "PUBLIC"), True),
    (
        "DO $$ BEGIN EXECUTE 'GRANT CONNECT ON DATABASE ' || current_database() || ' TO PUBLIC'; END $$",
        ("database itself", "PUBLIC"),
        True,
    ),
    (
        "ALTER DEFAULT PRIVILEGES IN SCHEMA platform GRANT EXECUTE ON FUNCTIONS TO PUBLIC",
        ("default privileges FOR ROLE postgres IN SCHEMA platform ON FUNCTIONS", "PUBLIC"),
        False,
    ),
    (
        "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO platform_readonly",
        ("default privileges FOR ROLE postgres ON TABLES", "platform_readonly"),
        False,
    ),
    (
        "ALTER DEFAULT PRIVILEGES IN SCHEMA platform_partitions GRANT SELECT ON TABLES TO platform_tenant",
        ("default privileges FOR ROLE postgres IN SCHEMA platform_partitions ON TABLES", "platform_tenant"),
        False,
    ),
    ("DROP POLICY service ON platform.job", ("job", "policy service"), True),
    ("ALTER POLICY readonly ON platform.job TO platform_tenant", ("job", "policy readonly"), True),
    ("ALTER POLICY tenant ON platform.job USING (true)", ("job", "policy tenant"), False),
    ("ALTER POLICY tenant ON platform.job WITH CHECK (true)", ("job", "policy tenant"), False),
    ("DROP POLICY tenant ON platform.job", ("job", "policy tenant"), False),
    ("CREATE POLICY mine ON platform.note USING (true)", ("note", "policy mine"), False),
    ("ALTER TABLE platform.workflow DISABLE ROW LEVEL SECURITY", ("workflow", "everybody"), False),
    ("ALTER TABLE platform.workflow FORCE ROW LEVEL SECURITY", ("workflow", "everybody"), False),
    ("ALTER TABLE platform.resource ENABLE ROW LEVEL SECURITY", ("resource", "everybody"), False),
]


# What another role has of the schema, which only its owner can take back.
OF_OTHERS = [
    (f"GRANT ALL ON platform.audit_log TO {OTHER}", ("audit_log", OTHER)),
    (f"GRANT SELECT (token) ON platform.user_token TO {OTHER}", ("user_token", OTHER)),
    (f"GRANT UPDATE ON SEQUENCE platform.history_number TO {OTHER}", ("sequence history_number", OTHER)),
    (
        f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA platform TO {OTHER}",
        ("internal function guard_status()", OTHER),
    ),
    (f"GRANT USAGE ON TYPE platform.run_status TO {OTHER}", ("type run_status", OTHER)),
    (f"GRANT CREATE ON SCHEMA platform TO {OTHER}", ("schema platform", OTHER)),
    (f"GRANT USAGE ON SCHEMA platform_partitions TO {OTHER}", ("partition platform_partitions", OTHER)),
    (f"ALTER SCHEMA platform_partitions OWNER TO {OTHER}", ("platform_partitions", OTHER)),
    (
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA platform GRANT SELECT ON TABLES TO {OTHER}",
        ("default privileges FOR ROLE postgres IN SCHEMA platform ON TABLES", OTHER),
    ),
    (f"ALTER TABLE platform.note OWNER TO {OTHER}", ("note", OTHER)),
    (f"ALTER FUNCTION platform.guard_status() OWNER TO {OTHER}", ("guard_status()", OTHER)),
    (f"ALTER TYPE platform.run_status OWNER TO {OTHER}", ("run_status", OTHER)),
    (f"GRANT CREATE ON SCHEMA public TO {OTHER}", ("schema public", OTHER)),
    ("GRANT CREATE ON SCHEMA public TO PUBLIC", ("schema public", "PUBLIC")),
]


@pytest.mark.parametrize(("change", "where"), OF_OTHERS)
def test_what_another_role_has_is_found(
    engine: sa.Engine, session: orm.Session, login: sa.Engine, change: str, where: tuple[str, str]
) -> None:
    prepare_roles(engine)
    session.execute(sa.text(change))
    found = differences(session)
    assert where in [(d.table, d.role) for d in found]
    assert check_deeply(session)[-1].check == PRIVILEGES_CHECK
    for difference in found:
        session.execute(sa.text(difference.mend))
    assert differences(session) == []


@pytest.mark.parametrize(("change", "where", "granted"), CHANGES)
def test_a_change_is_found_and_what_mends_it_is_told(
    engine: sa.Engine, session: orm.Session, change: str, where: tuple[str, str], granted: bool
) -> None:
    prepare_roles(engine)
    session.execute(sa.text(change))
    session.commit()
    found = differences(session)
    assert where in [(d.table, d.role) for d in found]
    assert {d.mend == "platform-db roles grant" for d in found} == {granted}
    session.commit()
    if granted:
        roles.grant_privileges(orm.sessionmaker(engine, class_=PlatformSession))
    else:
        with pytest.raises(
            errors.RolesMissing, match=f"what could be granted is granted, .* {found[0].role}"
        ):
            roles.grant_privileges(orm.sessionmaker(engine, class_=PlatformSession))
        for difference in found:
            for statement in difference.mend.split(";"):
                session.execute(sa.text(statement))
    assert differences(session) == []


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (
            "REVOKE platform_tenant FROM platform_service",
            ("the role platform_service", "membership in platform_tenant"),
        ),
        (
            "GRANT platform_service TO platform_auditor",
            ("the role platform_auditor", "membership in platform_service"),
        ),
        ("ALTER ROLE platform_tenant BYPASSRLS", ("the server", "platform_tenant")),
        (
            "ALTER ROLE platform_readonly CREATEROLE CREATEDB REPLICATION LOGIN",
            ("the server", "platform_readonly"),
        ),
        (f"ALTER ROLE {LOGIN} BYPASSRLS; GRANT platform_service TO {LOGIN}", ("the server", LOGIN)),
        (f"ALTER ROLE {LOGIN} SUPERUSER; GRANT platform_tenant TO {LOGIN}", ("the server", LOGIN)),
    ],
)
def test_what_the_roles_are_on_the_server_is_looked_at(
    engine: sa.Engine, session: orm.Session, login: sa.Engine, change: str, where: tuple[str, str]
) -> None:
    prepare_roles(engine)
    session.execute(sa.text(change))
    found = differences(session)
    assert [(d.table, d.role) for d in found] == [where]
    if "roles create" in found[0].mend:
        return
    session.execute(sa.text(found[0].mend))
    assert differences(session) == []
    session.rollback()  # The roles are those of other tests, too.


def test_every_table_is_in_the_table() -> None:
    assert {table.name for table in Base.metadata.sorted_tables} <= set(privileges())
    for table in ("audit_log", "audit_inbox", "audit_sealed", "audit_seal", "audit_seal_digests"):
        assert not {verb for verbs in privileges()[table].values() for verb in verbs} & {"UPDATE", "DELETE"}


def test_the_page_shows_the_table() -> None:
    pytest.importorskip("sphinx", reason="the page is made by an extension of Sphinx, from the extra docs")
    sys.path.insert(0, str(Path(__file__).parents[1] / "docs" / "_ext"))
    try:
        from privileges import privilege_rows
    finally:
        del sys.path[0]
    shown = {row[0].strip(" *`"): row[1:] for row in privilege_rows()[1:]}
    assert set(shown) == {*privileges(), *OTHERS}
    for table, by_role in {**OTHERS, **privileges()}.items():
        for role, cell in zip(Role, shown[table], strict=True):
            assert cell.upper() == (", ".join(by_role.get(role, ())) or "none").upper()


def test_running_it_again_and_at_once_is_fine(session_factory: Factory, session: orm.Session) -> None:
    failed: list[BaseException] = []

    def prepare() -> None:
        try:
            roles.create_roles(session_factory)
            roles.grant_privileges(session_factory)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=prepare) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert differences(session) == []


def test_a_login_that_may_create_no_roles_is_told_what_to_hand_on(
    engine: sa.Engine, login: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roles, "_missing", lambda session: ["platform_tenant"])
    with pytest.raises(errors.RolesMissing, match="roles create --sql"):
        roles.create_roles(orm.sessionmaker(login))
    statements = run(None, "roles", "create", "--sql").stdout
    with engine.connect() as connection:
        for statement in statements.split(";\n"):
            if statement.strip():
                connection.exec_driver_sql(statement)


def test_a_login_without_the_roles_is_told_so(engine: sa.Engine, login: sa.Engine) -> None:
    prepare_roles(engine)
    with orm.Session(engine) as session:
        tenant = make_tenant(session, "ann")
    with (
        pytest.raises(errors.RolesMissing, match="permission denied to set role"),
        tenant_scope(login, tenant.id_),
    ):
        pass


def test_a_services_login_works_and_cannot_change_what_is_recorded(
    engine: sa.Engine, login: sa.Engine, session_factory: Factory
) -> None:
    prepare_roles(engine)
    roles.grant_privileges(session_factory, to=LOGIN)
    try:
        with orm.Session(login) as session:
            ann, bob = make_tenant(session, "ann"), make_tenant(session, "bob")
            assert len(session.scalars(sa.select(Workflow)).all()) == 2
            with tenant_scope(login, ann.id_) as own:
                assert [run.id_ for run in own.scalars(sa.select(Workflow))] == [ann.run]
            record_action(session, bob.id_, "grant_token")
            session.commit()
            factory = orm.sessionmaker(login)
            assert seal_audit_log(factory).rows == 5
            for statement in (
                "UPDATE platform.audit_log SET action = 'x'",
                "DELETE FROM platform.audit_log",
                "UPDATE platform.audit_inbox SET action = 'x'",
                "DELETE FROM platform.audit_inbox",
                "TRUNCATE platform.audit_inbox",
                "INSERT INTO platform.audit_sealed SELECT * FROM platform.audit_sealed",
                "DELETE FROM platform.audit_sealed",
                "TRUNCATE platform.audit_sealed",
                "DELETE FROM platform.audit_seal",
            ):
                with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
                    session.execute(sa.text(statement))
                session.rollback()
            with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
                prune_seals(session, timedelta(0))
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"REVOKE platform_service FROM {LOGIN}")


def test_the_sql_has_what_the_command_does(database_uri: str, engine: sa.Engine, login: sa.Engine) -> None:
    prepare_roles(engine)
    assert (
        'GRANT platform_service TO "o\'neil ""x"" 100%";'
        in run(None, "roles", "grant", "--sql", "--to", 'o\'neil "x" 100%').stdout
    )
    with engine.connect() as connection:
        for statement in run(None, "roles", "grant", "--sql", "--to", LOGIN).stdout.split(";\n"):
            if statement.strip():
                connection.exec_driver_sql(statement)
        member = sa.text(f"SELECT pg_has_role('{LOGIN}', 'platform_service', 'MEMBER')")
        assert connection.execute(member).scalar()


@pytest.mark.parametrize("role", Role)
def test_a_login_of_any_name_becomes_a_member_of_the_role(
    engine: sa.Engine, database_uri: str, role: Role
) -> None:
    prepare_roles(engine)
    name = f'Platform "test" 5% {secrets.token_hex(4)}'
    quoted = '"' + name.replace('"', '""') + '"'
    with engine.begin() as connection:
        connection.execute(sa.text(f"CREATE ROLE {quoted}"))
    try:
        granted = run(database_uri, "roles", "grant", "--to", name, "--as", role.name)
        assert granted.exit_code == 0, granted.output
        with engine.connect() as connection:
            member_of = sa.text(
                "SELECT roleid::regrole::text FROM pg_auth_members"
                " JOIN pg_roles ON pg_roles.oid = member WHERE rolname = :name"
            )
            assert connection.execute(member_of, {"name": name}).scalars().all() == [role_name(role)]
    finally:
        with engine.begin() as connection:
            connection.execute(sa.text(f"DROP ROLE {quoted}"))


def test_the_commands(database_uri: str, engine: sa.Engine) -> None:
    assert run(database_uri, "roles", "create").exit_code == 0
    shown = run(database_uri, "roles", "show")
    assert shown.exit_code == errors.RolesMissing.exit_code
    assert "platform-db roles grant" in one_line(shown.stderr)
    granted = run(database_uri, "roles", "grant")
    assert granted.exit_code == 0, granted.output
    assert run(database_uri, "roles", "show", "--json").exit_code == 0
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE platform.job DISABLE ROW LEVEL SECURITY")
    for command in ("show", "grant"):
        told = run(database_uri, "roles", command)
        assert told.exit_code == errors.RolesMissing.exit_code
        assert "(run: ALTER TABLE platform.job ENABLE ROW LEVEL SECURITY" in one_line(told.stderr)
        assert "roles create" not in told.stderr
    assert "CREATE POLICY service" in run(None, "roles", "grant", "--sql").stdout
