"""What the revisions that have not run would do to a database as it is now, told by reading alone."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection

from platform_db import database
from platform_db.schema.locks import BLOCKS, CONFLICTS, Effect, Work, effects_of
from platform_db.schema.pending import pending_scripts
from platform_db.schema.revision_names import require_revision
from platform_db.schema.status import connect, phase_of, status
from platform_db.schema.upgrade import alembic_config

if TYPE_CHECKING:
    from alembic.script import Script

# Rows in a second and bytes in a second that a small server does. Only the order of magnitude matters.
RATES: dict[Work, tuple[float, float]] = {
    "scan": (2_000_000, 200_000_000),
    "index": (400_000, 100_000_000),
    "rewrite": (200_000, 50_000_000),
    "unknown": (200_000, 50_000_000),
    "write": (20_000, 10_000_000),
}

DURATIONS = ((1, "milliseconds"), (60, "seconds"), (3600, "minutes"), (float("inf"), "hours"))


@dataclass(frozen=True)
class Preview:
    """What one statement would do to one table that is there; without one, to new tables or other objects.

    :param revision: the revision that it belongs to.
    :param phase: ``pre`` or ``post``.
    :param release_before_runs: whether the release before still runs after the revision.
    :param statement: the first words of it.
    :param table: the table, with its schema.
    :param lock: the mode of its lock on the table.
    :param held: until when: the end of the ``revision``, or of the ``statement``.
    :param blocks: what waits for the lock meanwhile.
    :param work: ``catalogue``, ``scan``, ``index``, ``rewrite``, ``write`` or ``unknown``.
    :param rows: rows of the table, as the statistics have it.
    :param bytes: its size without indexes, as the statistics have it.
    :param seconds: how long the statement takes, about, once it has its lock.
    :param duration: the same as a word: ``milliseconds``, ``seconds``, ``minutes`` or ``hours``.
    :param sessions: who stands in its way now.
    """

    revision: str
    phase: str
    release_before_runs: bool
    statement: str
    table: str | None = None
    lock: str | None = None
    held: str | None = None
    blocks: str | None = None
    work: Work = "catalogue"
    rows: int | None = None
    bytes: int | None = None
    seconds: float = 0.0
    duration: str = DURATIONS[0][1]
    sessions: list[str] = field(default_factory=list)


def preview(
    url: URL | str | None = None, revision: str = "head", *, phase: str | None = None
) -> list[dict[str, Any]]:
    """Return what each statement of the pending revisions would do, in their order, as ``Preview`` has it.

    It takes no lock that others wait for, works through a pooler, and needs a login that may read Alembic's
    table. What other logins' sessions do, the server tells members of ``pg_read_all_stats``.

    :param url: the database; by default the configured one.
    :param phase: only the revisions that :func:`~platform_db.schema.upgrade` would run in it.
    :raises errors.Refused: a revision of the other phase comes first.
    :raises errors.SchemaAhead: the database is newer than the code.
    """
    require_revision(revision)
    with connect(url or database.migration_url()) as connection:
        connection = connection.execution_options(postgresql_readonly=True)
        found = status(connection)
        tables = _read_tables(connection)
        sessions = _read_sessions(connection)
    scripts = pending_scripts(found, alembic_config(url), revision, phase)
    planned = [(script, one, effects_of(one.text)) for script in scripts for one in statements_of(script)]
    _follow_new_indexes(planned, tables)
    return [
        asdict(one)
        for script, statement, effects in planned
        for one in _describe(script, statement, effects, tables, sessions)
    ]


@dataclass(frozen=True)
class Statement:
    """A statement of a revision, and whether it runs in the revision's transaction."""

    text: str
    in_transaction: bool

    @property
    def beginning(self) -> str:
        """Its first words, without the comment before them."""
        lines = (line for line in self.text.splitlines() if not line.lstrip().startswith("--"))
        return " ".join(" ".join(lines).split())[:100].rstrip()


def statements_of(script: Script) -> list[Statement]:
    """Return the statements that a revision runs, as it prints them for ``--sql``."""
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext

    printed = io.StringIO()
    context = MigrationContext.configure(
        dialect_name="postgresql",
        dialect_opts={"paramstyle": "named"},
        opts={"as_sql": True, "literal_binds": True, "output_buffer": printed},
    )
    with Operations.context(context):
        script.module.upgrade()
    found, in_transaction = [], True
    for text in map(str.strip, printed.getvalue().split(";\n\n")):
        if text in ("BEGIN", "COMMIT"):
            in_transaction = text == "BEGIN"
        elif text:
            found.append(Statement(text, in_transaction))
    return found


def _describe(
    script: Script,
    statement: Statement,
    effects: list[Effect],
    tables: dict[str, _Table],
    sessions: list[_Session],
) -> Iterator[Preview]:
    phase = phase_of(script.revision)
    told: dict[str, Any] = {
        "revision": script.revision,
        "phase": phase,
        "release_before_runs": phase == "pre",
        "statement": statement.beginning,
    }
    known = [(effect, tables[effect.table]) for effect in effects if effect.table in tables]
    if not known:
        yield Preview(**told)
        return
    seconds = max(_seconds(effect, table, [other for _, other in known]) for effect, table in known)
    for effect, table in known:
        yield Preview(
            **told,
            table=table.name,
            lock=effect.lock,
            held="revision" if statement.in_transaction else "statement",
            blocks=BLOCKS.get(effect.lock, "neither readers nor writers"),
            work=effect.work,
            rows=table.rows,
            bytes=table.bytes,
            seconds=round(seconds, 3),
            duration=next(word for limit, word in DURATIONS if seconds < limit),
            sessions=[one.name for one in sessions if one.stops(effect, table.oid)],
        )


def _seconds(effect: Effect, table: _Table, read: list[_Table]) -> float:
    """Return how long the work on a table takes, about; a write changes at most the rows that are read."""
    if effect.work == "catalogue":
        return 0.01
    rows, size = RATES[effect.work]
    worked_on = read if effect.work == "write" else [table]
    return 0.01 + max(max(one.rows / rows, one.bytes / size) for one in worked_on)


@dataclass(frozen=True)
class _Table:
    name: str
    oid: int
    rows: int
    bytes: int


def _read_tables(connection: Connection) -> dict[str, _Table]:
    """Return the tables and views that there are, by their names and those of their indexes."""
    return {row.key: _Table(row.name, row.oid, row.rows, row.bytes) for row in connection.execute(_TABLES)}


_TABLES = sa.text("""
    SELECT format('%I.%I', nspname, named.relname) AS key, format('%I.%I', nspname, c.relname) AS name,
           c.oid::bigint AS oid, coalesce(part.rows, 0) AS rows,
           coalesce(part.pages, 0) * current_setting('block_size')::bigint AS bytes
    FROM pg_class named JOIN pg_namespace ON pg_namespace.oid = named.relnamespace
    LEFT JOIN pg_index ON indexrelid = named.oid
    JOIN pg_class c ON c.oid = coalesce(indrelid, named.oid)
    CROSS JOIN LATERAL (
        SELECT sum(CASE WHEN one.reltuples >= 0 AND one.relpages > 0 THEN one.reltuples
                   ELSE greatest(one.reltuples, pg_stat_get_live_tuples(one.oid), 0) END)::bigint AS rows,
               sum(one.relpages + coalesce(toast.relpages, 0)) AS pages
        FROM pg_class AS one LEFT JOIN pg_inherits ON inhrelid = one.oid
        LEFT JOIN pg_class AS toast ON toast.oid = one.reltoastrelid
        WHERE c.oid IN (one.oid, inhparent) AND one.relkind = 'r'
    ) AS part
    WHERE nspname IN ('platform', 'redun') AND named.relkind IN ('r', 'p', 'v', 'm', 'i', 'I')
    """)


def _follow_new_indexes(
    planned: list[tuple[Script, Statement, list[Effect]]], tables: dict[str, _Table]
) -> None:
    """Let the name of an index that a pending revision creates stand for its table, too."""
    for _, statement, effects in planned:
        words = statement.text.split(" ON ")[0].split()
        if "INDEX" in words[:3] and words[0] == "CREATE" and effects and effects[0].table in tables:
            tables.setdefault(f"platform.{words[-1]}", tables[effects[0].table])


@dataclass(frozen=True)
class _Session:
    name: str
    locks: list[tuple[int, str]]
    old: bool

    def stops(self, effect: Effect, oid: int) -> bool:
        """Tell whether the statement would wait for this session."""
        if effect.waits_for is not None and self.old:
            return True
        conflicting = CONFLICTS.get(effect.waits_for or effect.lock, ())
        return any(table == oid and mode in conflicting for table, mode in self.locks)


def _read_sessions(connection: Connection) -> list[_Session]:
    """Return the sessions that are in a transaction on this database, with what they lock."""
    found = []
    for row in connection.execute(_SESSIONS):
        known = [str(word) for word in (row.usename, row.application_name, row.state) if word]
        if row.seconds is not None:
            known.append(f"for {row.seconds} s")
        name = "a prepared transaction" if row.pid is None else f"process {row.pid} ({', '.join(known)})"
        modes = (re.sub("(?<!^)(?=[A-Z])", " ", mode.removesuffix("Lock")).upper() for mode in row.modes)
        found.append(_Session(name, list(zip(row.tables, modes, strict=True)), row.old))
    return found


# What a login may not see of others is NULL; their process, their locks and how old a state they see is not.
_SESSIONS = sa.text("""
    SELECT pid, max(usename) AS usename, max(application_name) AS application_name, max(state) AS state,
           max(extract(epoch FROM clock_timestamp() - xact_start))::integer AS seconds,
           coalesce(bool_or(backend_xid IS NOT NULL OR backend_xmin IS NOT NULL), true) AS old,
           coalesce(array_agg(relation::bigint) FILTER (WHERE relation IS NOT NULL), '{}') AS tables,
           coalesce(array_agg(mode) FILTER (WHERE relation IS NOT NULL), '{}') AS modes
    FROM (SELECT pid, relation, mode FROM pg_locks JOIN pg_database ON pg_database.oid = database
          WHERE locktype = 'relation' AND datname = current_database()) AS lock
    FULL JOIN (SELECT * FROM pg_stat_activity WHERE datname = current_database()) AS session USING (pid)
    WHERE pid IS DISTINCT FROM pg_backend_pid()
      AND (relation IS NOT NULL OR backend_xid IS NOT NULL OR backend_xmin IS NOT NULL)
    GROUP BY pid ORDER BY seconds DESC NULLS LAST, pid
    """)
