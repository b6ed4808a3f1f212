"""What the guard and the ORM cost: platform-db against bare psycopg2 doing the same work, in one run.

The floor is psycopg2 with hand-written SQL on tables of the same columns and indexes but no triggers: a
guarded UPDATE plus the history's INSERT for a transition; the INSERTs of a run and of its counter for a
creation; each with a commit. Rounds of both alternate, so that a slow moment of the machine hits both.

    python benchmarks/transitions.py [--uri URI] [--rounds 15] [--seconds-per-round 0.3]

Without a URI it starts an embedded database of its own and removes it afterwards.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import psycopg2
import sqlalchemy as sa
from sqlalchemy import orm

from platform_db import database, embedded, schema
from platform_db.lifecycle.transitions import transition, transition_many
from platform_db.models import RunStatus, User, Workflow

WALK = (RunStatus.running, RunStatus.failed)  # failed → running → failed … may go on for ever
MANY = 1000

FLOOR_TABLES = """
DROP SCHEMA IF EXISTS floor CASCADE;
CREATE SCHEMA floor;
CREATE TABLE floor.workflow (LIKE platform.workflow INCLUDING ALL);
CREATE TABLE floor.status_change (LIKE platform.status_change INCLUDING ALL);
CREATE TABLE floor.run_counter (LIKE platform.run_counter INCLUDING ALL);
ALTER TABLE floor.workflow ADD FOREIGN KEY (owner_id) REFERENCES platform.user_ (id_);
"""

UPDATE = """
UPDATE floor.workflow
SET status = %(status)s, revision = revision + 1, updated = now(),
    run_started_at = CASE WHEN %(status)s = 'running' THEN clock_timestamp() ELSE run_started_at END,
    run_finished_at = CASE WHEN %(status)s = 'failed' THEN clock_timestamp() END
WHERE id_ = %(id)s AND status = %(from)s
RETURNING revision
"""
HISTORY = """
INSERT INTO floor.status_change
    (owner_id, entity_id, revision, entity, from_status, to_status, number, at, transaction_id)
VALUES (%(owner)s, %(id)s, %(revision)s, 'workflow', %(from)s, %(status)s,
        nextval('platform.history_number'), clock_timestamp(), pg_current_xact_id()::text::bigint)
"""
COUNTER = """
INSERT INTO floor.run_counter (owner_id, name, run_number_major, last) VALUES (%(owner)s, %(name)s, 0, 1)
ON CONFLICT (owner_id, name, run_number_major) DO UPDATE SET last = run_counter.last + 1 RETURNING last
"""
INSERT = """
INSERT INTO floor.workflow (id_, owner_id, name, status, type_, specification, job_progress, workspace_path,
                            restart, run_number_major, run_number_minor, git_ref, labels, revision,
                            created, updated)
VALUES (%(id)s, %(owner)s, %(name)s, 'created', 'serial', %(specification)s, '{}', %(path)s,
        false, %(major)s, 0, '', '{}', 0, clock_timestamp(), clock_timestamp())
"""
SPECIFICATION = {"steps": [{"name": f"step-{n}", "command": "python run.py"} for n in range(10)]}


def main() -> None:
    """Run the benchmark and print its ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--uri", help="database to use; its schema is migrated, its data stays")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds-per-round", type=float, default=0.3)
    arguments = parser.parse_args()
    if arguments.uri:
        run(arguments.uri, arguments.rounds, arguments.seconds_per_round)
        return
    with tempfile.TemporaryDirectory(prefix="platform-db-benchmark-") as directory:
        Path(directory).chmod(0o755)
        data = Path(directory) / "data"
        try:
            run(embedded.ensure_running(data), arguments.rounds, arguments.seconds_per_round)
        finally:
            embedded.stop(data)


def run(uri: str, rounds: int, seconds: float) -> None:
    """Measure each operation and its floor in turn; print rates and the median of their ratios."""
    engine = database.create_engine(uri)
    schema.init_db(engine)
    bench = Bench(engine)
    print(f"{'operation':34} {'floor/s':>10} {'ours/s':>10} {'ratio':>7}  (medians of {rounds} rounds)")
    for name, ours, floor, per_call in bench.operations():
        rates = [(rate(floor, seconds), per_call * rate(ours, seconds)) for _ in range(rounds)]
        ratio = statistics.median(mine / base for base, mine in rates)
        base, mine = (statistics.median(column) for column in zip(*rates, strict=True))
        print(f"{name:34} {base:10.0f} {mine:10.0f} {ratio:6.2f}x", flush=True)
    bench.close()


def rate(operation: Callable[[], None], seconds: float) -> float:
    """Return how often a second ``operation`` runs."""
    operation()
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        operation()
        count += 1
    return max(count, 1) / elapsed


class Bench:
    """One owner's runs, in platform-db's tables and in the floor's."""

    def __init__(self, engine: sa.Engine) -> None:
        self.session = orm.Session(engine)
        parameters = engine.url.translate_connect_args(username="user", database="dbname") | engine.url.query
        self.floor = psycopg2.connect(**parameters)
        with self.floor, self.floor.cursor() as cursor:
            cursor.execute(FLOOR_TABLES)
        self.owner = User(email=f"{uuid.uuid4()}@example.org")
        self.session.add(self.owner)
        self.session.flush()
        self.owner_id = str(self.owner.id_)
        self.one_id = self.new_run("one").id_
        self.attributed = self.new_run("attributed")
        self.ids = [self.new_run(f"many-{n}").id_ for n in range(MANY)]
        self.session.commit()
        # A commit expires every object that the session holds: let it hold none.
        for row in self.session:
            if row is not self.attributed:
                self.session.expunge(row)
        with self.floor, self.floor.cursor() as cursor:
            cursor.execute(
                "INSERT INTO floor.workflow SELECT * FROM platform.workflow WHERE owner_id = %s",
                (self.owner_id,),
            )
        self.walks = {name: itertools.cycle(WALK) for name in ("floor", "transition", "attribute", "many")}
        self.names = itertools.count()

    def new_run(self, name: str) -> Workflow:
        """Add a run that has failed, and so may go on running and failing."""
        run = Workflow(
            name=name,
            owner_id=self.owner_id,
            type_="serial",
            specification=SPECIFICATION,
            status=RunStatus.failed,
        )
        self.session.add(run)
        return run

    def operations(self) -> list[tuple[str, Callable[[], None], Callable[[], None], int]]:
        """Return name, operation, floor and how many rows the operation changes at a call."""
        return [
            ("transition() and commit", self.transition, self.floor_transition, 1),
            ("ORM attribute change and commit", self.attribute, self.floor_transition, 1),
            (f"transition_many() of {MANY}, per row", self.many, self.floor_transition, MANY),
            ("creating a run and commit", self.create, self.floor_create, 1),
        ]

    def transition(self) -> None:
        """platform-db, by id."""
        transition(self.session, self.one_id, next(self.walks["transition"]), model=Workflow)
        self.session.commit()

    def attribute(self) -> None:
        """The ORM's unit of work."""
        self.attributed.status = next(self.walks["attribute"])
        self.session.commit()

    def many(self) -> None:
        """A thousand rows in one statement."""
        transition_many(self.session, self.ids, next(self.walks["many"]), model=Workflow)
        self.session.commit()

    def create(self) -> None:
        """A new run of a new name."""
        self.session.add(
            Workflow(
                name=f"run-{next(self.names)}",
                owner_id=self.owner_id,
                type_="serial",
                specification=SPECIFICATION,
            )
        )
        self.session.commit()

    def floor_transition(self) -> None:
        """A guarded UPDATE and the history's INSERT."""
        status = next(self.walks["floor"])
        came_from = WALK[1 - WALK.index(status)]
        values = {
            "id": str(self.one_id),
            "owner": self.owner_id,
            "status": status.value,
            "from": came_from.value,
        }
        with self.floor.cursor() as cursor:
            cursor.execute(UPDATE, values)
            (revision,) = cursor.fetchone()
            cursor.execute(HISTORY, {**values, "revision": revision})
        self.floor.commit()

    def floor_create(self) -> None:
        """The counter's and the run's INSERT."""
        id_ = str(uuid.uuid4())
        values = {"id": id_, "owner": self.owner_id, "name": f"floor-{next(self.names)}"}
        with self.floor.cursor() as cursor:
            cursor.execute(COUNTER, values)
            (major,) = cursor.fetchone()
            cursor.execute(
                INSERT,
                {**values, "major": major, "path": f"/x/{id_}", "specification": json.dumps(SPECIFICATION)},
            )
        self.floor.commit()

    def close(self) -> None:
        """Remove the floor's tables."""
        self.session.close()
        with self.floor, self.floor.cursor() as cursor:
            cursor.execute("DROP SCHEMA floor CASCADE")
        self.floor.close()


if __name__ == "__main__":
    main()
