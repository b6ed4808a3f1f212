"""What redun's call graph and cache cost on platform-db, against a backend in memory, in one run.

* *fresh*: a thousand small jobs under one, none of them cached; *cached*: the same again.
* *check_cache*: one look-up, by the number of calls of its task that are stored, beside a bare statement.

    python benchmarks/redun_backend.py [--uri URI] [--jobs 1000] [--rounds 5] [--calls 2000 20000 100000]

Without a URI it starts an embedded database of its own and removes it afterwards. It needs redun.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from redun import Scheduler, task
from redun.backends.base import RedunBackend
from redun.config import Config
from redun.hashing import hash_call_node, hash_struct
from redun.task import CacheCheckValid, CacheResult, CacheScope

from platform_db import embedded, schema, sessions
from platform_db.models import User

redun_namespace = "benchmark"
LOOK_UPS = 1000


@task()
def leaf(x: int) -> int:
    """Return the next number."""
    return x + 1


@task()
def total(values: list[int]) -> int:
    """Return the sum."""
    return sum(values)


@task()
def main_task(numbers: range) -> Any:
    """Call all others."""
    return total([leaf(number) for number in numbers])


class Memory(RedunBackend):
    """What any backend has to do, and nothing else: values and evaluations in dictionaries."""

    values: dict[str, Any] = {}
    evaluations: dict[str, str] = {}

    def load(self, migrate: bool | None = None) -> None:
        """Be ready."""

    def record_value(self, value: Any, data: bytes | None = None) -> str:
        """Serialize and hash, as redun does for its databases."""
        interface = self.type_registry.get_value(value)
        data = data or interface.serialize()
        value_hash = interface.get_hash(data=data)
        self.values[value_hash] = (self.type_registry.get_type_name(type(value)), data)
        return value_hash

    def get_value(self, value_hash: str) -> tuple[Any, bool]:
        """Return a value."""
        type_, data = self.values[value_hash]
        return self.type_registry.deserialize(type_, data), True

    def record_call_node(self, task_name: str, task_hash: str, args_hash: str, **call: Any) -> str:
        """Record the values of a call."""
        args, kwargs = call["eval_args"]
        for value in (*args, *kwargs.values()):
            self.record_value(value)
        return hash_call_node(task_hash, args_hash, call["result_hash"], call["child_call_hashes"])

    def check_cache(self, task_hash: str, args_hash: str, eval_hash: str, *_: Any, **__: Any) -> Any:
        """Return what was evaluated."""
        if eval_hash in self.evaluations:
            return self.get_value(self.evaluations[eval_hash])[0], None, CacheResult.SINGLE
        return None, None, CacheResult.MISS

    def set_eval_cache(
        self, eval_hash: str, task_hash: str, args_hash: str, value: Any, value_hash: str | None = None
    ) -> None:
        """Record an evaluation."""
        self.evaluations[eval_hash] = value_hash or self.record_value(value)


for _name in RedunBackend.__abstractmethods__ - Memory.__dict__.keys():
    setattr(Memory, _name, lambda *_, **__: None)
Memory.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]


def main() -> None:
    """Run the benchmark and print its ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--uri", help="database to use; it is migrated")
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, nargs="*", default=[2000, 20_000, 100_000])
    arguments = parser.parse_args()
    logging.getLogger("redun").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="platform-db-benchmark-") as directory:
        Path(directory).chmod(0o755)
        data = Path(directory) / "data"
        os.environ["PLATFORM_DB_URI"] = arguments.uri or embedded.ensure_running(data)
        try:
            run(arguments.jobs, arguments.rounds, arguments.calls)
        finally:
            sessions.reset_engine()
            if not arguments.uri:
                embedded.stop(data)


def run(jobs: int, rounds: int, calls: Sequence[int]) -> None:
    """Measure each round on both backends, one after the other."""
    schema.init_db(sessions.get_engine())
    with sessions.session_scope() as session:
        user = User(email=f"{uuid.uuid4()}@example.org")
        session.add(user)
        session.flush()
        owner_id = user.id_
    address = f"platformdb://configured?owner={owner_id}"
    seconds: dict[tuple[str, str], list[float]] = {}
    # Each in a process of its own, as schedulers are: neither collects the other's garbage.
    processes = {name: Process(address, name) for name in NAMES}
    for number in range(rounds + 1):
        numbers = range(number * jobs, (number + 1) * jobs)  # an earlier one would be cached
        for name in NAMES:
            for kind in ("fresh", "cached"):
                took = processes[name].time_execution(numbers)
                if number:  # The first round makes connections and plans.
                    seconds.setdefault((kind, name), []).append(took)
    for process in processes.values():
        process.end()
    for kind in ("fresh", "cached"):
        floor, ours = (statistics.median(seconds[kind, name]) for name in NAMES)
        pairs = zip(seconds[kind, NAMES[1]], seconds[kind, NAMES[0]], strict=True)
        ratio = statistics.median(one / other for one, other in pairs)
        print(
            f"{kind:<7} memory {floor:6.3f} s   platform-db {ours:6.3f} s   {ours / floor:4.2f} x"
            f"   median of the rounds' ratios {ratio:4.2f}"
        )
    look_up(
        make_scheduler(f"platformdb://configured?owner={owner_id}", "platform-db").backend, owner_id, calls
    )


NAMES = ("memory", "platform-db")


class Process:
    """A process that makes executions with one backend."""

    def __init__(self, address: str, name: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=serve, args=(other, address, name))
        self._process.start()

    def time_execution(self, numbers: range) -> float:
        """Return the seconds that an execution takes."""
        self._pipe.send(numbers)
        seconds: float = self._pipe.recv()
        return seconds

    def end(self) -> None:
        """Let it end."""
        self._pipe.send(None)
        self._process.join()


def serve(pipe: Connection, address: str, name: str) -> None:
    """Make the executions that are asked for."""
    logging.getLogger("redun").setLevel(logging.ERROR)
    while (numbers := pipe.recv()) is not None:
        scheduler = make_scheduler(address, name)
        began = time.perf_counter()
        scheduler.run(main_task(numbers))
        pipe.send(time.perf_counter() - began)
    sessions.reset_engine()


def make_scheduler(address: str, name: str) -> Scheduler:
    """Return a scheduler with one of the backends."""
    backend = Memory() if name == "memory" else None
    scheduler = Scheduler(config=Config({"backend": {"db_uri": address}}), backend=backend)
    scheduler.load()
    return scheduler


def look_up(backend: Any, owner_id: uuid.UUID, sizes: Sequence[int]) -> None:
    """Time look-ups while the calls of one task grow, beside a statement that looks up nothing."""
    backend.record_value(leaf)
    value_hash = backend.record_value(0)
    backend.recorder.flush()
    stored = 0
    first: dict[str, float] = {}
    for size in sizes:
        store(owner_id, value_hash, range(stored, size))
        stored = size
        for kind, valid in (("SINGLE", CacheCheckValid.FULL), ("ULTIMATE", CacheCheckValid.SHALLOW)):
            times, floors = [], []
            for part in range(LOOK_UPS):
                began = time.perf_counter()
                backend.recorder.reading.execute("SELECT 1")
                floors.append(time.perf_counter() - began)
                args = hash_struct(["args", part * size // LOOK_UPS])
                began = time.perf_counter()
                found = backend.check_cache(
                    leaf.hash, args, hash_struct(["Eval", leaf.hash, args]), "none", {leaf.hash},
                    CacheScope.BACKEND, valid,
                )  # fmt: skip
                times.append(time.perf_counter() - began)
                assert found[2].name == kind, found
            took, floor = statistics.median(times), statistics.median(floors)
            # The machine is not as fast at all times.
            ratio = took / floor / first.setdefault(kind, took / floor)
            print(
                f"check_cache {kind:<8} {size:>7} calls {took * 1000:6.3f} ms,"
                f" {took / floor:4.2f} of SELECT 1: {ratio:4.2f} of the first"
            )


STATEMENTS = (
    """call_node (owner_id, call_hash, task_name, task_hash, args_hash, value_hash, timestamp)
        SELECT :owner, :call, 'leaf', :task, :args, :value, now()""",
    "call_subtree_task (owner_id, call_hash, task_hash) SELECT :owner, :call, :task",
    """evaluation (owner_id, eval_hash, task_hash, args_hash, value_hash)
        SELECT :owner, :eval, :task, :args, :value""",
)


def store(owner_id: uuid.UUID, value_hash: str, numbers: range) -> None:
    """Store calls of one task, with their evaluations, in bulk."""
    with sessions.get_engine().begin() as connection:
        rows = [
            {
                "owner": owner_id,
                "call": hash_struct(["call", number]),
                "args": hash_struct(["args", number]),
                "eval": hash_struct(["Eval", leaf.hash, hash_struct(["args", number])]),
                "task": leaf.hash,
                "value": value_hash,
            }
            for number in numbers
        ]
        for statement in STATEMENTS:
            connection.execute(sa.text(f"INSERT INTO platform.{statement}"), rows)


if __name__ == "__main__":
    main()
