"""How much 1, 4 and 16 processes get done: platform-db against bare psycopg2 doing the same statements.

Each process has an owner, a session and a connection of its own, and is warm before it is measured. A barrier
starts all of them together, for each operation and for its floor in turn, so that a slow moment of the
machine hits both. The rate is that of all processes together, and the ratio the median of the rounds.

The processor's time of one operation is measured, too: the client's, and that of its server process (where
the server runs on this machine).

    python benchmarks/throughput.py [--uri URI] [--processes 1 4 16] [--rounds 7] [--seconds-per-round 1]
    python benchmarks/throughput.py --quick    # only tries whether it runs

Without a URI it starts an embedded database of its own and removes it afterwards.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import statistics
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import floor
import sqlalchemy as sa
from floor import SPECIFICATION, WALK
from sqlalchemy import orm

from platform_db import crypto, database, schema
from platform_db.identifiers import new_id
from platform_db.lifecycle.transitions import transition
from platform_db.models import RunStatus, User, UserTokenType, Workflow
from platform_db.tokens import authenticate, issue
from platform_db.workflows import create_workflow, create_workflows
from platform_db.workspaces import build_workspace_path

MANY = 100  # runs that are created by one call

WARM_UP = 0.2  # seconds of each operation

GIVE_UP = 300  # seconds after which a process that waits for the others takes them for dead

HEAD = "processes  operation                    floor/s   ours/s  ratio      floor µs      ours µs"


class Measured(NamedTuple):
    """What one process did in one round.

    :param rows: how many rows it changed.
    :param client: seconds of the processor that it took.
    :param server: seconds of the processor that its server process took; None where that is not here.
    """

    rows: int
    seconds: float
    client: float
    server: float | None

    @property
    def rate(self) -> float:
        """Rows a second."""
        return self.rows / self.seconds


class Bare(orm.DeclarativeBase):
    """The base of a mapping without platform-db's."""


class BareWorkflow(Bare):
    """A run's columns, as SQLAlchemy maps them by itself: what the unit of work takes, whatever is mapped."""

    __table__ = Workflow.__table__


class Operation(NamedTuple):
    """An operation and its floor; ``rows`` is how many of them a call of ``ours`` changes."""

    name: str
    ours: Callable[[], object]
    floor: Callable[[], object]
    rows: int


def main() -> None:
    """Run the benchmark and print its ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--uri", help="database to use; its schema is migrated, its data stays")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds-per-round", type=float, default=1)
    parser.add_argument("--quick", action="store_true", help="two processes, one short round")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.processes, arguments.rounds, arguments.seconds_per_round = [2], 1, 0.1
    with floor.server(arguments.uri) as uri:
        engine = database.create_engine(uri)
        schema.init_db(engine)
        engine.dispose()
        compare(uri, arguments.processes, arguments.rounds, arguments.seconds_per_round)


def compare(uri: str, processes: Sequence[int], rounds: int, seconds: float) -> None:
    """Print what each number of processes gets done in a database that is migrated."""
    os.environ.setdefault("PLATFORM_DB_SECRET_KEY", crypto.generate_key())  # the processes have it, too
    url = database.normalise_url(uri)
    floor.execute(url, floor.TABLES)
    print(HEAD)
    for count in processes:
        run(uri, count, rounds, seconds)
    floor.execute(url, "DROP SCHEMA floor CASCADE")


def run(uri: str, count: int, rounds: int, seconds: float) -> None:
    """Let so many processes measure each operation; print a line for each."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(count), context.Queue()
    arguments = (uri, rounds, seconds, barrier, results)
    processes = [context.Process(target=measure_all, args=arguments, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    every = [results.get(timeout=GIVE_UP + 100 * rounds * seconds) for _ in processes]
    for process in processes:
        process.join()
    for name in every[0]:
        print(f"{count:9}  {name:27} {line([found[name] for found in every])}", flush=True)


def line(found: list[list[tuple[Measured, Measured]]]) -> str:
    """Return what is told of an operation: rates, the median of their ratios, and the processor's time."""
    sums = [
        tuple(sum(each.rate for each in side) for side in zip(*together, strict=True))
        for together in zip(*found, strict=True)
    ]
    base, mine = (statistics.median(side) for side in zip(*sums, strict=True))
    ratio = statistics.median(after / before for before, after in sums)
    sides = zip(*itertools.chain.from_iterable(found), strict=True)
    costs = " ".join(f"{cost(side):>12}" for side in sides)
    return f"{base:8.0f} {mine:8.0f} {ratio:5.2f}x  {costs}"


def cost(measured: tuple[Measured, ...]) -> str:
    """Return the processor's time of a row in microseconds: client + server."""
    rows = sum(each.rows for each in measured)
    client = sum(each.client for each in measured) / rows
    if any(each.server is None for each in measured):
        return f"{client * 1e6:.0f} + ?"
    return f"{client * 1e6:.0f} + {sum(each.server or 0 for each in measured) / rows * 1e6:.0f}"


def measure_all(uri: str, rounds: int, seconds: float, barrier: Any, results: Any) -> None:
    """Measure each operation together with the other processes, and send what was found."""
    bench = Bench(database.create_engine(uri))
    operations = bench.operations()
    for operation in operations:
        measure(operation.ours, WARM_UP, bench.pid)
        measure(operation.floor, WARM_UP, bench.floor_pid)
    found: dict[str, list[tuple[Measured, Measured]]] = {}
    for operation in operations:
        found[operation.name] = []
        for _ in range(rounds):
            barrier.wait(GIVE_UP)
            base = measure(operation.floor, seconds, bench.floor_pid)
            barrier.wait(GIVE_UP)
            mine = measure(operation.ours, seconds, bench.pid)
            found[operation.name].append((base, mine._replace(rows=mine.rows * operation.rows)))
    results.put(found)


def measure(operation: Callable[[], object], seconds: float, server_pid: int | None) -> Measured:
    """Repeat an operation for so many seconds."""
    count, client, server, start = 0, time.process_time(), server_time(server_pid), time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        operation()
        count += 1
    took = time.process_time() - client
    after = server_time(server_pid)
    return Measured(count, elapsed, took, None if server is None or after is None else after - server)


def pid_of(connection: Any) -> int | None:
    """Return the id of a connection's server process; None where that may be on another machine."""
    is_here = connection.info.host.startswith("/") or connection.info.host in (
        "localhost",
        "127.0.0.1",
        "::1",
    )
    return connection.info.backend_pid if is_here else None


def server_time(pid: int | None) -> float | None:
    """Return the seconds of the processor that a process of this machine has taken."""
    if pid is None:
        return None
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[0]) / 1e9
    except OSError:
        return None


class Bench:
    """One process's owner and runs, in platform-db's tables and in the floor's."""

    def __init__(self, engine: sa.Engine) -> None:
        self.session = orm.Session(engine)
        owner = User(email=f"{uuid.uuid4()}@example.org")
        self.session.add(owner)
        self.session.flush()
        run = Workflow(owner_id=owner.id_, name="one", type_="serial", status=RunStatus.failed)
        self.session.add(run)
        self.owner_id, self.run_id = str(owner.id_), run.id_
        self.token = issue(self.session, owner, type_=UserTokenType.webhook)
        self.session.commit()
        self.session.expunge_all()
        # The pool gives the session the same connection each time.
        self.pid = pid_of(self.session.connection().connection.dbapi_connection)
        self.session.commit()
        digest = crypto.get_key_ring().digest(self.token)
        self.floor = floor.Floor(engine.url, self.owner_id, str(self.run_id), digest)
        self.floor_pid = pid_of(self.floor.connection)
        self.walk = itertools.cycle(WALK)
        self.names = itertools.count()

    def operations(self) -> list[Operation]:
        """Return what is measured."""
        return [
            Operation("transition()", self.transition, self.floor.transition, 1),
            Operation("creating by the ORM", self.create, self.floor.create, 1),
            Operation("creating by a bare mapping", self.create_bare, self.floor.create, 1),
            Operation("create_workflow()", self.create_one, self.floor.create, 1),
            Operation(f"create_workflows(), of {MANY}", self.create_many, self.floor.create, MANY),
            Operation("authenticate()", self.authenticate, self.floor.authenticate, 1),
        ]

    def transition(self) -> None:
        """A change of the status, by id."""
        transition(self.session, self.run_id, next(self.walk), model=Workflow)
        self.session.commit()

    def create(self) -> None:
        """A new run of a new name."""
        self.session.add(Workflow(owner_id=self.owner_id, **self.asked()))
        self.session.commit()

    def create_bare(self) -> None:
        """The same by SQLAlchemy alone: the table's columns, and nothing else that a model has."""
        id_ = new_id()
        values = {"git_ref": "", "labels": {}, "job_progress": {}, "restart": False, **self.asked()}
        path = build_workspace_path(self.owner_id, str(id_))
        row = BareWorkflow(id_=id_, owner_id=uuid.UUID(self.owner_id), workspace_path=path, **values)
        self.session.add(row)
        self.session.commit()

    def create_one(self) -> None:
        """The same, without a unit of work."""
        create_workflow(self.session, self.owner_id, **self.asked())
        self.session.commit()

    def create_many(self) -> None:
        """Many in one statement."""
        create_workflows(self.session, [{"owner": self.owner_id, **self.asked()} for _ in range(MANY)])
        self.session.commit()

    def authenticate(self) -> None:
        """Whose token this is."""
        authenticate(self.session, self.token)
        self.session.commit()

    def asked(self) -> dict[str, Any]:
        """Return what is asked for with a run."""
        return {"name": f"run-{next(self.names)}", "type_": "serial", "specification": SPECIFICATION}


if __name__ == "__main__":
    main()
