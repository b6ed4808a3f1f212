"""Lineage: the calls that a value came from, and those that it went into."""

from __future__ import annotations

import enum
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.bounds import require_amount, require_limit
from platform_db.database.arrays import array
from platform_db.database.session import takes_session
from platform_db.models.identity import UserOrId, user_id_of
from platform_db.provenance.lookups import execute


class Direction(str, enum.Enum):
    """Where to look."""

    up = "what it came from"
    down = "what came of it"


class Argument(NamedTuple):
    """An argument of a call.

    :param name: its name, or its position from 0 on.
    :param sources: the calls whose results went into it, as far as they were recorded.
    """

    name: str
    value_hash: str
    value_type: str
    sources: tuple[str, ...]


class Step(NamedTuple):
    """A call that a value came from, or went into.

    :param depth: how many calls it is away, from 0 on.
    :param value_hash: its result.
    :param value_type: the type of its result.
    """

    depth: int
    call_hash: str
    task_name: str
    timestamp: datetime
    value_hash: str
    value_type: str
    arguments: tuple[Argument, ...]


@takes_session
def lineage(
    session: Session,
    owner: UserOrId,
    hash_: str,
    *,
    direction: Direction = Direction.up,
    depth: int = 10,
    limit: int = 1000,
) -> list[Step]:
    """Return the calls that a value or a call came from, or that it went into, the nearest first.

    Up, a value came from the calls that returned it, alone or as part of their result; each of these from the
    calls whose results were its arguments. Down, it went into the calls that had it as an argument; each of
    these into the calls that had its result. A call is returned once, where it is nearest.

    :param hash_: the hash of a value or of a call.
    :param depth: how many calls away to look.
    :param limit: how many calls to return at most.
    :raises errors.NotFound: the owner has no such value and no such call.
    """
    require_amount(depth, "depth")
    require_limit(limit)
    session.flush()
    connection, owner_id = session.connection(), str(user_id_of(owner))

    def ask(statement: str, *values: Any) -> list[Any]:
        return list(execute(connection, statement, values, owner_id))

    named = {"owner": owner_id, "hash": hash_, "limit": limit}

    if ask(_IS_CALL, owner_id, hash_):
        found = [hash_]
    elif ask(_IS_VALUE, owner_id, hash_):
        start = _MAKERS if direction is Direction.up else _TAKERS
        found = [call for (call,) in execute(connection, start, named, owner_id)]
    else:
        raise errors.NotFound(f"there is no value and no call {hash_}")
    steps: list[Step] = []
    seen: set[str] = set()
    for distance in range(depth + 1):
        found = [call for call in dict.fromkeys(found) if call not in seen][: limit - len(steps)]
        if not found:
            break
        seen.update(found)
        arguments: dict[str, list[Argument]] = {}
        for call, name, value, type_, sources in ask(_ARGUMENTS, owner_id, array(found)):
            arguments.setdefault(call, []).append(Argument(name, value, type_, tuple(sources)))
        steps += (
            Step(distance, call, task, made, value, type_, tuple(arguments.get(call, ())))
            for call, task, made, value, type_ in ask(_CALLS, owner_id, array(found))
        )
        if direction is Direction.up:
            found = [source for call in found for a in arguments.get(call, ()) for source in a.sources]
        else:
            found = [call for (call,) in ask(_NEXT, owner_id, array(found), limit)]
    return steps


_IS_CALL = "SELECT 1 FROM platform.call_node WHERE owner_id = %s::uuid AND call_hash = %s"
_IS_VALUE = "SELECT 1 FROM platform.value WHERE owner_id = %s::uuid AND value_hash = %s"

# Each step looks its rows up by an index, one after another: on tables without statistics a join would go by
# the owner alone.
_MAKERS = """
    SELECT node.call_hash FROM (
        SELECT %(hash)s AS value_hash
        UNION ALL
        (SELECT whole.parent_value_hash FROM platform.subvalue AS whole
         WHERE whole.owner_id = %(owner)s::uuid AND whole.value_hash = %(hash)s LIMIT %(limit)s)
    ) AS held
    CROSS JOIN LATERAL (
        SELECT node.call_hash, node.timestamp FROM platform.call_node AS node
        WHERE node.owner_id = %(owner)s::uuid AND node.value_hash = held.value_hash LIMIT %(limit)s
    ) AS node
    ORDER BY node.timestamp DESC, node.call_hash LIMIT %(limit)s
"""

_TAKERS = """
    SELECT DISTINCT call_hash FROM platform.call_argument
    WHERE owner_id = %(owner)s::uuid AND value_hash = %(hash)s ORDER BY call_hash LIMIT %(limit)s
"""

_CALLS = """
    SELECT node.call_hash, node.task_name, node.timestamp, node.value_hash, node.type
    FROM (SELECT %s::uuid AS owner) AS given
    CROSS JOIN unnest(%s::text[]) WITH ORDINALITY AS asked (call_hash, place)
    CROSS JOIN LATERAL (
        SELECT found.*, (
            SELECT result.type FROM platform.value AS result
            WHERE result.owner_id = found.owner_id AND result.value_hash = found.value_hash) AS type
        FROM platform.call_node AS found
        WHERE found.owner_id = given.owner AND found.call_hash = asked.call_hash LIMIT 1
    ) AS node
    ORDER BY asked.place
"""

_ARGUMENTS = """
    SELECT argument.call_hash, coalesce(argument.arg_key, argument.arg_position::text) AS name,
           argument.value_hash,
           (SELECT given.type FROM platform.value AS given
            WHERE given.owner_id = argument.owner_id AND given.value_hash = argument.value_hash) AS type,
           ARRAY(SELECT source.result_call_hash FROM platform.call_argument_source AS source
                 WHERE source.owner_id = argument.owner_id AND source.arg_hash = argument.arg_hash
                 ORDER BY 1) AS sources
    FROM platform.call_argument AS argument
    WHERE argument.owner_id = %s::uuid AND argument.call_hash = ANY (%s::text[])
    ORDER BY argument.call_hash, argument.arg_position, argument.arg_key
"""

_NEXT = """
    WITH given AS (SELECT %s::uuid AS owner)
    SELECT DISTINCT taken.call_hash
    FROM given CROSS JOIN unnest(%s::text[]) AS asked (call_hash)
    CROSS JOIN LATERAL (
        SELECT (SELECT argument.call_hash FROM platform.call_argument AS argument
                WHERE argument.owner_id = given.owner AND argument.arg_hash = source.arg_hash) AS call_hash
        FROM platform.call_argument_source AS source
        WHERE source.owner_id = given.owner AND source.result_call_hash = asked.call_hash
    ) AS taken
    ORDER BY taken.call_hash LIMIT %s
"""
