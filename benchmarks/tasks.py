"""What a controller's task history costs: platform-db against ipyparallel's SQLiteDB, in one run.

Each database gets the same records, as a controller writes them: added, given an engine, completed. Then
both are read. A ratio above 1 says how many times as fast platform-db is.

* *add*, *engine*, *result*: two thousand records at a time, until they are on the disk.
* *get*: one record by its id, at random; *get recent*: of the last 2,000, once they were read.
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
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from functools import partial
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
    ratios: dict[str, list[float]] = {}
    for number in range(rounds):
        records = [make_record(place) for place in range(count)]
        theirs = SQLiteDB(location=str(directory), filename=f"{number}.db")
        ours = PlatformDB(url=uri, owner=owner, cluster=str(number))
        for name, call in writes(records):
            alternate(ratios, name, slices(records), partial(write, theirs, call), partial(write, ours, call))
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("ANALYZE platform.task_record"))  # as autovacuum does within a minute
        # Another controller reads it: nothing of it is in memory yet.
        ours.close()
        later = PlatformDB(url=uri, owner=owner, cluster=str(number))
        for name, items, read in reads([record["msg_id"] for record in records]):
            alternate(ratios, name, items, partial(read, theirs), partial(read, later))
        later.close()
        theirs.close()
    print(f"{count} records, {rounds} rounds: how many times as fast as SQLiteDB, median (lowest to highest)")
    for name, found in ratios.items():
        found.sort()
        print(f"{name:<12} {statistics.median(found):6.2f} ({found[0]:.2f} to {found[-1]:.2f})")


def alternate(
    ratios: dict[str, list[float]],
    name: str,
    items: Sequence[Any],
    theirs: Callable[[Any], object],
    ours: Callable[[Any], object],
) -> None:
    """Do each item on both sides, one right after the other, and note the ratio of the times."""
    spent = [0.0, 0.0]
    for item in items:
        for side, call in enumerate((theirs, ours)):
            start = time.perf_counter()
            call(item)
            spent[side] += time.perf_counter() - start
    ratios.setdefault(name, []).append(spent[0] / spent[1])


def slices(records: list[Any], size: int = 2000) -> list[list[Any]]:
    return [records[start : start + size] for start in range(0, len(records), size)]


def write(db: Any, call: Callable[[Any, dict[str, Any]], object], records: list[dict[str, Any]]) -> None:
    """Write records, until they are on the disk."""
    for record in records:
        call(db, record)
    db._store.flush() if isinstance(db, PlatformDB) else db._db.commit()


def writes(records: list[dict[str, Any]]) -> Iterator[tuple[str, Callable[[Any, dict[str, Any]], object]]]:
    """Yield what a controller writes of each task."""
    assigned, result = {"engine_uuid": str(uuid.uuid4()), "queue": "task"}, make_result()
    going_on = {record["msg_id"] for record in records[::100]}
    yield "add", lambda db, record: db.add_record(record["msg_id"], dict(record))
    yield "engine", lambda db, record: db.update_record(record["msg_id"], assigned)
    yield (
        "result",
        lambda db, record: record["msg_id"] in going_on or db.update_record(record["msg_id"], result),
    )


def reads(ids: list[str]) -> Iterator[tuple[str, Sequence[Any], Callable[[Any, Any], object]]]:
    """Yield what is asked, a few at a time, and how."""

    def get(db: Any, some: list[str]) -> None:
        for msg_id in some:
            db.get_record(msg_id)

    def find(count: int, db: Any, filter_: dict[str, Any]) -> None:
        assert len(db.find_records(filter_)) == count

    chosen = random.Random(5)
    recent = ids[-2000:]
    yield "get", slices(chosen.sample(ids[:-2000], 2000), 50), get
    yield "read once", [recent], get
    yield "get recent", slices(chosen.sample(recent, len(recent)), 50), get
    some = [{"msg_id": {"$in": chosen.sample(ids, 100)}} for _ in range(20)]
    yield "$in 100", some, partial(find, 100)
    yield "incomplete", [{"completed": None}] * 10, partial(find, len(ids[::100]))
    yield "all", [{"msg_id": {"$ne": ""}}] * 2, partial(find, len(ids))
    yield "history", range(10), lambda db, _: db.get_history()


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
