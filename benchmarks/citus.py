"""What the hot calls cost on several machines, beside one server: python benchmarks/citus.py ONE SEVERAL

Both are URLs of migrated databases; the second one is distributed. Milliseconds, each the median of many
calls, each call a transaction of its own.
"""

from __future__ import annotations

import statistics
import sys
import time
import uuid
from collections.abc import Callable

from sqlalchemy import orm

from platform_db import database, users
from platform_db.database.session import PlatformSession
from platform_db.leases import heartbeat
from platform_db.lifecycle import transition
from platform_db.logs import append_log
from platform_db.models import Workflow
from platform_db.queue import claim
from platform_db.tokens import authenticate, grant
from platform_db.workflows import create_workflow, list_workflows

CALLS = 200


def measure(uri: str) -> dict[str, float]:
    """Return the milliseconds of each call."""
    engine = database.create_engine(uri)
    factory = orm.sessionmaker(engine, class_=PlatformSession, expire_on_commit=False)
    with factory() as session, session.begin():
        owner = users.create_user(session, f"{uuid.uuid4()}@example.org").id_
        token = grant(session, owner)
        run = create_workflow(session, owner, "hot", {}, type_="serial").id_
        row = session.get(Workflow, (owner, run))
    statuses = ["queued", "pending"]

    def change(session: orm.Session, what: object) -> None:
        statuses.reverse()
        transition(session, what, statuses[0], model=Workflow)  # type: ignore[arg-type]

    def change_row(session: orm.Session) -> None:
        change(session, session.merge(row, load=False))

    acts: dict[str, Callable[[orm.Session], object]] = {
        "create a run": lambda session: create_workflow(session, owner, "bench", {}, type_="serial"),
        "transition of a row": change_row,
        "transition by key": lambda session: change(session, (owner, run)),
        "transition by id alone": lambda session: change(session, run),
        "append to a log by key": lambda session: append_log(session, (owner, run), "line\n", model=Workflow),
        "append to a log by id alone": lambda session: append_log(session, run, "line\n", model=Workflow),
        "authenticate": lambda session: authenticate(session, token),
        "a page of an owner's runs": lambda session: list_workflows(session, owner, limit=20),
        "heartbeat": lambda session: heartbeat(session, [session.get_one(Workflow, (owner, run))], "n/1"),
        "an empty claim": lambda session: claim(session, "n/1", limit=1, kinds=["none"]),
    }
    found = {}
    for name, act in acts.items():
        times = []
        for _ in range(CALLS):
            begun = time.perf_counter()
            with factory() as session, session.begin():
                act(session)
            times.append((time.perf_counter() - begun) * 1000)
        found[name] = statistics.median(times[CALLS // 10 :])
    engine.dispose()
    return found


if __name__ == "__main__":
    one, several = (measure(uri) for uri in sys.argv[1:3])
    print(f"{'':30}{'one':>8}{'several':>9}")
    for name in one:
        print(f"{name:30}{one[name]:8.2f}{several[name]:9.2f}")
