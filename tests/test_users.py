"""Users: created, found, and forgotten."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from platform_db import database, errors, quota, schema, users
from platform_db.database.session import PlatformSession
from platform_db.health.deep_check import check_deeply
from platform_db.leases import heartbeat
from platform_db.lifecycle.history import add_note
from platform_db.lifecycle.transitions import transition
from platform_db.logs import append_log
from platform_db.models import (
    AuditLog,
    InteractiveSession,
    Job,
    Resource,
    Service,
    User,
    UserResource,
    UserToken,
    Workflow,
)
from platform_db.schema.objects import tenant_columns
from platform_db.testing import databases
from platform_db.testing.plugin import migrate
from platform_db.testing.server import RunServer
from tests.command_line import run
from tests.factories import make_guarded, make_run, make_user
from tests.locks import wait_for_a_lock


def test_a_user_is_created_and_found(session: Session) -> None:
    ada = users.create_user(session, "Ada@example.org", full_name="Ada Lovelace")
    session.commit()
    assert users.find_user(session, "ADA@example.org") is ada
    assert users.find_user(session, str(ada.id_)) is ada
    with pytest.raises(errors.UserExists):
        users.create_user(session, "ada@EXAMPLE.org")
    assert users.list_users(session).rows == [ada]
    for email in ("", "ada", "@", "a@b@c", "a b@example.org", "a\nb@example.org", "a\x1b@example.org"):
        with pytest.raises(errors.InvalidArgument, match="is not an e-mail address") as refusal:
            users.create_user(session, email)
        assert str(refusal.value).isprintable()
    for unknown in ("nobody@example.org", uuid.uuid4()):
        with pytest.raises(errors.UserNotFound):
            users.find_user(session, unknown)


@pytest.fixture
def c_locale_uri(postgres_server: RunServer) -> Iterator[str]:
    """Give a migrated database that knows upper and lower case of ASCII letters only."""
    name = f"{postgres_server.prefix}c_locale_{uuid.uuid4().hex}"
    with schema.connect(postgres_server.uri) as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql(
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' LOCALE_PROVIDER libc LOCALE 'C'"
        )
    uri = databases.with_database(postgres_server.uri, name)
    migrate(uri)
    yield uri
    databases.drop_database(postgres_server.uri, name)


def test_a_user_is_the_one_that_was_named_whatever_the_locale(c_locale_uri: str) -> None:
    engine = database.create_engine(c_locale_uri)
    emails = ["ÉLODIE@example.org", "élodie@example.org"]
    with PlatformSession(engine) as session:
        upper, lower = (users.create_user(session, email) for email in emails)
        session.commit()
        assert [users.find_user(session, email) for email in emails] == [upper, lower]
        assert users.find_user(session, "Élodie@EXAMPLE.org") is upper
        assert run(c_locale_uri, "quota", "set-limit", emails[0], "disk", "1").exit_code == 0
        limits = [user.get_quota_usage()["disk"].get("limit") for user in (upper, lower)]
        assert [limit and limit["raw"] for limit in limits] == [1, None]
    engine.dispose()


@pytest.mark.parametrize("unstorable", ["ada\0@example.org", "ada\ud800@example.org"])
def test_no_user_has_an_address_that_cannot_be_stored(session: Session, unstorable: str) -> None:
    with pytest.raises(errors.UserNotFound):
        users.find_user(session, unstorable)


@pytest.mark.parametrize("email", ["", "ada\n@example.org", "ada\x1b[2J@example.org"])
def test_no_way_stores_an_address_that_is_not_printable(session: Session, email: str) -> None:
    with pytest.raises(sa.exc.IntegrityError, match="email_printable"):
        session.execute(sa.insert(User).values(email=email))


def test_all_users_are_read_a_page_at_a_time(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [make_user(session).id_ for _ in range(5)]
    monkeypatch.setattr(users, "USERS_PER_PAGE", 2)
    assert [user.id_ for user in users.iterate_users(session)] == ids


def test_forgetting_a_user_leaves_ids_in_the_audit_log_only(session: Session, secret_key: str) -> None:
    ada = users.create_user(session, "ada@example.org", username="ada")
    ada.access_token = "own"
    session.commit()
    ada_id = ada.id_
    users.delete_user(session, ada)
    session.commit()
    assert session.get(User, ada_id) is None
    assert session.scalar(sa.select(sa.func.count()).select_from(UserToken)) == 0
    rows = session.scalars(sa.select(AuditLog).order_by(AuditLog.created)).all()
    assert [(row.user_id, row.action) for row in rows] == [
        (ada_id, "create_user"),
        (ada_id, "grant_token"),
        (ada_id, "delete_user"),
    ]
    assert "ada" not in str([row.details for row in rows])


def test_a_user_with_work_is_only_deleted_with_it(session: Session) -> None:
    ada, bob = make_user(session), make_user(session)
    run = make_run(session, ada)
    make_run(session, bob)
    session.add_all(
        [
            Job(workflow_id=run.id_),
            InteractiveSession(name="notebook", path="/n", owner_id=ada.id_),
            Service(name="dask", owner_id=ada.id_),
        ]
    )
    session.commit()
    with pytest.raises(errors.UserHasWork, match="1 workflow, 1 interactive_session, 1 service") as refusal:
        users.delete_user(session, ada)
    with pytest.raises(errors.UserHasWork):
        users.delete_user(session, ada, delete_work=True, at_most={"workflow": 1, "service": 1})
    assert refusal.value.work == {"workflow": 1, "interactive_session": 1, "service": 1}
    users.delete_user(session, ada, delete_work=True)
    session.commit()
    assert session.scalars(sa.select(Workflow.owner_id)).all() == [bob.id_]
    for model in (Job, InteractiveSession, Service):
        assert session.scalar(sa.select(sa.func.count()).select_from(model)) == 0
    assert check_deeply(session) == []
    last = session.scalars(sa.select(AuditLog).order_by(AuditLog.created.desc())).first()
    assert last.details == {"deleted": refusal.value.work}


@pytest.mark.parametrize("way", ["function", "statement"])
def test_of_a_user_nothing_is_left_but_the_audit_log(session: Session, secret_key: str, way: str) -> None:
    ada, bob = make_user(session), make_user(session)
    for owner in (ada, bob):
        for entity in ("workflow", "job", "interactive_session", "service"):
            row = make_guarded(session, owner, entity, "running")
            heartbeat(session, [row])
            add_note(session, row, "why", "because somebody asked")
            transition(session, row, "stopped", reason="somebody said so")
        append_log(session, make_run(session, owner, status="running"), "a line\n")
        transition(session, make_guarded(session, owner, "user_token", "active"), "revoked", reason="left")
    session.commit()
    before = rows_by_table(session, bob.id_)
    assert {"lease", "note", "status_change", "log_size"} <= rows_by_table(session, ada.id_).keys()
    ada_id = ada.id_
    if way == "function":
        users.delete_user(session, ada, delete_work=True)
    else:
        for table in ("workflow", "interactive_session", "service"):
            session.execute(sa.text(f"DELETE FROM platform.{table} WHERE owner_id = :id"), {"id": ada_id})
        session.execute(sa.text("DELETE FROM platform.user_ WHERE id_ = :id"), {"id": ada_id})
    session.commit()
    assert rows_by_table(session, ada_id).keys() == {
        "audit_inbox",
        "row_event",
    }  # Watchers hear of the end, too.
    assert rows_by_table(session, bob.id_) == before
    assert check_deeply(session) == []


def rows_by_table(session: Session, user_id: uuid.UUID) -> dict[str, int]:
    """Return how many rows a tenant has in each table, those without any left out."""
    counts = {
        table: session.scalar(
            sa.text(f"SELECT count(*) FROM platform.{table} WHERE {column} = :id"), {"id": user_id}
        )
        for table, column in tenant_columns().items()
    }
    return {table: count for table, count in counts.items() if count}


def test_a_job_that_counts_what_a_user_has_is_waited_for(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    Resource.initialise_default_resources(session)
    user = make_user(session)
    user_id, run_id = user.id_, make_run(session, user).id_
    session.commit()

    def delete() -> None:
        with session_factory() as other, other.begin():
            users.delete_user(other, other.get_one(User, user_id), delete_work=True)

    session.execute(sa.select(UserResource).with_for_update(key_share=True))
    with ThreadPoolExecutor() as pool:
        deleted = pool.submit(delete)
        wait_for_a_lock(session_factory)
        quota.store_workflow_disk_quota(session, (user_id, run_id), bytes_to_sum=5)
        session.commit()
        deleted.result()
    session.expire_all()
    assert session.get(User, user_id) is None


def test_a_user_who_starts_a_run_meanwhile_is_deleted_with_it(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    user = make_user(session)
    user_id = user.id_
    make_run(session, user)
    failures: list[Exception] = []

    def delete() -> None:
        try:
            with session_factory() as other, other.begin():
                users.delete_user(other, other.get_one(User, user_id), delete_work=True)
        except Exception as error:
            failures.append(error)

    run = Workflow(name="analysis", owner_id=user_id, type_="serial", specification={})
    run_id = run.id_
    session.add(run)
    with session.no_autoflush:
        run.assign_run_number()  # From here on the counters are locked.
    deleting = threading.Thread(target=delete)
    deleting.start()
    with session_factory() as looking:
        waits = sa.text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        give_up_at = time.monotonic() + 10
        while not looking.scalar(waits) and time.monotonic() < give_up_at:
            looking.rollback()
    session.commit()
    deleting.join()
    assert failures == []
    session.expire_all()
    assert session.get(User, user_id) is None
    assert session.get(Workflow, run_id) is None
