"""What letting a token in costs: platform-db against bare psycopg2 and SQLAlchemy Core, in one run.

The floor is psycopg2: a SELECT of the token's row by its digest, in its transaction (BEGIN, SELECT, COMMIT).
The other measure is SQLAlchemy Core that executes the very statement of ``authenticate`` on the same session.

* *call*: ``authenticate``, and Core, in a transaction that the session has open anyway.
* *transaction*: the same with the session's begin and commit around each, and so with the pool's checks.

Each picks a token at random whose use has been noted within the minute. Rounds alternate, so that a slow
moment of the machine hits all of them.

    python benchmarks/tokens.py [--uri URI] [--tokens N …] [--rounds 15] [--seconds-per-round 0.3]

Without a URI it starts an embedded database of its own and removes it afterwards.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import psycopg2
import sqlalchemy as sa
from floor import LOOK_UP
from sqlalchemy import orm

from platform_db import crypto, database, embedded, schema, tokens
from platform_db.crypto.token_format import generate
from platform_db.identifiers import new_id
from platform_db.models import User, UserToken
from platform_db.tokens import authentication

SAMPLE = 500  # tokens that are looked up; more would only measure the cold cache of this process


def main() -> None:
    """Run the benchmark and print its ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--uri", help="database to use; it is migrated, its tokens are deleted")
    parser.add_argument("--tokens", type=int, nargs="+", default=[1000, 100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds-per-round", type=float, default=0.3)
    arguments = parser.parse_args()
    os.environ.setdefault("PLATFORM_DB_SECRET_KEY", crypto.generate_key())
    options = (arguments.tokens, arguments.rounds, arguments.seconds_per_round)
    if arguments.uri:
        run(arguments.uri, *options)
        return
    with tempfile.TemporaryDirectory(prefix="platform-db-benchmark-") as directory:
        Path(directory).chmod(0o755)
        data = Path(directory) / "data"
        try:
            run(embedded.ensure_running(data), *options)
        finally:
            embedded.stop(data)


def run(uri: str, counts: list[int], rounds: int, seconds: float) -> None:
    """Measure with each number of tokens and print the medians."""
    engine = database.create_engine(uri)
    schema.init_db(engine)
    bench = Bench(engine)
    bench.print_header()
    times = {}
    for count in counts:
        bench.fill(count)
        operations = (bench.floor, bench.core, bench.ours, bench.core_transaction, bench.ours_transaction)
        rates = [[rate(operation, seconds) for operation in operations] for _ in range(rounds)]
        bench.print_ratios(count, "call", [(floor, core, ours) for floor, core, ours, _, _ in rates])
        bench.print_ratios(count, "transaction", [(floor, core, ours) for floor, _, _, core, ours in rates])
        times[count] = 1 / statistics.median(ours for _, _, ours, _, _ in rates)
    first, last = counts[0], counts[-1]
    print(f"a call among {last} tokens takes {times[last] / times[first]:.2f} times that among {first}")
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
    """Any number of tokens of one user, and three ways to look them up."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.session = orm.Session(engine)
        self.ring = crypto.get_key_ring()
        parameters = engine.url.translate_connect_args(username="user", database="dbname") | engine.url.query
        self.bare = psycopg2.connect(**parameters)
        self.stored = 0
        with orm.Session(engine) as session, session.begin():
            session.execute(sa.delete(UserToken))
            user = User(email=f"{uuid.uuid4()}@example.org")
            session.add(user)
            self.user_id = user.id_

    def fill(self, count: int) -> None:
        """Bring the table to ``count`` tokens, and note the use of those that will be looked up."""
        values = []
        with self.bare, self.bare.cursor() as cursor:
            # COPY fires the triggers, too: every token gets its row for the last use.
            for start in range(self.stored, count, 50_000):
                lines = io.StringIO()
                for number in range(start, min(count, start + 50_000)):
                    value = generate("webhook")
                    lines.write(self._line(value))
                    if number >= count - SAMPLE:
                        values.append(value)
                lines.seek(0)
                cursor.copy_expert(
                    "COPY platform.user_token (id_, owner_id, type_, status, token, token_digest) FROM STDIN",
                    lines,
                )
            cursor.execute("UPDATE platform.user_token_last_use SET last_used_at = now() + interval '1 day'")
        self.bare.autocommit = True
        with self.bare.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE platform.user_token, platform.user_token_last_use")
            cursor.execute("CHECKPOINT")
        self.bare.autocommit = False
        self.stored = count
        self.values = values
        self.digests = [self.ring.digest(value) for value in values]

    def _line(self, value: str) -> str:
        id_ = new_id()
        sealed = self.ring.encrypt(value, f"user_token.token:{id_}").hex()
        return (
            f"{id_}\t{self.user_id}\twebhook\tactive\t\\\\x{sealed}\t\\\\x{self.ring.digest(value).hex()}\n"
        )

    def ours(self) -> None:
        """platform-db."""
        tokens.authenticate(self.session, random.choice(self.values))

    def core(self) -> None:
        """SQLAlchemy Core with the same statement."""
        parameters = {"digests": [random.choice(self.digests)]}
        self.session.connection().execute(authentication._LOOK_UP, parameters).scalar_one()

    def ours_transaction(self) -> None:
        """platform-db, with a commit."""
        self.ours()
        self.session.commit()

    def core_transaction(self) -> None:
        """SQLAlchemy Core, with a commit."""
        self.core()
        self.session.commit()

    def floor(self) -> None:
        """The driver alone."""
        with self.bare.cursor() as cursor:
            cursor.execute(LOOK_UP, (random.choice(self.digests),))
            cursor.fetchone()
        self.bare.commit()

    def print_header(self) -> None:
        """Print the names of the columns."""
        names = ("psycopg2/s", "Core/s", "ours/s", "÷ psycopg2", "÷ Core")
        print(f"{'tokens':>9} {'':11} " + " ".join(f"{name:>11}" for name in names))

    def print_ratios(self, count: int, name: str, rates: list[tuple[float, float, float]]) -> None:
        """Print the medians of the rates and of their ratios."""
        floor, core, ours = (statistics.median(column) for column in zip(*rates, strict=True))
        to_floor = statistics.median(mine / base for base, _, mine in rates)
        to_core = statistics.median(mine / base for _, base, mine in rates)
        print(
            f"{count:9} {name:11} {floor:11.0f} {core:11.0f} {ours:11.0f} {to_floor:10.2f}x {to_core:10.2f}x",
            flush=True,
        )

    def close(self) -> None:
        """Close what is open."""
        self.session.close()
        self.bare.close()
        self.engine.dispose()


if __name__ == "__main__":
    main()
