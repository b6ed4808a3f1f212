"""``platform-db audit``, and a sealer that is killed."""

from __future__ import annotations

import csv
import io
import json
import time
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from platform_db import crypto, database, errors
from platform_db.audit import record_action, seal_audit_log, verify_audit_log
from platform_db.database.session import PlatformSession
from platform_db.models import AuditLog
from tests.command_line import one_line, run, start
from tests.processes import in_processes

ANN = uuid.uuid4()


@pytest.fixture
def recorded(session: orm.Session) -> None:
    for number in range(3):
        record_action(session, ANN, "grant_token", {"n": number})
    record_action(session, ANN, "revoke_token")
    session.commit()


def test_from_recording_to_verifying(
    database_uri: str, session: orm.Session, recorded: None, tmp_path: Path
) -> None:
    key = crypto.generate_key()
    sealed = run(database_uri, "audit", "seal", PLATFORM_DB_AUDIT_SIGNING_KEY=key)
    assert sealed.stdout == "1 new seals cover 4 rows\n"
    public = run(database_uri, "audit", "public-key", PLATFORM_DB_AUDIT_SIGNING_KEY=key).stdout.strip()
    seals = tmp_path / "seals.jsonl"
    seals.write_text(run(database_uri, "audit", "export-seals").stdout, encoding="utf-8")
    verify = ("audit", "verify", "--against", str(seals))
    verified = run(database_uri, *verify, PLATFORM_DB_AUDIT_VERIFY_KEYS=public)
    assert verified.stdout == (
        "1 seals hold, and 4 rows; retention removed 0 rows of 0 seals, 0 seals are unsigned,"
        " 0 rows are not sealed yet\n"
        "1 seals are as they were exported; since the last of them retention removed the rows of 0 seals\n"
    )

    session.execute(sa.text("SET LOCAL session_replication_role = replica"))
    session.execute(sa.text("UPDATE platform.audit_sealed SET action = 'x' WHERE number = 3"))
    session.commit()

    result = run(database_uri, *verify)
    assert result.exit_code == errors.AuditLogChanged.exit_code
    assert "seal 1 does not hold: row 3" in one_line(result.stderr)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "have none in common"),
        (b"junk\n", "line 1 is no exported"),
        (b"\xff\xfe\n", "line 1 is no exported"),
    ],
)
def test_a_file_that_proves_nothing_is_refused(
    database_uri: str, recorded: None, tmp_path: Path, content: bytes, message: str
) -> None:
    run(database_uri, "audit", "seal")
    (tmp_path / "seals.jsonl").write_bytes(content)
    result = run(database_uri, "audit", "verify", "--against", str(tmp_path / "seals.jsonl"))
    assert (result.exit_code, result.stdout) == (errors.InvalidExport.exit_code, "")
    assert message in one_line(result.stderr)


def test_lists_and_exports(database_uri: str, recorded: None) -> None:
    listed = run(database_uri, "audit", "list", "--action", "grant_token", "--json", "--limit", "2").stdout
    assert [row["details"]["n"] for row in json.loads(listed)] == [2, 1]
    assert len(run(database_uri, "audit", "list", "--user", str(ANN)).stdout.splitlines()) == 1 + 4
    exported = run(database_uri, "audit", "export", "--format", "csv", "--since", "2020-01-01").stdout
    rows = list(csv.DictReader(io.StringIO(exported)))
    assert [row["action"] for row in rows] == ["grant_token"] * 3 + ["revoke_token"]
    assert run(database_uri, "audit", "export", "--until", "2020-01-01").stdout == ""
    assert "not a time" in run(database_uri, "audit", "list", "--since", "yesterday").stderr


def test_a_time_without_an_offset_is_utc(database_uri: str, recorded: None) -> None:
    hour_ago = (datetime.now(timezone.utc) - timedelta(hours=1)).replace(tzinfo=None).isoformat()
    exporting = start(database_uri, "audit", "export", "--since", hour_ago, TZ="UTC+9")
    assert len(exporting.communicate(timeout=60)[0].splitlines()) == 4


def test_what_a_command_does_is_said_to_come_from_it(database_uri: str, session: orm.Session) -> None:
    user = run(database_uri, "user", "create", "ada@example.org").stdout.strip()
    record_action(session, user, "grant_token", actor_id=ANN)
    session.commit()
    by_ann, by_command = json.loads(
        run(database_uri, "audit", "list", "--user", "ada@example.org", "--json").stdout
    )
    assert (by_ann["action"], by_ann["actor_id"], by_ann["service"]) == ("grant_token", str(ANN), None)
    assert (by_command["action"], by_command["actor_id"]) == ("create_user", None)
    assert by_command["service"] == "platform-db"


def test_pruning_by_the_login_of_migrations_removes_nothing_young(database_uri: str, recorded: None) -> None:
    run(database_uri, "audit", "seal")
    result = run(
        "postgresql://nobody@127.0.0.1:1/x",
        *("audit", "prune", "--older-than", "1"),
        PLATFORM_DB_MIGRATION_URI=database_uri,
    )
    assert (result.exit_code, result.stdout) == (0, "removed the rows of 0 seals\n")


def write_rows(uri: str, number: int) -> None:
    """Store rows in transactions that end in another order than they began."""
    engine = database.create_engine(uri)
    for count in range(40):
        with orm.Session(engine) as session:
            record_action(session, ANN, "grant_token", {"writer": number, "n": count})
            session.flush()
            time.sleep(0.001 * ((count * 7 + number * 3) % 5))
            if count % 10 == 9:
                session.rollback()
            else:
                session.commit()
    engine.dispose()


def seal_rows(uri: str, number: int) -> None:
    """Write, or seal all the time until the writers have ended."""
    if number:
        write_rows(uri, number)
        return
    engine = database.create_engine(uri)
    give_up_at = time.monotonic() + 60
    while time.monotonic() < give_up_at:
        seal_audit_log(orm.sessionmaker(engine, class_=PlatformSession))
        with orm.Session(engine) as session:
            if session.scalar(sa.select(sa.func.count()).select_from(AuditLog)) == 4 * 36:
                break
    engine.dispose()


def test_every_row_is_sealed_once_while_others_write(
    database_uri: str, session_factory: orm.sessionmaker[orm.Session], session: orm.Session
) -> None:
    in_processes(5, seal_rows, database_uri)
    seal_audit_log(session_factory)
    result = verify_audit_log(session)
    assert (result.rows, result.unsealed_rows) == (4 * 36, 0)


def test_a_sealer_that_is_killed_leaves_a_chain_that_verifies(
    database_uri: str, session_factory: orm.sessionmaker[orm.Session], session: orm.Session
) -> None:
    for delay in (0.6, 0.8, 1.0):
        session.execute(
            sa.text(
                "INSERT INTO platform.audit_log (id_, owner_id, action)"
                " SELECT gen_random_uuid(), gen_random_uuid(), 'grant_token' FROM generate_series(1, 20000)"
            )
        )
        session.commit()
        with start(database_uri, "audit", "seal") as sealer:
            time.sleep(delay)
            sealer.kill()
        verify_audit_log(session)
    while True:
        try:
            seal_audit_log(session_factory)
            break
        except errors.AlreadyRunning:  # the server has not noticed yet that the killed one is gone
            time.sleep(0.1)
    assert verify_audit_log(session).rows == 60000
