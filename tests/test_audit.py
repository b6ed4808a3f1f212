"""The audit log: append-only, sealed, verified, read and pruned."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from platform_db import audit, crypto, errors, settings
from platform_db.audit import (
    chain,
    list_audit,
    prune_seals,
    record_action,
    seal_audit_log,
    sealing,
    verify_audit_log,
)
from platform_db.audit.content import read_digests, split_digests
from platform_db.database.session import PlatformSession
from platform_db.lifecycle.transitions import override_guard, transition
from platform_db.models import NOBODY, AuditLog, AuditLogAction, AuditSeal, register_audit_action
from platform_db.states import RunStatus
from tests.factories import make_run, make_user

Factory = orm.sessionmaker[orm.Session]

ANN, BOB = uuid.uuid4(), uuid.uuid4()


def record(session: orm.Session, count: int = 1, user: uuid.UUID = ANN) -> None:
    """Store so many audit rows."""
    for number in range(count):
        record_action(session, user, AuditLogAction.grant_token, {"n": number})
    session.commit()


def as_superuser(session: orm.Session, statement: str) -> None:
    """Do what the triggers would refuse."""
    session.execute(sa.text("SET LOCAL session_replication_role = replica"))
    session.execute(sa.text(statement))
    session.commit()


@pytest.fixture(autouse=True)
def nothing_configured() -> None:
    settings.reset_settings()


@pytest.fixture
def sealed(session_factory: Factory, session: orm.Session, monkeypatch: pytest.MonkeyPatch) -> Factory:
    """Twenty rows in four seals, which are read two at a time."""
    monkeypatch.setattr(sealing, "SEAL_ROWS", 5)
    monkeypatch.setattr(chain, "PAGE", 2)
    record(session, 20)
    assert seal_audit_log(session_factory).seals == 4
    return session_factory


@pytest.fixture
def signing_key(monkeypatch: pytest.MonkeyPatch) -> str:
    key = crypto.generate_key()
    configure(monkeypatch, AUDIT_SIGNING_KEY=key)
    return key


def configure(monkeypatch: pytest.MonkeyPatch, **variables: str | None) -> None:
    """Set or unset variables of the configuration."""
    for name, value in variables.items():
        if value is None:
            monkeypatch.delenv(f"PLATFORM_DB_{name}", raising=False)
        else:
            monkeypatch.setenv(f"PLATFORM_DB_{name}", value)
    settings.reset_settings()


SWAP = """
    UPDATE platform.audit_sealed AS a
    SET id_ = b.id_, owner_id = b.owner_id, details = b.details, created = b.created
    FROM platform.audit_sealed AS b
    WHERE a.number IN (7, 9) AND b.number IN (7, 9) AND a.number <> b.number
"""


# -- recording


def test_a_row_says_who_about_whom_what_when_and_from_where(session: orm.Session) -> None:
    audit.set_origin(session, actor_id=BOB, request_id="r-1", address="2001:db8::7", service="api")
    record_action(session, ANN, "share_workflow", {"workflow_id": "w"})
    session.commit()
    record_action(session, ANN, "share_workflow")
    session.commit()
    second, first = list_audit(session).rows
    assert (first.user_id, first.actor_id, first.request_id, str(first.address), first.service) == (
        ANN,
        BOB,
        "r-1",
        "2001:db8::7",
        "api",
    )
    assert (second.actor_id, second.request_id, second.address, second.service) == (None, None, None, None)


def test_a_service_names_itself_once_for_all_its_transactions(engine: sa.Engine) -> None:
    make = orm.sessionmaker(engine, info={audit.SERVICE: "api"})
    with make() as session:
        for _ in range(2):
            with session.begin(), session.begin_nested():
                record_action(session, ANN, "share_workflow")
        with session.begin():
            audit.set_origin(session, service="other")
            record_action(session, ANN, "share_workflow")
    with PlatformSession(engine) as session:
        record_action(session, ANN, "share_workflow")
        assert [row.service for row in list_audit(session).rows] == [None, "other", "api", "api"]


@pytest.mark.parametrize("address", ["10.0.0.1, 192.168.1.1", "192.0.2.7:443", "192.0.2.0/24", "unknown", ""])
def test_what_is_not_one_address_is_refused_at_once(session: orm.Session, address: str) -> None:
    with pytest.raises(errors.InvalidAddress):
        audit.set_origin(session, request_id="r-1", address=address)
    record_action(session, ANN, "share_workflow")
    session.commit()
    (row,) = list_audit(session).rows
    assert (row.request_id, row.address) == (None, None)


def test_a_link_local_address_is_stored_without_its_zone(session: orm.Session) -> None:
    audit.set_origin(session, address="fe80::1%eth0")
    record_action(session, ANN, "share_workflow")
    session.commit()
    assert str(list_audit(session).rows[0].address) == "fe80::1"


def test_an_unknown_action_is_refused_and_a_registered_one_is_not(session: orm.Session) -> None:
    with pytest.raises(errors.UnknownAction):
        record_action(session, ANN, "open_door")
    assert record_action(session, ANN, register_audit_action("open_window")).action == "open_window"


def test_an_override_of_the_guard_is_recorded(session: orm.Session) -> None:
    owner = make_user(session)
    run = make_run(session, owner)
    with override_guard(session, reason="the worker was lost"):
        transition(session, run, RunStatus.finished)
    session.commit()
    (row,) = list_audit(session, action=AuditLogAction.override_guard).rows
    assert row.user_id == owner.id_
    assert row.details is not None
    assert (row.details["entity_id"], row.details["reason"]) == (str(run.id_), "the worker was lost")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE platform.audit_log SET action = 'x'",
        "DELETE FROM platform.audit_log",
        "UPDATE platform.audit_inbox SET action = 'x'",
        "DELETE FROM platform.audit_inbox",
        "TRUNCATE platform.audit_inbox",
        "UPDATE platform.audit_sealed SET action = 'x'",
        "DELETE FROM platform.audit_sealed",
        "TRUNCATE platform.audit_sealed",
        "UPDATE platform.audit_seal SET row_count = 0",
        "DELETE FROM platform.audit_seal",
        "TRUNCATE platform.audit_seal CASCADE",
        "UPDATE platform.audit_seal_digests SET digests = ''",
        "DELETE FROM platform.audit_seal_digests",
    ],
)
def test_nobody_changes_what_is_recorded(sealed: Factory, statement: str) -> None:
    with sealed() as session:
        record(session)
        with pytest.raises(errors.AppendOnly, match="append-only"):
            session.execute(sa.text(statement))


@pytest.mark.parametrize("owner", [ANN, BOB])
def test_a_row_that_waits_is_kept_whatever_row_has_its_id_in_the_log(
    session_factory: Factory, session: orm.Session, owner: uuid.UUID
) -> None:
    sealed = record_action(session, ANN, "grant_token")
    session.commit()
    seal_audit_log(session_factory)
    session.add(AuditLog(id_=sealed.id_, owner_id=owner, action="grant_token"))
    session.commit()
    with pytest.raises(errors.AppendOnly, match="append-only"):
        session.execute(sa.text("DELETE FROM platform.audit_inbox"))


# -- sealing


def test_each_row_is_sealed_once(session_factory: Factory, session: orm.Session) -> None:
    record(session, 3)
    assert seal_audit_log(session_factory).rows == 3
    assert seal_audit_log(session_factory).seals == 0
    record(session, 2)
    assert seal_audit_log(session_factory).rows == 2
    result = verify_audit_log(session)
    assert (result.seals, result.rows, result.unsealed_rows) == (2, 5, 0)


def test_a_row_that_commits_late_delays_no_other(session_factory: Factory, session: orm.Session) -> None:
    with session_factory() as late:
        record_action(late, BOB, "grant_token")
        late.flush()
        record(session, 3)
        assert seal_audit_log(session_factory).rows == 3
        late.commit()
    assert seal_audit_log(session_factory).rows == 1
    assert [row.number for row in list_audit(session).rows] == [3, 2, 1, 4], "the newest first"
    assert verify_audit_log(session).rows == 4


def test_there_is_one_sealer_at_a_time(
    session_factory: Factory, session: orm.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(session)
    seal_audit_log(session_factory)
    record(session)
    session.execute(sa.text("SELECT FROM platform.audit_chain FOR UPDATE"))
    monkeypatch.setattr(chain, "_LIMIT_WAITING", sa.text("SET LOCAL lock_timeout = '100ms'"))
    for work in (
        lambda: seal_audit_log(session_factory),
        lambda: audit.prune_audit_log(session_factory, timedelta(0)),
        lambda: prune(session_factory, limit=1),
    ):
        with pytest.raises(errors.AlreadyRunning):
            work()


def test_rows_that_are_collected_at_once_get_a_number_each(
    session_factory: Factory, session: orm.Session
) -> None:
    record(session, 200)

    def collect(_: int) -> None:
        with session_factory() as other, other.begin():
            other.execute(sa.text("SELECT platform.collect_audit_rows(10)"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(collect, range(24)))

    assert seal_audit_log(session_factory).rows == 200
    assert [row.number for row in list_audit(session, limit=200).rows] == list(range(200, 0, -1))


@pytest.mark.parametrize("most", ["NULL", "-1", "0"])
def test_no_rows_are_collected_where_no_number_of_them_is_given(session: orm.Session, most: str) -> None:
    record(session, 2)
    session.execute(sa.text(f"SELECT platform.collect_audit_rows({most})"))
    assert [row.number for row in list_audit(session).rows] == [None, None]


def test_a_row_with_the_id_of_another_is_sealed_under_a_new_one(
    session_factory: Factory, session: orm.Session
) -> None:
    id_ = uuid.uuid4()
    for user in (ANN, BOB, ANN):
        session.add(AuditLog(id_=id_, owner_id=user, action="grant_token"))
        session.commit()
        if user == BOB:
            assert seal_audit_log(session_factory).rows == 2
    assert [(row.user_id, row.number) for row in list_audit(session).rows] == [
        (ANN, None),
        (BOB, 2),
        (ANN, 1),
    ]
    assert session.get(AuditLog, id_) in list_audit(session).rows, "found by its id alone"
    session.expunge_all()
    assert seal_audit_log(session_factory).rows == 1
    assert len({row.id_ for row in list_audit(session).rows}) == 3
    assert verify_audit_log(session).rows == 3


# -- verifying


def test_what_is_untouched_verifies(sealed: Factory) -> None:
    with sealed() as session:
        result = verify_audit_log(session)
    assert (result.seals, result.rows, result.unsigned_seals) == (4, 20, 4)


@pytest.mark.parametrize("setting", ["timezone = 'Asia/Tokyo'", "client_encoding = 'LATIN1'"])
def test_the_settings_of_a_session_do_not_matter(
    session_factory: Factory, session: orm.Session, setting: str
) -> None:
    record_action(session, ANN, "grant_token", {"ü": "\u00e9\n", "x": 1.50})
    session.commit()
    seal_audit_log(session_factory)
    session.execute(sa.text(f"SET LOCAL {setting}"))
    assert verify_audit_log(session).rows == 1


@pytest.mark.parametrize(
    ("statement", "seal", "change", "row"),
    [
        ("UPDATE platform.audit_sealed SET details = '{}' WHERE number = 8", 2, "edited", 8),
        (
            "UPDATE platform.audit_sealed SET created = created + interval '1 us' WHERE number = 1",
            1,
            "edited",
            1,
        ),
        ("DELETE FROM platform.audit_sealed WHERE number = 15", 3, "deleted", 15),
        ("DELETE FROM platform.audit_sealed WHERE number > 5 AND number <= 10", 2, "deleted", 6),
        (
            SWAP,
            2,
            "reordered",
            7,
        ),
        ("UPDATE platform.audit_seal SET row_count = 4 WHERE number = 3", 3, "altered", None),
        ("DELETE FROM platform.audit_seal WHERE number = 2", 2, "missing", None),
        ("UPDATE platform.audit_seal SET first_kept_seal = 3 WHERE number = 4", 4, "altered", None),
    ],
)
def test_a_change_is_named(sealed: Factory, statement: str, seal: int, change: str, row: int | None) -> None:
    with sealed() as session:
        if statement is SWAP:
            for constraint in ("uq_audit_sealed_id_", "pk_audit_sealed"):
                session.execute(sa.text(f"ALTER TABLE platform.audit_sealed DROP CONSTRAINT {constraint}"))
        as_superuser(session, statement)
        with pytest.raises(errors.AuditLogChanged) as caught:
            verify_audit_log(session)
    assert (caught.value.seal, caught.value.change, caught.value.row) == (seal, change, row)


def test_an_inserted_row_is_named(sealed: Factory) -> None:
    with sealed() as session:
        as_superuser(session, "DELETE FROM platform.audit_sealed WHERE number = 12")
        as_superuser(
            session,
            "INSERT INTO platform.audit_sealed (number, id_, owner_id, action, created)"
            " VALUES (0, gen_random_uuid(), gen_random_uuid(), 'grant_token', now())",
        )
        with pytest.raises(errors.AuditLogChanged) as caught:
            verify_audit_log(session)
    assert (caught.value.seal, caught.value.change, caught.value.row) == (1, "inserted", 0)


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM platform.audit_seal_digests",
        "UPDATE platform.audit_seal_digests SET digests = ''",
        "UPDATE platform.audit_seal_digests SET digests = substr(digests, 41)",
        "UPDATE platform.audit_seal_digests SET digests = overlay(digests PLACING sha256('') FROM 9)",
    ],
)
def test_digests_that_were_changed_blame_no_row(sealed: Factory, change: str) -> None:
    with sealed() as session:
        as_superuser(session, f"{change} WHERE seal_number = 2")
        assert verify_audit_log(session).rows == 20
        as_superuser(session, "UPDATE platform.audit_sealed SET details = '{}' WHERE number = 9")
        with pytest.raises(errors.AuditLogChanged, match="which would tell the row") as caught:
            verify_audit_log(session)
    assert (caught.value.seal, caught.value.change, caught.value.row) == (2, "changed", None)


def test_an_edit_is_no_reordering_because_another_seals_digests_were_changed(sealed: Factory) -> None:
    with sealed() as session:
        as_superuser(session, "UPDATE platform.audit_sealed SET details = '{}' WHERE number = 9")
        (digest,) = split_digests(read_digests(session, 9, 9, 1))
        as_superuser(
            session,
            "UPDATE platform.audit_seal_digests SET digests = digests || int8send(16) ||"
            f" '\\x{digest[1].hex()}' WHERE seal_number = 3",
        )
        with pytest.raises(errors.AuditLogChanged, match=r"row 9 .* was edited"):
            verify_audit_log(session)


def test_rows_beyond_what_was_sealed_are_not_read(sealed: Factory) -> None:
    with sealed() as session:
        as_superuser(
            session,
            "INSERT INTO platform.audit_sealed (number, id_, owner_id, action, created)"
            " SELECT -n, gen_random_uuid(), gen_random_uuid(), 'x', now() FROM generate_series(1, 5000) AS n",
        )
        with pytest.raises(errors.AuditLogChanged) as caught:
            verify_audit_log(session)
    assert (caught.value.seal, caught.value.change, caught.value.row) == (1, "inserted", -5000)


def test_a_rewritten_chain_is_told_by_what_was_exported(sealed: Factory) -> None:
    with sealed() as session:
        exported = [json.dumps(seal) for seal in audit.export_seals(session)]
        verify_audit_log(session, against=exported)
        as_superuser(session, "UPDATE platform.audit_sealed SET action = 'x' WHERE number = 20")
        as_superuser(session, "DELETE FROM platform.audit_seal_digests WHERE seal_number = 4")
        as_superuser(session, "DELETE FROM platform.audit_seal WHERE number = 4")
        with pytest.raises(errors.AuditLogChanged, match="seal 4 does not hold: the seal itself is missing"):
            verify_audit_log(session, against=exported)
        seal_audit_log(sealed)
        verify_audit_log(session)
        with pytest.raises(errors.AuditLogChanged, match="seal 4 does not hold: the seal itself is altered"):
            verify_audit_log(session, against=exported)


def test_since_begins_later(sealed: Factory) -> None:
    with sealed() as session:
        as_superuser(session, "UPDATE platform.audit_sealed SET action = 'x' WHERE number = 2")
        third = session.get_one(AuditSeal, 3)
        assert verify_audit_log(session, since=third.sealed_at).seals == 2
        with pytest.raises(errors.AuditLogChanged):
            verify_audit_log(session, since=third.sealed_at - timedelta(hours=1))


def exported_seals(session: orm.Session, *, after: int = 0) -> list[str]:
    """Return the seals as they are exported, a line each."""
    return [json.dumps(seal) for seal in audit.export_seals(session, after=after)]


def test_what_is_before_since_is_compared_with_the_export_too(sealed: Factory) -> None:
    with sealed() as session:
        exported = exported_seals(session)
        third = session.get_one(AuditSeal, 3)
        result = verify_audit_log(session, since=third.sealed_at, against=exported)
        assert (result.seals, result.compared_seals, result.removed_since_export) == (2, 3, 0)
        later = third.sealed_at + timedelta(days=1)
        assert verify_audit_log(session, since=later, against=exported).compared_seals == 1
        as_superuser(
            session, "UPDATE platform.audit_seal SET sealed_at = now() + interval '1 h' WHERE number = 4"
        )
        rehash(session)
        with pytest.raises(errors.AuditLogChanged, match="seal 4 does not hold: the seal itself is altered"):
            verify_audit_log(session, since=later, against=exported)


def test_the_seal_before_since_must_say_what_was_hashed(sealed: Factory) -> None:
    with sealed() as session:
        since = session.get_one(AuditSeal, 3).sealed_at
        as_superuser(session, "UPDATE platform.audit_seal SET row_count = 4 WHERE number = 2")
        with pytest.raises(errors.AuditLogChanged, match="seal 2 does not hold: the seal itself is altered"):
            verify_audit_log(session, since=since)


def test_an_export_with_nothing_to_compare_is_refused(sealed: Factory) -> None:
    with sealed() as session:
        exported = exported_seals(session)
        fourth = session.get_one(AuditSeal, 4)
        for lines in ([], ["\n"], exported[:2]):
            with pytest.raises(errors.InvalidExport, match="none in common"):
                verify_audit_log(session, since=fourth.sealed_at, against=lines)
        assert verify_audit_log(session, against=exported[:2]).compared_seals == 2


@pytest.mark.parametrize(
    "line",
    [
        "junk",
        "[1]",
        "7",
        '{"number": 5}',
        '{"number": "5", "hash": ""}',
        '{"number": 5, "hash": 0}',
        "[" * 9999,
    ],
)
def test_what_is_no_export_is_refused(sealed: Factory, line: str) -> None:
    with sealed() as session, pytest.raises(errors.InvalidExport, match="line 3 is no exported seal"):
        verify_audit_log(session, against=[*exported_seals(session)[:2], line])


def test_exports_that_overlap_are_refused(sealed: Factory) -> None:
    with sealed() as session:
        exported = exported_seals(session)
        with pytest.raises(errors.InvalidExport, match="line 5: seal 1 was to come before seal 4"):
            verify_audit_log(session, against=exported * 2)


# -- signing


def test_seals_are_signed_and_a_forged_one_is_found(
    signing_key: str, sealed: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sealed() as session:
        assert verify_audit_log(session).unsigned_seals == 0
        configure(monkeypatch, AUDIT_VERIFY_KEYS=audit.public_key(), AUDIT_SIGNING_KEY=None)
        assert verify_audit_log(session).seals == 4
        configure(monkeypatch, AUDIT_SIGNING_KEY=crypto.generate_key(), AUDIT_VERIFY_KEYS=None)
        with pytest.raises(errors.AuditLogChanged, match="forged"):
            verify_audit_log(session)


def test_keys_are_changed_and_the_seals_of_former_ones_verify(
    signing_key: str, sealed: Factory, session: orm.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    former = audit.public_key()
    configure(monkeypatch, AUDIT_SIGNING_KEY=crypto.generate_key(), AUDIT_VERIFY_KEYS=former)
    record(session)
    assert seal_audit_log(sealed).seals == 1
    assert verify_audit_log(session).seals == 5


def test_a_seal_without_signature_is_refused_once_there_is_a_key(
    sealed: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, AUDIT_SIGNING_KEY=crypto.generate_key())
    with sealed() as session:
        with pytest.raises(errors.AuditLogChanged, match="unsigned"):
            verify_audit_log(session)
        assert verify_audit_log(session, unsigned_until=4).unsigned_seals == 4


# -- reading


def test_lists_are_filtered_and_paged(session_factory: Factory, session: orm.Session) -> None:
    record(session, 5)
    record(session, 2, user=BOB)
    record_action(session, ANN, "revoke_token", actor_id=BOB)
    session.commit()
    assert len(list_audit(session, user_id=BOB).rows) == 2
    assert [row.action for row in list_audit(session, actor_id=BOB).rows] == ["revoke_token"]
    assert len(list_audit(session, action="grant_token").rows) == 7
    assert list_audit(session, until=datetime(2020, 1, 1, tzinfo=timezone.utc)).rows == []
    page = list_audit(session, limit=3)
    numbers = [row.number for row in page.rows]
    assert numbers == [None, None, None], "not sealed yet"
    seal_audit_log(session_factory)
    record(session)
    while page.cursor:
        page = list_audit(session, limit=3, cursor=page.cursor)
        numbers += [row.number for row in page.rows]
    assert numbers[3:] == [5, 4, 3, 2, 1]


@pytest.mark.parametrize(
    ("filters", "index"),
    [
        ({"user_id": ANN}, "owner_id_created_number"),
        ({"actor_id": ANN}, "actor_id_created_number"),
        ({"action": "share_workflow"}, "action_created_number"),
        ({"since": datetime(2026, 1, 1, tzinfo=timezone.utc)}, "created_number"),
    ],
)
def test_each_filter_has_an_index(
    session_factory: Factory, session: orm.Session, filters: dict[str, Any], index: str
) -> None:
    session.execute(
        sa.text(
            "INSERT INTO platform.audit_log (id_, owner_id, actor_id, action)"
            " SELECT gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'grant_token'"
            " FROM generate_series(1, 20000)"
        )
    )
    for _ in range(20):
        record_action(session, ANN, "share_workflow", actor_id=ANN)
    session.commit()
    seal_audit_log(session_factory)
    record_action(session, ANN, "share_workflow", actor_id=ANN)
    session.flush()
    session.execute(sa.text("ANALYZE platform.audit_inbox, platform.audit_sealed"))
    first = list_audit(session, **filters, limit=10)
    plans: list[str] = []

    def explain(*arguments: Any) -> None:
        if arguments[2].startswith("SELECT"):
            arguments[1].connection.cursor()
            cursor = arguments[1].connection.cursor()
            cursor.execute("EXPLAIN " + arguments[2], arguments[3])
            plans.append("\n".join(line for (line,) in cursor.fetchall()))

    sa.event.listen(session.get_bind(), "before_cursor_execute", explain)
    assert list_audit(session, **filters, limit=10, cursor=first.cursor).rows
    assert f"ix_audit_sealed_{index}" in plans[0]
    assert "Presorted Key: audit_inbox.created" in plans[0]


def test_an_export_streams_all_of_it(
    session_factory: Factory, session: orm.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform_db.audit.reading.PAGE", 3)
    record(session, 4)
    seal_audit_log(session_factory)
    record(session, 3)
    rows = list(audit.export_audit(session, user_id=ANN))
    assert [row["number"] for row in rows] == [1, 2, 3, 4, None, None, None]
    assert json.loads(json.dumps(rows[6]))["details"] == {"n": 2}


def test_a_row_is_read_once_while_it_is_sealed(
    session_factory: Factory, session: orm.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "SEAL_ROWS", 3)
    monkeypatch.setattr("platform_db.audit.reading.PAGE", 50)
    record(session, 500)
    newest_first = [row.id_ for row in list_audit(session, limit=500).rows]

    with ThreadPoolExecutor(1) as pool:
        sealed = pool.submit(seal_audit_log, session_factory)
        while not sealed.done():
            page = list_audit(session, limit=50)
            ids = [row.id_ for row in page.rows]
            while page.cursor:
                page = list_audit(session, limit=50, cursor=page.cursor)
                ids += [row.id_ for row in page.rows]
            assert ids == newest_first
            assert [row["id"] for row in audit.export_audit(session)] == [*map(str, reversed(newest_first))]

    assert sealed.result().rows == 500


# -- retention


def test_the_database_tells_how_old_a_row_is(sealed: Factory) -> None:
    assert audit.prune_audit_log(sealed, timedelta(days=1)) == 0
    assert audit.prune_audit_log(sealed, timedelta(0)) > 0
    with sealed() as session:
        assert [row.action for row in list_audit(session).rows] == ["apply_retention"]
        assert audit.verify_audit_log(session).removed_rows > 0


CLOCK_AHEAD = """
import datetime

class Ahead(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(days=800)

datetime.datetime = Ahead
from platform_db.cli import main
main()
"""


def test_a_client_whose_clock_is_ahead_removes_nothing(database_uri: str, sealed: Factory) -> None:
    pruned = subprocess.run(
        [sys.executable, "-c", CLOCK_AHEAD, "audit", "prune", "--older-than", "730"],
        env={**os.environ, "PLATFORM_DB_URI": database_uri},
        capture_output=True,
        text=True,
        check=True,
    )
    assert pruned.stdout == "removed the rows of 0 seals\n"


def test_retention_removes_rows_keeps_hashes_and_says_so(sealed: Factory) -> None:
    with sealed() as session:
        as_superuser(session, "UPDATE platform.audit_seal SET last_created = '2020-01-01' WHERE number <= 2")
        rehash(session)
        assert prune_seals(session, YEAR) == 2
        session.commit()
        assert prune_seals(session, YEAR) == 0
        (said,) = list_audit(session, user_id=NOBODY).rows
        assert said.details is not None
        assert (said.action, said.details["rows"], said.details["last_seal"]) == ("apply_retention", 10, 2)
        assert session.scalar(sa.select(sa.func.count()).select_from(AuditLog)) == 11
        result = verify_audit_log(session)
        assert (result.seals, result.rows, result.removed_seals) == (5, 10, 2)
        with pytest.raises(errors.AppendOnly):
            session.execute(sa.text("DELETE FROM platform.audit_sealed WHERE number = 11"))
        session.rollback()
        as_superuser(
            session,
            "INSERT INTO platform.audit_sealed (number, id_, owner_id, action, created)"
            " VALUES (3, gen_random_uuid(), gen_random_uuid(), 'grant_token', now())",
        )
        with pytest.raises(errors.AuditLogChanged, match=r"row 3 .* is there, and a later seal says"):
            verify_audit_log(session)


def test_sealing_and_retention_run_inside_a_transaction_of_the_callers(engine: sa.Engine) -> None:
    with engine.connect() as connection, connection.begin():
        inside = orm.sessionmaker(connection, join_transaction_mode="create_savepoint")
        with inside() as session:
            record(session)
        assert seal_audit_log(inside).rows == 1
        assert audit.prune_audit_log(inside, timedelta(0)) == 1


def test_retention_removes_the_first_row_whatever_its_number(
    session_factory: Factory, session: orm.Session
) -> None:
    as_superuser(
        session,
        "INSERT INTO platform.audit_sealed (number, id_, owner_id, action, created)"
        " VALUES (-9223372036854775808, gen_random_uuid(), gen_random_uuid(), 'grant_token', '2020-01-01')",
    )
    seal_audit_log(session_factory)
    assert audit.prune_audit_log(session_factory, timedelta(0)) == 1
    assert verify_audit_log(session).removed_rows == 1
    assert [row.action for row in list_audit(session).rows] == ["apply_retention"]


def test_retention_leaves_alone_what_turns_up_where_it_has_been(sealed: Factory) -> None:
    with sealed() as session:
        make_old(session)
        assert prune_seals(session, YEAR, limit=2) == 2
        session.commit()
        as_superuser(
            session,
            "INSERT INTO platform.audit_sealed (number, id_, owner_id, action, created)"
            " VALUES (3, gen_random_uuid(), gen_random_uuid(), 'grant_token', '2020-01-01')",
        )
        assert prune(sealed, limit=1) == 2
        with pytest.raises(errors.AuditLogChanged, match="row 3 "):
            verify_audit_log(session)


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ"])
def test_sealing_and_retention_take_turns(
    sealed: Factory, session: orm.Session, engine: sa.Engine, isolation: str
) -> None:
    record(session, 7)
    session.execute(sa.text("SELECT FROM platform.audit_chain FOR UPDATE"))
    others = orm.sessionmaker(engine.execution_options(isolation_level=isolation))
    with ThreadPoolExecutor() as pool:
        pruning = pool.submit(audit.prune_audit_log, others, timedelta(0))
        sealing_ = pool.submit(seal_audit_log, others)
        time.sleep(0.5)
        assert not pruning.done() and not sealing_.done()
        session.rollback()
        assert pruning.result() >= 4
        assert sealing_.result().rows >= 7
    assert verify_audit_log(session).unsealed_rows <= 2, "what retention has recorded of itself"


def rehash(session: orm.Session) -> None:
    """Make the chain hold again after its seals were made older."""
    from platform_db.audit.chain import NO_HASH, seal_hash

    session.execute(sa.text("SET LOCAL session_replication_role = replica"))
    session.expire_all()
    previous = NO_HASH
    for seal in session.scalars(sa.select(AuditSeal).order_by(AuditSeal.number)):
        seal.previous_hash = previous
        seal.hash = previous = seal_hash(seal)
    session.commit()


def make_old(session: orm.Session, condition: str = "true") -> None:
    """Let the rows of seals, and the seals, be older than :data:`YEAR`."""
    as_superuser(
        session,
        "UPDATE platform.audit_seal SET sealed_at = '2020-01-01',"
        " last_created = CASE WHEN row_count > 0 THEN timestamptz '2020-01-01' END"
        f" WHERE {condition}",
    )
    rehash(session)


YEAR = timedelta(days=365)


def prune(factory: Factory, limit: int) -> int:
    """Prune as the command does, and return how many seals' rows went."""
    pruned = 0
    while True:
        with factory() as session, session.begin():
            seals = prune_seals(session, YEAR, limit=limit)
        if not seals:
            return pruned
        pruned += seals


def test_retention_goes_on_when_its_own_seals_come_of_age(sealed: Factory) -> None:
    with sealed() as session:
        make_old(session)
        assert prune(sealed, limit=1) == 4
        record(session, 6)
        seal_audit_log(sealed)
        make_old(session)
        assert prune(sealed, limit=2) == 2
        result = verify_audit_log(session)
        assert (result.rows, result.removed_seals, result.removed_rows) == (0, 6, 30)
        assert result.unsealed_rows == 1, "what retention said at last"


FORGED = """
    INSERT INTO platform.audit_seal
    SELECT number + 1, hash, last_row, 0, NULL, sha256(''), number + 1, now(), previous_hash
    FROM platform.audit_seal ORDER BY number DESC LIMIT 1
"""


def forge_removal(session: orm.Session) -> None:
    """Remove all rows as retention does, but without its audit row."""
    from platform_db.audit.chain import seal_hash

    session.execute(sa.text(FORGED))
    forged = session.scalars(sa.select(AuditSeal).order_by(AuditSeal.number.desc()).limit(1)).one()
    hash_ = seal_hash(forged).hex()
    as_superuser(
        session, f"UPDATE platform.audit_seal SET hash = '\\x{hash_}' WHERE number = {forged.number}"
    )
    session.execute(sa.text("DELETE FROM platform.audit_sealed"))
    session.commit()


def test_rows_are_not_removed_without_a_word(sealed: Factory) -> None:
    with sealed() as session:
        exported = exported_seals(session)
        forge_removal(session)
        for against in (None, exported):
            with pytest.raises(errors.AuditLogChanged, match="no audit row says so") as caught:
                verify_audit_log(session, against=against)
            assert (caught.value.seal, caught.value.change) == (5, "unrecorded")


def test_verifying_says_what_was_removed_since_the_export(sealed: Factory) -> None:
    with sealed() as session:
        make_old(session, "number <= 3")
        prune(sealed, limit=1)
        exported = exported_seals(session)
        make_old(session)
        exported = exported_seals(session)
        assert verify_audit_log(session, against=exported).removed_since_export == 0
        prune(sealed, limit=5)
        result = verify_audit_log(session, against=exported)
        assert (result.removed_seals, result.removed_rows) == (4, 20)
        assert result.removed_since_export == 4, "one with rows, and what retention had added"
