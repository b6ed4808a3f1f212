"""What verifying and sealing the audit log cost.

Run it with an empty, migrated database: ``python benchmarks/audit.py URI [verify|seal] [SECONDS]``.

verify
    The rate of verifying 100,000 rows, against a bare COPY that hashes the same bytes.
seal
    The rate of sixteen writers while the log is sealed all the time, against the rate without.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import resource
import statistics
import sys
import time
import uuid
from collections.abc import Callable

import psycopg2
import sqlalchemy as sa
from sqlalchemy import orm

from platform_db import audit, database
from platform_db.audit.content import COLUMNS, TABLE

ROW_COUNT = 100_000
WRITERS = 16
ROUND_SECONDS = 10.0

FILL = sa.text(
    """
    INSERT INTO platform.audit_inbox (id_, owner_id, action, details, request_id, address, service)
    SELECT gen_random_uuid(), gen_random_uuid(), 'grant_token',
           jsonb_build_object('token_id', gen_random_uuid(), 'n', n), 'request-' || n, '10.0.0.1', 'api'
    FROM generate_series(1, :rows) AS n
    """
)


def verify(uri: str) -> None:
    """Compare verifying with reading."""
    factory = orm.sessionmaker(database.create_engine(uri))
    with factory() as session, session.begin():
        session.execute(FILL, {"rows": ROW_COUNT})
    print("sealing:  ", f"{ROW_COUNT / timed(lambda: audit.seal_audit_log(factory)):,.0f} rows/s")
    for _ in range(3):
        bare = timed(lambda: read(uri))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with factory() as session:
            verifying = timed(lambda session=session: audit.verify_audit_log(session))
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(
            f"bare read: {ROW_COUNT / bare:,.0f} rows/s  verifying: {ROW_COUNT / verifying:,.0f} rows/s"
            f"  ratio: {bare / verifying:.2f}  memory: +{grown} kB"
        )


def read(uri: str) -> None:
    """Stream the rows' lines and hash them, with nothing between the driver and the hash."""

    class Lines:
        write = hashlib.sha256().update

    connection = psycopg2.connect(uri)
    connection.cursor().copy_expert(f"COPY (SELECT {COLUMNS} FROM {TABLE} ORDER BY number) TO STDOUT", Lines)
    connection.close()


def seal(uri: str, seconds: float) -> None:
    """Compare writing with and without a sealer, in short rounds, so that a checkpoint or a trend hits both.

    What was written without a sealer is sealed between the rounds.
    """
    factory = orm.sessionmaker(database.create_engine(uri))
    rates: dict[bool, list[float]] = {False: [], True: []}
    for number in range(2 * max(1, round(seconds / ROUND_SECONDS))):
        sealing = number % 4 in (1, 2)  # alone, sealing, sealing, alone
        rates[sealing].append(write_in_processes(uri, min(seconds, ROUND_SECONDS), sealing=sealing))
        audit.seal_audit_log(factory)
    for sealing, name in ((False, "alone"), (True, "while sealing")):
        print(f"{name:14} {statistics.mean(rates[sealing]):7,.0f} rows/s")
    print(f"ratio: {sum(rates[True]) / sum(rates[False]):.2f}")
    with factory() as session:
        result = audit.verify_audit_log(session)
        stored = session.scalar(sa.text("SELECT count(*) FROM platform.audit_log"))
    print(
        f"{stored} rows stored, {result.rows} sealed, {result.unsealed_rows} unsealed, {result.seals} seals"
    )


def write_in_processes(uri: str, seconds: float, *, sealing: bool) -> float:
    """Return how many rows a second the writers store together."""
    context = multiprocessing.get_context("fork")  # nothing is connected yet
    written = context.Queue()
    writers = [context.Process(target=write, args=(uri, seconds, written)) for _ in range(WRITERS)]
    sealer = context.Process(target=seal_repeatedly, args=(uri, seconds))
    for process in [*writers, *([sealer] if sealing else [])]:
        process.start()
    total = sum(written.get() for _ in writers)
    for process in writers:
        process.join()
    if sealing:
        sealer.join()
    return total / seconds


def write(uri: str, seconds: float, written: multiprocessing.Queue[int]) -> None:
    """Store one audit row a transaction, as services do, and count them."""
    connection = psycopg2.connect(uri)
    user, count, give_up_at = str(uuid.uuid4()), 0, time.monotonic() + seconds
    while time.monotonic() < give_up_at:
        with connection, connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO platform.audit_inbox (id_, owner_id, action, details)"
                " VALUES (gen_random_uuid(), %s, 'grant_token', '{}')",
                (user,),
            )
        count += 1
    written.put(count)


def seal_repeatedly(uri: str, seconds: float) -> None:
    """Seal once a second: sixty times as often as a cronjob would."""
    factory = orm.sessionmaker(database.create_engine(uri))
    give_up_at = time.monotonic() + seconds
    while time.monotonic() < give_up_at:
        audit.seal_audit_log(factory)
        time.sleep(1)


def timed(work: Callable[[], object]) -> float:
    """Return how many seconds ``work`` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    if sys.argv[2] == "verify":
        verify(sys.argv[1])
    else:
        seal(sys.argv[1], float(sys.argv[3]) if len(sys.argv) > 3 else 60)
