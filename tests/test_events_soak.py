"""Writers with short and long transactions, and killed watchers: nothing is missed, all is in order."""

from __future__ import annotations

import random
import time
import uuid
from collections import defaultdict
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from platform_db import database
from platform_db.events import watch, watchers
from platform_db.lifecycle import add_note, transition
from platform_db.models import Note, RowEvent, StatusChange, Workflow
from platform_db.sessions import is_retryable
from tests.factories import make_user
from tests.processes import FORKING

NEXT = {"created": "queued", "queued": "pending", "pending": "running", "running": "finished"}
STARTED = "started"


def sessions_on(uri: str) -> sessionmaker[Session]:
    return sessionmaker(database.create_engine(uri, pool_size=1, max_overflow=0))


def write(uri: str, owner_id: uuid.UUID, seconds: float, number: int) -> None:
    """Create runs and change those of several writers, half of the time slowly, and sometimes in vain."""
    factory, chance = sessions_on(uri), random.Random(number)
    end, done = time.monotonic() + seconds, 0
    while time.monotonic() < end or done < 20:
        done += 1
        with factory() as session:
            try:
                if chance.random() < 0.3:
                    session.add(Workflow(owner_id=owner_id, name="w", type_="serial", specification={}))
                else:
                    change_some(session, owner_id, chance, seconds)
                session.rollback() if chance.random() < 0.1 else session.commit()
            except sa.exc.DBAPIError as error:
                if not is_retryable(error):
                    raise


def change_some(session: Session, owner_id: uuid.UUID, chance: random.Random, seconds: float) -> None:
    open_runs = sa.select(Workflow).where(Workflow.owner_id == owner_id, Workflow.status.in_(list(NEXT)))
    runs = session.scalars(open_runs.order_by(sa.func.random()).limit(chance.randint(1, 4))).all()
    slowly = chance.random() < 0.5
    for run in runs:
        transition(session, run, NEXT[run.status.value], on_conflict="report")
        if chance.random() < 0.2:
            add_note(session, run, "from", "a writer")
        if slowly:
            time.sleep(chance.random() * min(0.5, seconds / 8))


def keep_watching(uri: str, name: str, log: Path, wait: float) -> None:
    """Write down each event before the next one is asked for."""
    with log.open("a", buffering=1, encoding="utf-8") as file:
        file.write(f"{STARTED}\n")
        for event in watch(sessions_on(uri), name=name, wait=wait, limit=20):
            file.write(f"{event.number} {event.entity_id} {event.kind} {event.revision}\n")


def start(work, *arguments: object) -> BaseProcess:
    process = FORKING.Process(target=work, args=arguments)
    process.start()
    return process


@pytest.mark.parametrize(
    ("writers", "watching", "seconds"),
    [(4, 2, 1.5), pytest.param(16, 4, 60.0, marks=pytest.mark.soak)],
)
def test_every_committed_change_reaches_each_watcher_in_order(
    session: Session, database_uri: str, tmp_path: Path, writers: int, watching: int, seconds: float
) -> None:
    owners = [make_user(session).id_ for _ in range(max(1, writers // 4))]
    session.commit()
    logs = {f"watcher-{number}": tmp_path / str(number) for number in range(watching)}
    running = {name: start(keep_watching, database_uri, name, log, 600.0) for name, log in logs.items()}
    writing = [
        start(write, database_uri, owners[number % len(owners)], seconds, number) for number in range(writers)
    ]
    chance, kills = random.Random(7), 0
    while any(process.is_alive() for process in writing):
        time.sleep(chance.random() * 1.5)
        name = chance.choice(list(logs))
        running[name].kill()
        running[name].join()
        running[name] = start(keep_watching, database_uri, name, logs[name], 600.0)
        kills += 1
    for process in writing:
        process.join()
        assert process.exitcode == 0
    for name, process in running.items():
        process.kill()
        process.join()
        last = start(keep_watching, database_uri, name, logs[name], 1.0)
        last.join(timeout=120)
        assert last.exitcode == 0

    committed = {
        *session.scalars(sa.select(RowEvent.number)),
        *session.scalars(sa.select(StatusChange.number)),
        *session.scalars(sa.select(Note.number)),
    }
    assert kills >= 2
    assert len(committed) > writers * 5
    assert {watcher.number >= max(committed) for watcher in watchers(session)} == {True}
    for log in logs.values():
        heard: set[int] = set()
        first: dict[str, list[int]] = defaultdict(list)  # the revisions of each run, as they came
        of_process: dict[str, int] = {}  # the last revision of each run that came to this process
        for line in log.read_text(encoding="utf-8").splitlines():
            if line == STARTED:
                of_process = {}
                continue
            number, run, kind, revision = line.split()
            if kind != "note":
                assert int(revision) > of_process.get(run, -1)
                of_process[run] = int(revision)
                if int(number) not in heard:
                    first[run].append(int(revision))
            heard.add(int(number))
        assert committed - heard == set()
        assert heard - committed == set()
        for revisions in first.values():
            assert revisions == sorted(set(revisions))
