"""The statements of transitions: built once, one for each set of conditions; what they ask for is bound.

They are the driver's own text, with ``%(name)s`` for a parameter, for ``connection.exec_driver_sql()``. For a
statement of its own, SQLAlchemy takes as long at each call as for all the rest that it does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import psycopg2
from sqlalchemy.engine import Connection

from platform_db.database.distribution import is_distributed
from platform_db.states import MACHINES, Status


class Conditions(NamedTuple):
    """Which of the optional parts a statement has."""

    owner: bool
    owners: bool
    reason: bool
    expected_revision: bool
    expected_status: tuple[Status, ...] | None
    unexpected_statuses: tuple[Status, ...] | None

    @classmethod
    def of(
        cls,
        parameters: dict[str, Any],
        expected_status: tuple[Status, ...] | None = None,
        unexpected_statuses: tuple[Status, ...] | None = None,
    ) -> Conditions:
        owner, owners, reason, revision = (parameters.get(name) is not None for name in cls._fields[:4])
        return cls(owner, owners, reason, revision, expected_status, unexpected_statuses)


def _for_driver(text: str) -> str:
    return str(sa.text(text).compile(dialect=_DRIVER))


_DRIVER = psycopg2.dialect()  # type: ignore[no-untyped-call]

NOTE_REASON = (
    "SELECT set_config('platform.statement_reason', statement_timestamp()::text || ' ' || :reason, true)"
)


@contextmanager
def giving_reason(connection: Connection, reason: str | None) -> Iterator[None]:
    """Give the reason to the statements of this block where tables are distributed.

    What :data:`NOTE_REASON` sets stays on the node that reads the statement, and another one runs it.
    """
    tells = reason is not None and is_distributed(connection)
    if tells:
        connection.execute(_SET_REASON, {"reason": reason})
    yield  # An error takes back what was set, with the transaction or the savepoint.
    if tells:
        connection.execute(_SET_REASON, {"reason": ""})


_SET_REASON = sa.text("SET LOCAL platform.this_reason = :reason")

_OF_OWNER = "owner_id = CAST(:owner AS uuid) AND "
_OF_OWNERS = (
    "(owner_id, id_) IN (SELECT * FROM unnest(CAST(:owners AS uuid[]), CAST(:ids AS uuid[])) AS given) AND "
)


def _allowed(
    entity: str,
    status: Status,
    conditions: Conditions,
    revision: str = ":expected_revision",
    otherwise: str = "false",
) -> str:
    """Return the condition under which a row may be given the status.

    :param otherwise: the condition where the states do not allow it.
    """
    # As CASEs, because an OR of statuses makes the planner look for an index on them: that took a fifth of
    # the whole statement's time. The statuses are literals: Citus takes no conversion of them in an UPDATE.
    clauses = [_case(_literals(MACHINES[entity].sources(status)), otherwise)]
    if conditions.expected_status is not None:
        clauses.append(_case(_literals(conditions.expected_status)))
    if conditions.unexpected_statuses is not None:
        clauses.append(f"NOT {_case(_literals(conditions.unexpected_statuses))}")
    if conditions.expected_revision:
        clauses.append(f"revision = {revision}")
    return " AND ".join(clauses)


def _case(statuses: str, otherwise: str = "false") -> str:
    return f"CASE WHEN status IN ({statuses}) THEN true ELSE {otherwise} END" if statuses else otherwise


def _literals(statuses: Iterable[Status]) -> str:
    return ", ".join(sorted(f"'{status.value}'" for status in statuses))


# What is expected of a status is part of the text, and there are many ways to expect something.
KEPT = 500


@lru_cache(KEPT)
def update(
    entity: str, status: Status, conditions: Conditions, *, returning: bool, permitted: bool = False
) -> str:
    """Return the statement that changes a row.

    :param permitted: :data:`PERMITS` says that what the states do not allow may be, from ``:stored_status``.
    """
    columns = ", ".join(("revision", *MACHINES[entity].times))
    allowed = _allowed(entity, status, conditions)
    if permitted:
        revision = "AND revision = :expected_revision" if conditions.expected_revision else ""
        allowed = f"status = :stored_status {revision}"
    return _for_driver(f"""
        {f"WITH note AS MATERIALIZED ({NOTE_REASON})" if conditions.reason else ""}
        UPDATE platform.{entity} SET status = '{status.value}'
        {"FROM note" if conditions.reason else ""}
        WHERE {_OF_OWNER if conditions.owner else ""}id_ = CAST(:id AS uuid)
          AND {allowed}
        {f"RETURNING {columns}" if returning else ""}
        """)


@cache
def read(entity: str, conditions: Conditions) -> str:
    return _for_driver(
        f"SELECT status, revision FROM platform.{entity}"
        f" WHERE {_OF_OWNER if conditions.owner else ''}id_ = CAST(:id AS uuid)"
    )


PERMITS = _for_driver("SELECT platform.guard_permits(:entity, :stored_status, :status)")
"""Whether the guard lets through what the states do not allow."""


@lru_cache(KEPT)
def update_many(entity: str, status: Status, conditions: Conditions) -> str:
    # Each row has its own expected revision, or NULL where any will do.
    wish = f"(CAST(:expected_revision AS integer[]))[array_position(CAST(:ids AS uuid[]), {entity}.id_)]"
    permitted = (
        f"status <> '{status.value}' AND platform.guard_permits('{entity}', status::text, '{status.value}')"
    )
    allowed = _allowed(entity, status, conditions, f"coalesce({wish}, revision)", permitted)
    owners = _OF_OWNER if conditions.owner else _OF_OWNERS if conditions.owners else ""
    return _for_driver(f"""
        WITH {f"note AS MATERIALIZED ({NOTE_REASON})," if conditions.reason else ""}
        locked AS MATERIALIZED (
            SELECT owner_id, id_, status, revision, {allowed} AS allowed
            FROM platform.{entity}
            WHERE {owners}id_ = ANY(CAST(:ids AS uuid[]))
            ORDER BY owner_id, id_
            FOR NO KEY UPDATE
        ),
        changed AS (
            UPDATE platform.{entity} AS target SET status = '{status.value}'
            FROM locked {", note" if conditions.reason else ""}
            WHERE {f"target.{_OF_OWNER}" if conditions.owner else ""}target.owner_id = locked.owner_id
              AND target.id_ = locked.id_ AND locked.allowed
            RETURNING target.id_, target.status, target.revision
        )
        SELECT id_::text, true AS changed, status, revision FROM changed
        UNION ALL
        SELECT id_::text, false, status, revision FROM locked WHERE NOT allowed
        """)
