"""What a controller's task history costs: platform-db against ipyparallel's SQLiteDB, in one run.

Each database gets the same records, as a controller writes them: added, given an engine, completed. Then
both are read. A ratio above 1 says how many times as fast platform-db is.

* *add*, *engine*, *result*: records a second, until all are on the disk. SQLiteDB commits every two seconds,
  and here once at the end.
* *get*: one record by its id, at random; *get recent*: of the last 2,000.
* *$in 100*: a hundred records by their ids; *incomplete*: the hundredth that has not completed; *all*: all.

    python benchmarks/tasks.py [--uri URI] [--records 20000] [--rounds 3]

Without a URI it starts an embedded database of its own and removes it afterwards. It needs ipyparallel.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from ipyparallel.controller.sqlitedb import SQLiteDB
from sqlalchemy import orm
from tornado import ioloop

from platform_db import database, embedded, schema
from platform_db.integrations.ipyparallel import PlatformDB
from platform_db.models import User

START = datetime(2026, 11, 21, 7, 30, tzinfo=timezone.utc)


def main() -> None:
    """Run the benchmark and print its ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--uri", help="database to use; it is migrated")
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="platform-db-benchmark-") as directory:
        Path(directory).chmod(0o755)
        if arguments.uri:
            run(arguments.uri, Path(directory), arguments.records, arguments.rounds)
            return
        data = Path(directory) / "data"
        try:
            run(embedded.ensure_running(data), Path(directory), arguments.records, arguments.rounds)
        finally:
            embedded.stop(data)


def run(uri: str, directory: Path, count: int, rounds: int) -> None:
    """Measure in rounds, each on an empty history, and print the medians."""
    engine = database.create_engine(uri)
    schema.init_db(engine)
    with orm.Session(engine) as session, session.begin():
        user = User(email=f"{uuid.uuid4()}@example.org")
        session.add(user)
        session.flush()
        owner = str(user.id_)
    measured: dict[str, list[tuple[float, float]]] = {}
    for number in range(rounds):
        records = [make_record(place) for place in range(count)]
        theirs = SQLiteDB(location=str(directory), filename=f"{number}.db")
        ours = PlatformDB(url=uri, owner=owner, cluster=str(number))
        sides = (Side(theirs, theirs._db.commit, records), Side(ours, ours._store.flush, records))
        for write in ("add", "engine", "result"):
            measured.setdefault(write, []).append((getattr(sides[0], write)(), getattr(sides[1], write)()))
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("ANALYZE platform.task_record"))  # as autovacuum does within a minute
        # Another controller reads it: nothing of it is in memory yet.
        ours.close()
        later = PlatformDB(url=uri, owner=owner, cluster=str(number))
        rates = [Side(theirs, theirs._db.commit, records).reads(), Side(later, later.close, records).reads()]
        for name in rates[0]:
            measured.setdefault(name, []).append((rates[0][name], rates[1][name]))
        later.close()
        theirs.close()
    print(f"{count} records, {rounds} rounds; a second, SQLiteDB | platform-db, median of the ratios")
    for name, pairs in measured.items():
        their, our = (statistics.median(side) for side in zip(*pairs, strict=True))
        ratio = statistics.median(ours / theirs for theirs, ours in pairs)
        print(f"{name:<12} {their:>10.1f} | {our:>10.1f}  {ratio:6.2f} x")


class Side:
    """One of the two databases, with the same calls as a controller's."""

    def __init__(self, db: Any, commit: Callable[[], None], records: list[dict[str, Any]]) -> None:
        self.db, self.commit, self.records = db, commit, records

    def add(self) -> float:
        return self._rate(lambda record: self.db.add_record(record["msg_id"], dict(record)))

    def engine(self) -> float:
        change = {"engine_uuid": str(uuid.uuid4()), "queue": "task"}
        return self._rate(lambda record: self.db.update_record(record["msg_id"], change))

    def result(self) -> float:
        incomplete = {record["msg_id"] for record in self.records[::100]}
        result = make_result()
        return self._rate(
            lambda record: record["msg_id"] in incomplete or self.db.update_record(record["msg_id"], result)
        )

    def reads(self) -> dict[str, float]:
        """Return how often a second each kind of reading is done."""
        chosen = random.Random(5)
        ids = [record["msg_id"] for record in self.records]
        some = [chosen.sample(ids, 100) for _ in range(20)]
        order = chosen.sample(ids, min(2000, len(ids)))
        found = {
            "get": times(order, self.db.get_record),
            "$in 100": times(some, lambda part: self._found({"msg_id": {"$in": part}}, 100)),
            "incomplete": times(range(10), lambda _: self._found({"completed": None}, len(ids[::100]))),
            "all": times(range(2), lambda _: self._found({"msg_id": {"$ne": ""}}, len(ids))),
            "history": times(range(10), lambda _: self.db.get_history()),
        }
        recent = ids[-2000:]
        for msg_id in recent:
            self.db.get_record(msg_id)
        return {**found, "get recent": times(chosen.sample(recent, len(recent)), self.db.get_record)}

    def _found(self, filter_: dict[str, Any], count: int) -> None:
        assert len(self.db.find_records(filter_)) == count

    def _rate(self, call: Callable[[dict[str, Any]], object]) -> float:
        start = time.perf_counter()
        for record in self.records:
            call(record)
        self.commit()
        return len(self.records) / (time.perf_counter() - start)


def times(items: Any, call: Callable[[Any], object]) -> float:
    """Return how many of the items are done a second."""
    start = time.perf_counter()
    for item in items:
        call(item)
    return len(items) / (time.perf_counter() - start)


def make_record(place: int) -> dict[str, Any]:
    """Return a task as a controller records it when a client submits it."""
    msg_id, session = str(uuid.uuid4()), str(uuid.uuid4())
    submitted = START + timedelta(milliseconds=place)
    header = {
        "msg_id": msg_id,
        "msg_type": "apply_request",
        "username": "ada",
        "session": session,
        "date": submitted,
        "version": "5.3",
    }
    none = dict.fromkeys(
        ("engine_uuid", "started", "completed", "resubmitted", "received", "result_header", "result_metadata")
    )
    more = dict.fromkeys(
        ("result_content", "result_buffers", "queue", "execute_input", "execute_result", "error")
    )
    return {
        "msg_id": msg_id,
        "header": header,
        "metadata": {"after": [], "follow": [], "timeout": None, "retries": 0, "targets": []},
        "content": {},
        "buffers": [random.randbytes(300), random.randbytes(60), random.randbytes(40)],
        "submitted": submitted,
        "client_uuid": session,
        **none,
        **more,
        "stdout": "",
        "stderr": "",
        "label": None,
    }


def make_result() -> dict[str, Any]:
    """Return what a controller records when a task is done."""
    now = START + timedelta(hours=1)
    header = {"msg_id": str(uuid.uuid4()), "msg_type": "apply_reply", "username": "ada", "date": now}
    return {
        "result_header": header,
        "result_metadata": {"status": "ok", "engine": str(uuid.uuid4()), "dependencies_met": True},
        "result_content": {"status": "ok"},
        "result_buffers": [random.randbytes(120)],
        "started": now,
        "completed": now,
        "received": now,
    }


if __name__ == "__main__":
    ioloop.IOLoop.current()  # SQLiteDB's periodic commit wants one
    main()
