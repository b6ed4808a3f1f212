"""Backups: what ``pg_dump`` and ``pg_restore`` keep, what a restore loses, and that a check tells."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from platform_db import audit, database, embedded, errors, settings
from platform_db.database.session import PlatformSession
from platform_db.health.deep_check import CATALOGUE_CHECK, PRIVILEGES_CHECK
from platform_db.models import User, Workflow
from platform_db.tenancy import drift, roles
from platform_db.tenancy.privileges import Role, role_name
from platform_db.testing.factories import make_run, make_user
from tests.command_line import run


@pytest.fixture
def prefix(direct_database_uri: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Give roles that this test may drop, and drop them when it ends."""
    prefix = f"backup_{secrets.token_hex(4)}"
    monkeypatch.setenv("PLATFORM_DB_ROLE_PREFIX", prefix)
    settings.reset_settings()
    yield prefix
    drop_roles(direct_database_uri)
    monkeypatch.undo()
    settings.reset_settings()


@pytest.fixture
def backup(direct_database_uri: str, prefix: str, tmp_path: Path) -> Path:
    """Give the backup of a database that is used through roles."""
    engine = database.create_engine(direct_database_uri)
    factory = orm.sessionmaker(engine, class_=PlatformSession)
    roles.create_roles(factory)
    roles.grant_privileges(factory)
    with factory() as session, session.begin():
        ann = make_user(session, email="ann@example.org")
        make_run(session, ann, status="finished")
        audit.record_action(session, ann, "grant_token", {"n": 1})
    audit.seal_audit_log(factory)
    engine.dispose()
    return dump(direct_database_uri, tmp_path / "platform.dump")


def dump(uri: str, file: Path) -> Path:
    program("pg_dump", "--format=custom", f"--file={file}", plain(uri))
    return file


def restore(file: Path, uri: str, *options: str) -> str:
    """Restore into an empty database, and return what the program complains of."""
    return program("pg_restore", *options, f"--dbname={plain(uri)}", str(file), check=False)


def program(name: str, *arguments: str, check: bool = True) -> str:
    done = subprocess.run([embedded.binary(name), *arguments], capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stderr
    return done.stderr


def plain(uri: str) -> str:
    url = database.normalise_url(uri).set(drivername="postgresql")
    if url.password:
        pytest.skip("the server wants a password, and a password does not belong on a command line")
    return url.render_as_string()


def drop_roles(uri: str) -> None:
    engine = sa.create_engine(database.normalise_url(uri), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for name in map(role_name, Role):
            if connection.scalar(sa.text("SELECT to_regrole(:name)"), {"name": name}):
                connection.exec_driver_sql(f"DROP OWNED BY {name} CASCADE")
                connection.exec_driver_sql(f"DROP ROLE {name}")
    engine.dispose()


def execute(uri: str, *statements: str) -> None:
    engine = sa.create_engine(database.normalise_url(uri))
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement.replace("%", "%%"))
    engine.dispose()


def findings(uri: str) -> dict[str, list[str]]:
    checked = run(
        uri, "db", "check", "--deep", "--json", PLATFORM_DB_ROLE_PREFIX=settings.get_settings().role_prefix
    )
    found = json.loads(checked.stdout)["findings"]
    assert checked.exit_code == (errors.Unhealthy.exit_code if found else 0)
    return {finding["check"]: finding["examples"] for finding in found}


def test_a_backup_with_its_roles_keeps_everything(
    backup: Path, direct_database_uri: str, empty_database_uri: str
) -> None:
    assert restore(backup, empty_database_uri) == ""

    # What a dump of one database never holds: privileges on it, and on the types of its tables' rows.
    (left,) = findings(empty_database_uri).values()
    assert {line.partition(" on ")[2].partition(" ")[0] for line in left} <= {"type", "database"}
    engine = database.create_engine(empty_database_uri)
    factory = orm.sessionmaker(engine, class_=PlatformSession)
    roles.grant_privileges(factory)
    assert findings(empty_database_uri) == {}
    with factory() as session:
        assert session.scalars(sa.select(User.email)).all() == ["ann@example.org"]
        assert session.scalars(sa.select(Workflow)).one().status == "finished"
        assert audit.verify_audit_log(session).seals == 1
    execute(empty_database_uri, *(f"DROP OWNED BY {role_name(role)} CASCADE" for role in Role))
    engine.dispose()


def test_a_restore_without_the_roles_loses_what_keeps_tenants_apart(
    backup: Path, direct_database_uri: str, empty_database_uri: str
) -> None:
    drop_roles(direct_database_uri)
    complaints = restore(backup, empty_database_uri)
    assert "role" in complaints
    assert "does not exist" in complaints

    (lost,) = [findings(empty_database_uri)[PRIVILEGES_CHECK]]
    policies = [line for line in lost if "policy" in line]
    assert len(policies) == len([role for by_role in roles.sees_every_tenant().values() for role in by_role])
    assert all(line.endswith(": platform-db roles grant") for line in policies)
    assert any(line.startswith(f"{role_name(Role.service)} on workflow has nothing") for line in lost)

    engine = database.create_engine(empty_database_uri)
    factory = orm.sessionmaker(engine, class_=PlatformSession)
    roles.create_roles(factory)
    roles.grant_privileges(factory)
    with factory() as session:
        assert drift.differences(session) == []
    assert findings(empty_database_uri) == {}
    execute(empty_database_uri, *(f"DROP OWNED BY {role_name(role)} CASCADE" for role in Role))
    engine.dispose()


def test_a_restore_without_privileges_is_told(backup: Path, empty_database_uri: str) -> None:
    assert restore(backup, empty_database_uri, "--no-privileges") == ""
    lost = findings(empty_database_uri)[PRIVILEGES_CHECK]
    assert f"{role_name(Role.service)} on workflow has nothing" in " ".join(lost)
    execute(empty_database_uri, *(f"DROP OWNED BY {role_name(role)} CASCADE" for role in Role))


LOSSES = [
    ("DROP POLICY tenant ON platform.workflow", "missing policy tenant on workflow: CREATE POLICY tenant"),
    (
        "ALTER TABLE platform.job DISABLE ROW LEVEL SECURITY",
        "altered table job: ALTER TABLE platform.job ENABLE ROW LEVEL SECURITY",
    ),
    (
        "DROP TRIGGER guard_update ON platform.workflow",
        "missing trigger guard_update on workflow: CREATE TRIGGER guard_update",
    ),
    (
        "ALTER TABLE platform.workflow DISABLE TRIGGER guard_update",
        "altered trigger guard_update on workflow: DROP TRIGGER guard_update ON platform.workflow; CREATE",
    ),
    (
        "DROP INDEX platform.ix_audit_sealed_action_created_number",
        "missing index ix_audit_sealed_action_created_number: CREATE INDEX",
    ),
    (
        "ALTER TABLE platform.audit_chain DROP CONSTRAINT ck_audit_chain_singleton",
        "missing constraint ck_audit_chain_singleton on audit_chain: ALTER TABLE platform.audit_chain ADD",
    ),
]


@pytest.mark.parametrize(("loss", "line"), LOSSES, ids=[loss for loss, _ in LOSSES])
def test_what_is_missing_is_named_with_what_to_do(direct_database_uri: str, loss: str, line: str) -> None:
    execute(direct_database_uri, loss)

    (lost,) = findings(direct_database_uri)[CATALOGUE_CHECK]
    assert lost.startswith(line)
    shown = run(direct_database_uri, "db", "check", "--deep")
    assert f"\n  {lost}\n" in shown.stdout

    execute(direct_database_uri, lost.partition(": ")[2])
    assert findings(direct_database_uri) == {}


def test_a_missing_function_is_named_with_its_file(direct_database_uri: str) -> None:
    execute(direct_database_uri, "DROP FUNCTION platform.guard_status() CASCADE")
    lost = findings(direct_database_uri)[CATALOGUE_CHECK]
    assert (
        "missing function guard_status(): run the statement that creates it,"
        " in platform_db/schema/sql/guard.sql" in lost
    )
    assert len([line for line in lost if line.startswith("missing trigger guard_")]) > 4


def test_rows_that_contradict_each_other_are_shown(
    direct_database_uri: str, make_user: Callable[..., User], make_run: Callable[..., Workflow]
) -> None:
    found = make_run(make_user(), status="queued")
    uri = direct_database_uri
    execute(
        uri, "ALTER TABLE platform.status_change DISABLE TRIGGER USER", "DELETE FROM platform.status_change"
    )
    execute(uri, "ALTER TABLE platform.status_change ENABLE TRIGGER USER")
    shown = run(uri, "db", "check", "--deep")
    assert shown.exit_code == errors.Unhealthy.exit_code
    assert f"\n  workflow {found.id_}\n" in shown.stdout
