"""Several processes of redun's on one tenant: at once, against each other, and killed."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

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
    configured_database: str, session: Session
) -> None:
    for _ in range(int(os.environ.get("K", "10"))):
        owner_id, owner = make_owner(session)
        process = program(owner, "run")
        deadline = time.monotonic() + 120
        target = random.randrange(1, JOBS)
        while counts(session, owner_id)[0] < target and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()

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
        finish([program(owner, "run")])
        assert counts(session, owner_id) == EXPECTED


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


def run(address: str) -> None:
    scheduler = load(address)
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
        run(address)
    else:
        for owner in sys.stdin:
            run(f"platformdb://configured?owner={owner.strip()}")
            print("done", flush=True)  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
