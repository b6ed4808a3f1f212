"""Looking up what was recorded: cached results, and what a cached result will ask for next.

Each look-up is one round trip to a function of the database that keeps its plan.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from platform_db.database.arrays import array
from platform_db.database.distribution import execute_for
from platform_db.database.kept_connection import KeptConnection

Connection = KeptConnection | sa.Connection
"""What looks up: a recorder's ``reading``, which is the fastest, or a connection of a transaction."""


class Hit(NamedTuple):
    """A cached result.

    :param kind: ``CSE``, ``ULTIMATE`` or ``SINGLE``.
    :param call_hash: the call that it is the result of; None for ``SINGLE``.
    :param value: empty where a store of files has it.
    :param size: bytes of the value, wherever it is.
    """

    kind: str
    call_hash: str | None
    value_hash: str
    type: str
    format: str
    value: bytes
    size: int


class Child(NamedTuple):
    """A call that another call made."""

    call_hash: str
    task_hash: str
    args_hash: str


class Evaluation(NamedTuple):
    """What a task's own code returned for some arguments.

    :param call_hash: a call whose final result it was, for it named no further calls; None: none is known.
    """

    eval_hash: str
    value_hash: str
    type: str
    format: str
    value: bytes
    size: int
    call_hash: str | None = None


def find_cached(
    connection: Connection,
    owner_id: uuid.UUID | str,
    *,
    task_hash: str,
    args_hash: str,
    eval_hash: str,
    execution_id: str,
    context_hash: str | None = None,
    kinds: Collection[str] = ("CSE", "SINGLE"),
    known_tasks: Collection[str] = (),
) -> Hit | None:
    """Return the owner's cached result of a call, by the first of the kinds that has one.

    :param context_hash: only results of calls in this context; ``SINGLE`` does not look at it.
    :param kinds: ``CSE``: this execution has made the same call. ``ULTIMATE``: the final result of the latest
        such call all of whose tasks, down to the last, are known. ``SINGLE``: what the task's code returned.
        They are tried in this order.
    :param known_tasks: the hashes of the tasks that ``ULTIMATE`` may rely on.
    """
    ((kind, *found),) = execute(
        connection,
        "SELECT * FROM platform.find_cached(%s::uuid, %s, %s, %s, %s, %s, %s::text[], %s::text[])",
        (
            str(owner_id),
            task_hash,
            args_hash,
            eval_hash,
            execution_id,
            context_hash,
            array(kinds),
            array(known_tasks),
        ),
    )
    return None if kind is None else Hit(kind, *_with_bytes(found))


def find_children(
    connection: Connection, owner_id: uuid.UUID | str, *, task_hash: str, args_hash: str, at_most: int
) -> list[Child]:
    """Return the calls that the latest call of a task with these arguments made, in their order."""
    rows = execute(
        connection,
        "SELECT * FROM platform.find_children(%s::uuid, %s, %s, %s)",
        (str(owner_id), task_hash, args_hash, at_most),
    )
    return [Child(*row) for row in rows]


def find_child_evaluations(
    connection: Connection,
    owner_id: uuid.UUID | str,
    *,
    task_hash: str,
    args_hash: str,
    at_most: int,
    largest: int,
) -> dict[str, Evaluation]:
    """Return the evaluations of the calls that the latest call of a task with these arguments made.

    :param largest: bytes of a value; those with larger ones are left out.
    :returns: by the hash of the call.
    """
    rows = execute(connection, _CHILD_EVALUATIONS, (str(owner_id), task_hash, args_hash, at_most, largest))
    return {
        call_hash: Evaluation._make([*_with_bytes(row), call_hash if is_final else None])
        for call_hash, is_final, *row in rows
    }


def find_stored(connection: Connection, owner_id: uuid.UUID | str, eval_hashes: Collection[str]) -> set[str]:
    """Return the hashes of those of the evaluations that there are."""
    rows = execute(
        connection,
        """SELECT eval_hash FROM platform.evaluation
            WHERE owner_id = %s::uuid AND eval_hash = ANY (%s::text[])""",
        (str(owner_id), array(eval_hashes)),
    )
    return {eval_hash for (eval_hash,) in rows}


def find_evaluations(
    connection: Connection, owner_id: uuid.UUID | str, eval_hashes: Collection[str], *, largest: int
) -> list[Evaluation]:
    """Return those of the evaluations that there are, with their values.

    :param largest: bytes of a value; those with larger ones are left out.
    """
    rows = execute(
        connection,
        "SELECT * FROM platform.find_evaluations(%s::uuid, %s::text[], %s)",
        (str(owner_id), array(eval_hashes), largest),
    )
    return [Evaluation(*_with_bytes(row)) for row in rows]


def execute(
    connection: Connection,
    statement: str,
    values: tuple[Any, ...] | dict[str, Any],
    owner: uuid.UUID | str | None = None,
) -> Sequence[Sequence[Any]]:
    """Return the rows of a statement.

    :param owner: whose rows it is about, where Citus would not plan it over several machines.
    """
    if isinstance(connection, KeptConnection):
        return connection.execute(statement, values)
    rows: Sequence[Sequence[Any]] = execute_for(connection, owner, statement, values).all()
    return rows


def _with_bytes(row: Sequence[Any]) -> list[Any]:
    *others, value, size = row
    return [*others, bytes(value), size]


_CHILD_EVALUATIONS = """
    SELECT child.call_hash, one.value_hash = made.value_hash, one.eval_hash,
           stored.value_hash, stored.type, stored.format, stored.value, stored.size
    FROM (SELECT %s::uuid AS owner_id) AS its
    CROSS JOIN LATERAL platform.find_children(its.owner_id, %s, %s, %s) AS child
    CROSS JOIN LATERAL (
        SELECT node.value_hash FROM platform.call_node AS node
        WHERE node.owner_id = its.owner_id AND node.call_hash = child.call_hash
        LIMIT 1
    ) AS made
    CROSS JOIN LATERAL (
        SELECT evaluation.eval_hash, evaluation.value_hash FROM platform.evaluation
        WHERE evaluation.owner_id = its.owner_id
          AND evaluation.task_hash = child.task_hash AND evaluation.args_hash = child.args_hash
        LIMIT 1
    ) AS one
    CROSS JOIN LATERAL (
        SELECT value.value_hash, value.type, value.format, value.value, value.size FROM platform.value
        WHERE value.owner_id = its.owner_id AND value.value_hash = one.value_hash AND value.size <= %s
        LIMIT 1
    ) AS stored
"""
