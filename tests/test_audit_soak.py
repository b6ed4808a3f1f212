"""The audit log under load and in a superuser's hands: briefly in every run, for long with ``--soak``."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from platform_db import database, errors
from platform_db.audit import seal_audit_log, verify_audit_log
from platform_db.audit.content import split_digests
from platform_db.models import AuditSealDigests
from tests.processes import FORKING

Factory = orm.sessionmaker[orm.Session]

BATCHES = 10

FILL = sa.text(
    """
    INSERT INTO platform.audit_log (id_, owner_id, action, details)
    SELECT gen_random_uuid(), gen_random_uuid(), 'grant_token', jsonb_build_object('n', n)
    FROM generate_series(1, :rows) AS n
    """
)


def write(uri: str, seconds: float, written: Any) -> None:
    """Store audit rows in transactions of all lengths, and count those that were committed."""
    connection = database.create_engine(uri).raw_connection()
    count, give_up_at = 0, time.monotonic() + seconds
    while time.monotonic() < give_up_at:
        with connection.cursor() as cursor:
            rows = random.randint(1, 3)
            for _ in range(rows):
                cursor.execute(
                    "INSERT INTO platform.audit_log (id_, owner_id, action)"
                    " VALUES (gen_random_uuid(), gen_random_uuid(), 'grant_token')"
                )
                time.sleep(random.choice((0, 0, 0, 0.05)))
        if random.random() < 0.1:
            connection.rollback()
        else:
            connection.commit()
            count += rows
    connection.close()
    written.put(count)


def seal_on_and_on(uri: str) -> None:
    """Seal until killed."""
    factory = orm.sessionmaker(database.create_engine(uri))
    while True:
        try:
            seal_audit_log(factory)
        except errors.AlreadyRunning:  # the server has not noticed yet that the one before is gone
            time.sleep(0.01)


@pytest.mark.parametrize(("writers", "seconds"), [(4, 3.0), pytest.param(16, 60.0, marks=pytest.mark.soak)])
def test_every_committed_row_is_sealed_once_while_sealers_are_killed(
    database_uri: str, session_factory: Factory, session: orm.Session, writers: int, seconds: float
) -> None:
    written = FORKING.Queue()
    processes = [FORKING.Process(target=write, args=(database_uri, seconds, written)) for _ in range(writers)]
    for process in processes:
        process.start()
    killed = 0
    while any(process.is_alive() for process in processes):
        sealer = FORKING.Process(target=seal_on_and_on, args=(database_uri,))
        sealer.start()
        time.sleep(random.uniform(0.5, 2.0))
        sealer.kill()
        sealer.join()
        killed += 1
        assert verify_audit_log(session).seals >= 0
        session.rollback()
    assert [process.exitcode for process in processes] == [0] * writers
    committed = sum(written.get(timeout=10) for _ in processes)
    wait_for_the_lock_of_the_killed(session_factory)

    result = verify_audit_log(session)

    assert killed > 1
    assert (result.rows, result.unsealed_rows) == (committed, 0)
    assert len(set(sealed_numbers(session))) == len(sealed_numbers(session)) == committed


def wait_for_the_lock_of_the_killed(factory: Factory) -> None:
    """Seal what is left, once the server has noticed that the last sealer is gone."""
    give_up_at = time.monotonic() + 30
    while True:
        try:
            seal_audit_log(factory)
            return
        except errors.AlreadyRunning:
            assert time.monotonic() < give_up_at
            time.sleep(0.05)


def sealed_numbers(session: orm.Session) -> list[int]:
    """Return the numbers of the rows that the seals speak of."""
    return [
        number
        for digests in session.scalars(sa.select(AuditSealDigests.digests))
        for number, _ in split_digests(digests)
    ]


def edit(session: orm.Session, number: int, other: int) -> tuple[str, int]:
    execute(session, f"UPDATE platform.audit_sealed SET details = '{{}}' WHERE number = {number}")
    return "edited", number


def delete(session: orm.Session, number: int, other: int) -> tuple[str, int]:
    execute(session, f"DELETE FROM platform.audit_sealed WHERE number = {number}")
    return "deleted", number


def insert(session: orm.Session, number: int, other: int) -> tuple[str, int]:
    execute(
        session,
        "INSERT INTO platform.audit_sealed (number, id_, owner_id, action, created)"
        " VALUES (0, gen_random_uuid(), gen_random_uuid(), 'grant_token', now())",
    )
    return "inserted", 0


def swap(session: orm.Session, number: int, other: int) -> tuple[str, int]:
    # One of them steps aside, because the numbers are unique.
    for old, new in ((number, -1), (other, number), (-1, other)):
        execute(
            session,
            f"WITH moved AS (DELETE FROM platform.audit_sealed WHERE number = {old} RETURNING *)"
            " INSERT INTO platform.audit_sealed (number, id_, owner_id, action, details, created)"
            f" SELECT {new}, id_, owner_id, action, details, created FROM moved",
        )
    return "reordered", min(number, other)


def execute(session: orm.Session, statement: str) -> None:
    """Do what the triggers would refuse."""
    session.execute(sa.text("SET LOCAL session_replication_role = replica"))
    session.execute(sa.text(statement))


@pytest.mark.parametrize("tamper", [edit, delete, insert, swap])
@pytest.mark.parametrize(("rows", "times"), [(3_000, 2), pytest.param(100_000, 25, marks=pytest.mark.soak)])
def test_whatever_a_superuser_changes_is_named(
    session_factory: Factory,
    session: orm.Session,
    tamper: Callable[[orm.Session, int, int], tuple[str, int]],
    rows: int,
    times: int,
) -> None:
    for _ in range(BATCHES):
        session.execute(FILL, {"rows": rows // BATCHES})
        session.commit()
        assert seal_audit_log(session_factory).rows == rows // BATCHES
    step = rows // BATCHES

    for _ in range(times):
        batch, other = random.sample(range(BATCHES - 1), 2)
        within = random.randint(1, step)
        numbers = (batch * step + within, other * step + within)
        change, row = tamper(session, *numbers)
        with pytest.raises(errors.AuditLogChanged) as caught:
            verify_audit_log(session)
        assert (caught.value.change, caught.value.row) == (change, row)
        session.rollback()
    assert verify_audit_log(session).rows == rows
