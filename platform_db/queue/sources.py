"""What the queue hands out: queued runs, and queued jobs. The fragments of SQL in which the two differ."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2

from platform_db import errors
from platform_db.lifecycle.statements import NOTE_REASON
from platform_db.lifecycle.stopping import is_asked
from platform_db.models import Base, Job, Workflow
from platform_db.query.conditions import condition
from platform_db.query.labels import parse_selector
from platform_db.query.language import Node, require_bounded
from platform_db.query.shape import take_apart
from platform_db.queue.limits import ROOM, STARTS_UNTIL

KEPT = 50


class Line(NamedTuple):
    """Queued rows that an index has.

    :param queued: the condition that a row is one of them, as the index has it.
    :param order: the columns of the index after the owner.
    :param goes: what else has to be met for a row to be handed out.
    """

    queued: str
    order: str
    goes: str


class Source(NamedTuple):
    """A table from which the queue hands out.

    :param lines: all its queued rows; those of the first are in the order in which they are handed out.
    :param order: which row of an owner is next.
    :param columns: the columns of the order.
    :param kind: the column that ``kinds`` are compared with.
    :param turn: when an owner was served last.
    :param room: how many rows an owner's limits leave room for.
    :param on_leased: what becomes of a lease that the row has already.
    :param taken: the CTEs that change the rows of the CTE ``leased``, and return them as ``taken``.
    :param starts: what else changes in the owner's row.
    """

    table: str
    lines: tuple[Line, ...]
    order: str
    columns: str
    kind: str
    turn: str
    room: str
    on_leased: str
    taken: str
    starts: str


_PRIORITY = "priority DESC NULLS LAST, created, id_"

READY = Line("(status = 'queued' AND start_after IS NULL) IS TRUE", _PRIORITY, "true")

# By the time until which they wait: each claim would otherwise read over all that an owner has for next year.
DELAYED = Line(
    "(status = 'queued' AND start_after IS NOT NULL) IS TRUE",
    "start_after",
    "start_after <= statement_timestamp()",
)

MOST_DUE = 1000
"""How many of an owner's delayed runs that may start by now are looked at; those that may for longest."""

# A queued run may be claimed, also where a former worker has a lease of it.
RUNS = Source(
    table="workflow",
    lines=(READY, DELAYED),
    order=_PRIORITY,
    columns="priority, created, id_",
    kind="type_",
    turn="served_at",
    room=ROOM,
    on_leased="DO UPDATE SET holder = excluded.holder, heartbeat_at = excluded.heartbeat_at",
    taken=f"""
        note AS MATERIALIZED ({NOTE_REASON}),
        taken AS (
            UPDATE platform.workflow SET status = 'pending' FROM note
            WHERE owner_id = CAST(:owner AS uuid) AND id_ = ANY (ARRAY(SELECT entity_id FROM leased))
            RETURNING id_, name, run_number_major AS major, run_number_minor AS minor, revision,
                      priority, created
        )""",
    starts=f", starts_until = {STARTS_UNTIL}",
)

# A job has no status for what was claimed: its lease says it. Only jobs of runs that were let in are handed
# out, so they are held to no limit.
JOBS = Source(
    table="job",
    lines=(
        Line(
            "(status = 'queued') IS TRUE",
            "created, id_",
            f"""NOT EXISTS (SELECT FROM platform.lease
                WHERE lease.owner_id = job.owner_id AND lease.entity_id = job.id_)
            AND (SELECT true FROM platform.workflow AS run
                 WHERE run.owner_id = job.owner_id AND run.id_ = job.workflow_id
                   AND run.status IN ('pending', 'running') AND {is_asked("run")} IS NOT TRUE LIMIT 1)""",
        ),
    ),
    order="created, id_",
    columns="created, id_",
    kind="compute_backend",
    turn="jobs_served_at",
    room=":limit",
    on_leased="DO NOTHING",
    taken="""
        taken AS (
            SELECT id_, job_name AS name, NULL::integer AS major, NULL::integer AS minor, revision, created
            FROM platform.job
            WHERE owner_id = CAST(:owner AS uuid) AND id_ = ANY (ARRAY(SELECT entity_id FROM leased))
        )""",
    starts="",
)


def source_of(model: type[Base]) -> Source:
    """Return where rows of this model are handed out from.

    :raises errors.InvalidArgument: they have no queue.
    """
    if model is Workflow:
        return RUNS
    if model is Job:
        return JOBS
    raise errors.InvalidArgument(
        f"there is no queue of {getattr(model, '__name__', model)}, only of Workflow and Job"
    )


def waiting_owners(source: Source) -> str:
    """Return the CTE ``waiting``, after those that it is made of: the owners who have something queued."""
    lines = {f"line_{number}": line for number, line in enumerate(source.lines)}
    read = [
        f"{name} AS ({owners_with(source.table, line.queued, line.order, name)})"
        for name, line in lines.items()
    ]
    waiting = " UNION ".join(f"SELECT owner_id FROM {name}" for name in lines)
    return ", ".join([*read, f"waiting AS ({waiting})"])


def owners_with(table: str, condition: str, order: str, name: str) -> str:
    """Return the recursive query, of this name, of the owners who have a row that meets a condition.

    One probe of an index for each, however many rows the owner has. That they are wanted in the whole order
    of the index leaves the planner no other one.

    :param order: the columns of the index after the owner.
    """
    return f"""
        (SELECT owner_id FROM platform.{table} WHERE {condition} ORDER BY owner_id, {order} LIMIT 1)
        UNION ALL
        SELECT (SELECT owner_id FROM platform.{table}
                WHERE {condition} AND owner_id > {name}.owner_id ORDER BY owner_id, {order} LIMIT 1)
        FROM {name} WHERE {name}.owner_id IS NOT NULL
    """


class Wanted(NamedTuple):
    """Which rows a worker takes.

    :param sql: a condition on the columns of the source's table.
    :param binds: its parameters.
    """

    sql: str
    binds: tuple[sa.BindParameter[Any], ...]


def wanted_rows(model: type[Base], labels: str | None) -> tuple[Wanted, dict[str, Any]]:
    """Return the condition that a row has the labels, and the values of its parameters.

    :raises errors.InvalidFilter: the selector is wrong, or rows of the model have no labels.
    """
    shape, values = take_apart(model, require_bounded(parse_selector(labels or "")))
    return _compile(model, shape), {f"value_{number}": value for number, value in enumerate(values)}


@lru_cache(KEPT)
def _compile(model: type[Base], shape: Node) -> Wanted:
    binds: list[sa.BindParameter[Any]] = []

    def bind(number: int, type_: sa.types.TypeEngine[Any]) -> sa.ColumnElement[Any]:
        binds.append(sa.bindparam(f"value_{number}", type_=type_))
        return sa.literal_column(f"CAST(:value_{number} AS {type_.compile(_DIALECT)})", type_)

    built = condition(model, shape, bind)
    return Wanted(str(built.compile(dialect=_DIALECT, compile_kwargs={"literal_binds": True})), tuple(binds))


_DIALECT: sa.Dialect = PGDialect_psycopg2(paramstyle="named")  # type: ignore[no-untyped-call]
