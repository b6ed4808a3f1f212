"""What benchmarks of runs compare with: bare psycopg2 with hand-written SQL, on tables without triggers.

The tables have the same columns and indexes as platform-db's. A transition is a guarded UPDATE plus the
history's INSERT, a creation the INSERTs of a run and of its counter; each with a commit.
"""

from __future__ import annotations

import itertools
import json
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import sqlalchemy as sa

from platform_db import embedded
from platform_db.models import RunStatus

WALK = (RunStatus.running, RunStatus.failed)  # failed → running → failed … may go on for ever

SPECIFICATION = {"steps": [{"name": f"step-{n}", "command": "python run.py"} for n in range(10)]}

TABLES = """
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
LOOK_UP = """
SELECT id_, owner_id, type_, status, name, scopes, expires_at FROM platform.user_token WHERE token_digest = %s
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


@contextmanager
def server(uri: str | None, directory: str | None = None) -> Iterator[str]:
    """Give the URI of the database to use: the one that is given, or an embedded one that is removed.

    :param directory: where to make the embedded one.
    """
    if uri is not None:
        yield uri
        return
    with tempfile.TemporaryDirectory(prefix="platform-db-benchmark-", dir=directory) as own:
        Path(own).chmod(0o755)
        data = Path(own) / "data"
        try:
            yield embedded.ensure_running(data)
        finally:
            embedded.stop(data)


class Floor:
    """One owner's runs in the floor's tables, and the connection that changes them.

    :param owner_id: whose runs it has; they are copied from platform-db's.
    :param run_id: the run whose status changes, which has failed.
    :param digest: of the token that is let in.
    """

    def __init__(self, url: sa.URL, owner_id: str, run_id: str, digest: bytes = b"") -> None:
        self.connection = psycopg2.connect(
            **url.translate_connect_args(username="user", database="dbname") | url.query
        )
        self.owner_id, self.run_id, self.digest = owner_id, run_id, digest
        self.walk = itertools.cycle(WALK)
        self.names = itertools.count()
        with self.connection, self.connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO floor.workflow SELECT * FROM platform.workflow WHERE owner_id = %s", (owner_id,)
            )

    def transition(self) -> None:
        """A guarded UPDATE and the history's INSERT."""
        status = next(self.walk)
        came_from = WALK[1 - WALK.index(status)]
        values = {"id": self.run_id, "owner": self.owner_id, "status": status.value, "from": came_from.value}
        with self.connection.cursor() as cursor:
            cursor.execute(UPDATE, values)
            (revision,) = cursor.fetchone()
            cursor.execute(HISTORY, {**values, "revision": revision})
        self.connection.commit()

    def create(self) -> None:
        """The counter's and the run's INSERT."""
        id_ = str(uuid.uuid4())
        values = {"id": id_, "owner": self.owner_id, "name": f"floor-{next(self.names)}"}
        with self.connection.cursor() as cursor:
            cursor.execute(COUNTER, values)
            (major,) = cursor.fetchone()
            cursor.execute(
                INSERT,
                {**values, "major": major, "path": f"/x/{id_}", "specification": json.dumps(SPECIFICATION)},
            )
        self.connection.commit()

    def authenticate(self) -> None:
        """The token's row by its digest."""
        with self.connection.cursor() as cursor:
            cursor.execute(LOOK_UP, (self.digest,))
            cursor.fetchone()
        self.connection.commit()


def execute(url: sa.URL, statements: str) -> None:
    """Execute statements that make or remove the floor's tables."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(statements)
    engine.dispose()
