"""A job of the platform runs once at a time: it holds a lease, which it renews while it lives."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from platform_db import errors
from platform_db.bounds import require_seconds
from platform_db.database.session import SessionFactory
from platform_db.identifiers import new_id
from platform_db.leases.holding import CLOCK_ERROR

LEASE_SECONDS = 60.0
RENEWALS_PER_LEASE = 4
LONGEST = timedelta(days=1)

# One statement: a read followed by a write would let two runs both find it free.
_TAKE = sa.text("""
    INSERT INTO platform.task_lease AS lease (name, holder, acquired_at, expires_at)
    VALUES (:name, :holder, clock_timestamp(), clock_timestamp() + make_interval(secs => :seconds))
    ON CONFLICT (name) DO UPDATE
    SET holder = excluded.holder, acquired_at = excluded.acquired_at, expires_at = excluded.expires_at
    WHERE lease.expires_at <= excluded.acquired_at OR lease.holder = :dead
       -- The server's clock was set back, and the holder has not renewed the lease since.
       OR lease.acquired_at > excluded.acquired_at + CAST(:clock_error AS interval)
    RETURNING holder
    """)
_READ = sa.text("SELECT holder, acquired_at FROM platform.task_lease WHERE name = :name")
_RENEW = sa.text("""
    UPDATE platform.task_lease
    SET acquired_at = clock_timestamp(), expires_at = clock_timestamp() + make_interval(secs => :seconds)
    WHERE name = :name AND holder = :holder
    """)
_RELEASE = sa.text("DELETE FROM platform.task_lease WHERE name = :name AND holder = :holder")


class HeldLease:
    """A lease that this process holds."""

    def __init__(self) -> None:
        self.lost = threading.Event()

    def check(self) -> None:
        """Raise :class:`errors.AlreadyRunning` where another run has taken the lease over meanwhile."""
        if self.lost.is_set():
            raise errors.AlreadyRunning("this run stood still until its lease expired; another one goes on")


@contextmanager
def lease(factory: SessionFactory, name: str, *, seconds: float = LEASE_SECONDS) -> Iterator[HeldLease]:
    """Hold the lease ``name`` for the length of the block; a thread renews it.

    The lease of a run that was killed expires after ``seconds``; where the run was on this machine, the next
    one sees that its process is gone, and takes over at once.

    :raises errors.AlreadyRunning: another run holds it.
    """
    require_seconds(seconds, "length of a lease", longest=LONGEST)
    # Distinct for each lease: a process may, in threads of its own, contend with itself.
    holder = f"{_process(os.getpid())} {new_id()}"
    _take(factory, name, holder, seconds)
    held, ended = HeldLease(), threading.Event()

    def keep() -> None:
        renewal = {"name": name, "holder": holder, "seconds": seconds}
        while not ended.wait(seconds / RENEWALS_PER_LEASE):
            try:
                with factory() as session, session.begin():
                    renewed = session.connection().execute(_RENEW, renewal)
            except SQLAlchemyError:
                continue  # The job itself meets the same trouble, and says so; the next renewal may succeed.
            if not renewed.rowcount:
                held.lost.set()
                return

    keeper = threading.Thread(target=keep, name=f"lease {name}", daemon=True)
    keeper.start()
    try:
        yield held
    finally:
        ended.set()
        keeper.join()
        with factory() as session, session.begin():
            session.connection().execute(_RELEASE, {"name": name, "holder": holder})


def _take(factory: SessionFactory, name: str, holder: str, seconds: float) -> None:
    with factory() as session, session.begin():
        connection = session.connection()
        wanted = {"name": name, "holder": holder, "seconds": seconds, "clock_error": CLOCK_ERROR}
        if connection.execute(_TAKE, {**wanted, "dead": ""}).one_or_none():
            return
        other = connection.execute(_READ, {"name": name}).one_or_none()
        if other is None or _is_gone(other.holder):
            # Only from that very holder: a quicker process has put its own name here.
            dead = other.holder if other else ""
            if connection.execute(_TAKE, {**wanted, "dead": dead}).one_or_none():
                return
        renewed = f"; it renewed its lease at {other.acquired_at:%Y-%m-%d %H:%M:%S %Z}" if other else ""
        raise errors.AlreadyRunning(f"another run of {name} is going on{renewed}")


def _process(pid: int) -> str:
    """Name a process: host, name space of process ids (containers have their own), id, time of its start."""
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return f"{socket.gethostname()} ? {pid} ?"
    return f"{socket.gethostname()} {namespace} {pid} {'ended' if state in 'ZX' else rest[18]}"


def _is_gone(holder: str) -> bool:
    """Tell whether the holder was a process of this machine that has ended; in doubt it was not."""
    host, namespace, pid, started = holder.split(" ")[:4]
    if [host, namespace] != _process(os.getpid()).split(" ")[:2] or namespace == "?":
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # It lives, and belongs to another account.
    return _process(int(pid)).split(" ")[3] not in {started, "?"}
