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
import statistics
import time
import uuid
from collections.abc import Callable

import floor
import sqlalchemy as sa
from floor import SPECIFICATION, WALK
from sqlalchemy import orm

from platform_db import database, schema
from platform_db.lifecycle.transitions import transition, transition_many
from platform_db.models import RunStatus, User, Workflow

MANY = 1000


def main() -> None:
    """Run the benchmark and print its ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--uri", help="database to use; its schema is migrated, its data stays")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds-per-round", type=float, default=0.3)
    arguments = parser.parse_args()
    with floor.server(arguments.uri) as uri:
        run(uri, arguments.rounds, arguments.seconds_per_round)


def run(uri: str, rounds: int, seconds: float) -> None:
    """Measure each operation and its floor in turn; print rates and the median of their ratios."""
    engine = database.create_engine(uri)
    schema.init_db(engine)
    bench = Bench(engine)
    print(f"{'operation':34} {'floor/s':>10} {'ours/s':>10} {'ratio':>7}  (medians of {rounds} rounds)")
    for name, ours, base_of, per_call in bench.operations():
        rates = [(rate(base_of, seconds), per_call * rate(ours, seconds)) for _ in range(rounds)]
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
        floor.execute(engine.url, floor.TABLES)
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
        self.floor = floor.Floor(engine.url, self.owner_id, str(self.one_id))
        self.walks = {name: itertools.cycle(WALK) for name in ("transition", "attribute", "many")}
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
            ("transition() and commit", self.transition, self.floor.transition, 1),
            ("ORM attribute change and commit", self.attribute, self.floor.transition, 1),
            (f"transition_many() of {MANY}, per row", self.many, self.floor.transition, MANY),
            ("creating a run and commit", self.create, self.floor.create, 1),
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

    def close(self) -> None:
        """Remove the floor's tables."""
        self.session.close()
        self.floor.connection.close()
        floor.execute(self.session.bind.url, "DROP SCHEMA floor CASCADE")


if __name__ == "__main__":
    main()
