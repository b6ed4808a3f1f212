"""Several processes of redun's on one tenant: at once, against each other, and killed."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.provenance.recorder import DELAY
from tests.factories import make_user

pytest.importorskip("redun", reason="redun is not installed: pip install platform-db[redun]")

from redun import Handle, Scheduler, task
from redun.backends.base import TagEntity
from redun.config import Config

ROOT = Path(__file__).parents[1]
JOBS = 300


# Leaves, their sum and what calls them: an argument each, an edge to each from the last.
EXPECTED = [JOBS + 2, JOBS + 2, JOBS + 2, JOBS + 1, JOBS + 4, 3]
TABLES = ("call_node", "evaluation", "call_argument", "call_edge", "call_subtree_task", "call_task")


def program(owner: str, *arguments: str) -> subprocess.Popen[str]:
    """Start this module as a program."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.test_redun_soak", f"platformdb://configured?owner={owner}", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output


def counts(session: Session, owner_id: Any) -> list[int]:
    session.rollback()
    return [
        session.scalar(
            sa.text(f"SELECT count(*) FROM platform.{table} WHERE owner_id = :owner"), {"owner": owner_id}
        )
        or 0
        for table in TABLES
    ]


def sessions(session: Session) -> int:
    """Return how many sessions the database has."""
    found: int = session.execute(
        sa.text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
    ).scalar_one()
    session.rollback()
    return found


def make_owner(session: Session) -> tuple[Any, str]:
    user = make_user(session)
    return user.id_, user.email


@pytest.mark.soak
def test_two_schedulers_run_the_same_workflow_at_once(configured_database: str, session: Session) -> None:
    processes = [program("later", "run each") for _ in range(2)]
    for _ in range(20):
        owner_id, owner = make_owner(session)
        for process in processes:
            process.stdin.write(f"{owner}\n")
            process.stdin.flush()
        for process in processes:
            assert process.stdout.readline() == "done\n", process.communicate()[0]
        assert counts(session, owner_id) == EXPECTED
    finish(processes)


@pytest.mark.soak
def test_two_processes_hammer_every_method(configured_database: str, session: Session) -> None:
    owner_id, owner = make_owner(session)
    finish([program(owner, "hammer", str(seed)) for seed in range(2)])

    current = sa.text("""
        SELECT entity_id, key FROM platform.entity_tag
        WHERE owner_id = :owner AND is_current AND key = 'version'
        GROUP BY 1, 2 HAVING count(*) > 1
    """)
    assert session.execute(current, {"owner": owner_id}).all() == []


@pytest.mark.soak
def test_a_killed_scheduler_leaves_whole_calls_and_is_taken_up(
    configured_database: str, session: Session, tmp_path: Path
) -> None:
    for number in range(int(os.environ.get("K", "10"))):
        owner_id, owner = make_owner(session)
        killed, rerun = Diary(tmp_path / f"{number}"), Diary(tmp_path / f"{number} again")
        others = sessions(session)
        process = program(owner, "run", str(killed.path))
        deadline = time.monotonic() + 120
        target = random.randrange(1, JOBS)
        while counts(session, owner_id)[0] < target and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(random.random() * 2 * DELAY)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed_at = time.monotonic()
        while sessions(session) > others:  # The server may commit what it has read.
            time.sleep(0.01)

        torn = sa.text("""
            SELECT count(*) FROM platform.call_node AS node
            WHERE node.owner_id = :owner AND (
                NOT EXISTS (
                    SELECT FROM platform.call_subtree_task AS used
                    WHERE used.owner_id = node.owner_id AND used.call_hash = node.call_hash)
                OR NOT EXISTS (
                    SELECT FROM platform.call_argument AS argument
                    WHERE argument.owner_id = node.owner_id AND argument.call_hash = node.call_hash))
        """)
        session.rollback()
        assert session.scalar(torn, {"owner": owner_id}) == 0
        stored = set(
            session.scalars(
                sa.text("SELECT eval_hash FROM platform.evaluation WHERE owner_id = :owner"),
                {"owner": owner_id},
            )
        )
        assert killed.must_be_stored() <= stored
        assert killed.longest_wait(killed_at) < DELAY + 1, "a busy machine has a second more"
        finish([program(owner, "run", str(rerun.path))])
        assert len(rerun.recorded) == len(rerun.evaluations()) == JOBS + 2 - len(stored)
        assert not rerun.evaluations() & stored
        assert counts(session, owner_id) == EXPECTED


class Diary:
    """When a process recorded which evaluation, and when it wrote."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def watch(self, backend: Any) -> None:
        """Have a backend's process write it."""
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        set_eval_cache, write_all = backend.set_eval_cache, backend.recorder._write_all

        def tell(event: str, what: Any) -> None:
            os.write(file, f"{event} {time.monotonic()} {what}\n".encode())

        def record(eval_hash: str, *arguments: Any, **options: Any) -> None:
            set_eval_cache(eval_hash, *arguments, **options)
            tell("recorded", eval_hash)

        def write() -> None:
            tell("begun", threading.get_ident())
            write_all()
            tell("ended", threading.get_ident())

        backend.set_eval_cache, backend.recorder._write_all = record, write

    def events(self, event: str) -> list[tuple[float, str]]:
        lines = [line.split() for line in self.path.read_text().splitlines()]
        return [(float(when), what) for kind, when, what in lines if kind == event]

    @property
    def recorded(self) -> list[tuple[float, str]]:
        return self.events("recorded")

    def evaluations(self) -> set[str]:
        return {what for _, what in self.recorded}

    def writes(self) -> list[tuple[float, float]]:
        """Return when those that ended began and ended."""
        begun = self.events("begun")
        return [
            (max(began for began, by in begun if by == thread and began < ended), ended)
            for ended, thread in self.events("ended")
        ]

    def must_be_stored(self) -> set[str]:
        """Return the evaluations that were recorded before the last write that ended began."""
        last = max((began for began, _ in self.writes()), default=0.0)
        return {what for when, what in self.recorded if when < last}

    def longest_wait(self, until: float) -> float:
        """Return for how long an evaluation waited for a write to begin, while none was going on."""
        begun, writes = [when for when, _ in self.events("begun")], self.writes()
        waits = [0.0]
        for when, _ in self.recorded:
            since = max([when, *(ended for began, ended in writes if began < when < ended)])
            waits.append(min([until, *(began for began in begun if began > when)]) - since)
        return max(waits)


class Line(Handle):
    """Something outside, with states."""

    def __init__(self, name: str) -> None:
        self.instance = None


@task(namespace="soak")
def leaf(x: int) -> int:
    return x + 1


@task(namespace="soak")
def total(values: list[int]) -> int:
    return sum(values)


@task(namespace="soak", name="main")
def main_task(n: int) -> Any:
    return total([leaf(i) for i in range(n)])


def load(address: str) -> Scheduler:
    scheduler = Scheduler(config=Config({"backend": {"db_uri": address}}))
    scheduler.load()
    return scheduler


def run(address: str, diary: str = "") -> None:
    scheduler = load(address)
    if diary:
        Diary(Path(diary)).watch(scheduler.backend)
    assert scheduler.run(main_task(JOBS)) == JOBS * (JOBS + 1) // 2
    scheduler.backend.recorder.close()  # type: ignore[attr-defined]


def hammer(address: str, seed: str) -> None:
    backend: Any = load(address).backend
    choose = random.Random(seed)
    entities = [backend.record_value(f"entity {number}") for number in range(5)]
    task_hash = backend.record_value(leaf)
    start = Line("line")
    for _ in range(150):
        number = choose.randrange(60)
        value = backend.record_value([number, "x" * number])
        call = backend.record_call_node(
            "soak.leaf", task_hash, f"args{number}", ((number,), {}), ((number,), {}), value, [], {leaf}
        )
        backend.set_eval_cache(
            f"eval{number}", task_hash, f"args{number}", None, choose.choice([value, entities[0]])
        )
        backend.record_tags(TagEntity.CallNode, call, [("seen", number % 7)])
        entity = choose.choice(entities)
        backend.record_tags(TagEntity.Value, entity, [("version", choose.randrange(4))], update=True)
        backend.update_tags(TagEntity.Value, entity, ["version"], [("version", choose.randrange(4))])
        later = start.fork(str(choose.randrange(9)))
        backend.advance_handle([start], later)
        if not choose.randrange(10):
            backend.rollback_handle(start)
        backend.get_value(value)
        backend.get_subtree_tasks(call)
        if not choose.randrange(4):
            records = list(backend.get_records([call, value, entity]))
            choose.shuffle(records)
            backend.put_records(records)
    numbers = [*range(1000, 1200)]
    for _ in range(40):
        choose.shuffle(numbers)
        for number in numbers:
            backend.recorder.remember("")
            backend.put_value(number, None, "record_value")
        backend.recorder.flush()
    backend.recorder.close()


def main(address: str, action: str, *arguments: str) -> None:
    """Be one of the processes."""
    logging.getLogger("redun").setLevel(logging.ERROR)
    if action == "hammer":
        hammer(address, *arguments)
    elif action == "run":
        run(address, *arguments)
    else:
        for owner in sys.stdin:
            run(f"platformdb://configured?owner={owner.strip()}")
            print("done", flush=True)  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
