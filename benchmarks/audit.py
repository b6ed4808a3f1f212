"""What verifying and sealing the audit log cost.

Run it with an empty, migrated database: ``python benchmarks/audit.py URI [verify|seal|prune] [SECONDS]``.

verify
    The rate of verifying 100,000 rows, against a bare COPY that hashes the same bytes.
seal
    The rate of sixteen writers while the log is sealed all the time, against the rate without.
prune
    How long removing 500,000 rows takes under four writers, against one DELETE from the same table without
    triggers; the dead rows that are left, and the writers' longest wait.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import resource
import statistics
import sys
import threading
import time
import uuid
from collections.abc import Callable
from datetime import timedelta

import psycopg2
import sqlalchemy as sa
from sqlalchemy import orm

from platform_db import audit, database
from platform_db.audit.content import COLUMNS, TABLE

ROW_COUNT = 100_000
WRITERS = 16
ROUND_SECONDS = 10.0
PRUNED_ROWS = 500_000

FLOOR = (
    "CREATE TABLE public.audit_floor (LIKE platform.audit_sealed INCLUDING ALL)",
    "INSERT INTO public.audit_floor SELECT * FROM platform.audit_sealed",
)

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


def prune(uri: str) -> None:
    """Compare pruning with a bare deletion, beside writers that wait for a moment between their rows."""
    factory = orm.sessionmaker(database.create_engine(uri))
    with factory() as session, session.begin():
        session.execute(FILL, {"rows": PRUNED_ROWS})
    audit.seal_audit_log(factory)
    with factory() as session, session.begin():
        for statement in FLOOR:
            session.execute(sa.text(statement))
    sealed_at = time.monotonic()
    with Waits(uri) as alone:
        time.sleep(10)
    with factory() as session, session.begin():
        floor = timed(lambda: session.execute(sa.text("DELETE FROM public.audit_floor")))
    with Waits(uri) as during:
        age = timedelta(seconds=time.monotonic() - sealed_at)
        pruning = timed(lambda: audit.prune_audit_log(factory, age))
    time.sleep(2)  # The server tells what it has counted with some delay.
    with factory() as session:
        dead = session.scalar(
            sa.text("SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'audit_sealed'")
        )
    print(
        f"prune: {PRUNED_ROWS:,} rows in {pruning:.2f} s  bare DELETE: {floor:.2f} s"
        f"  ratio: {floor / pruning:.2f}  dead rows: {dead:,}"
    )
    print(
        f"longest wait of a writer: {max(during.seconds) * 1e3:.0f} ms"
        f"  alone: {max(alone.seconds) * 1e3:.0f} ms"
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
        insert(connection, user)
        count += 1
    written.put(count)


def insert(connection: psycopg2.extensions.connection, user: str) -> None:
    """Store one row in a transaction of its own."""
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO platform.audit_inbox (id_, owner_id, action, details)"
            " VALUES (gen_random_uuid(), %s, 'grant_token', '{}')",
            (user,),
        )


class Waits:
    """Four writers, as long as the block lasts, and how many seconds each of their rows took."""

    def __init__(self, uri: str) -> None:
        self.seconds: list[float] = []
        self._ended = threading.Event()
        self._writers = [threading.Thread(target=self._write, args=(uri,)) for _ in range(4)]

    def __enter__(self) -> Waits:
        for writer in self._writers:
            writer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for writer in self._writers:
            writer.join()

    def _write(self, uri: str) -> None:
        connection = psycopg2.connect(uri)
        while not self._ended.wait(0.01):
            self.seconds.append(timed(lambda: insert(connection, str(uuid.uuid4()))))
        connection.close()


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
    elif sys.argv[2] == "prune":
        prune(sys.argv[1])
    else:
        seal(sys.argv[1], float(sys.argv[3]) if len(sys.argv) > 3 else 60)
