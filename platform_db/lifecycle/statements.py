"""The statements of transitions: built once, one for each set of conditions; what they ask for is bound.

They are the driver's own text, with ``%(name)s`` for a parameter, for ``connection.exec_driver_sql()``. For a
statement of its own, SQLAlchemy takes as long at each call as for all the rest that it does.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import psycopg2

from platform_db.states import MACHINES, Status


class Conditions(NamedTuple):
    """Which of the optional parts a statement has."""

    owner: bool
    owners: bool
    reason: bool
    expected_status: bool
    unexpected_statuses: bool
    expected_revision: bool

    @classmethod
    def of(cls, parameters: dict[str, Any]) -> Conditions:
        return cls(*(parameters.get(name) is not None for name in cls._fields))


def _for_driver(text: str) -> str:
    return str(sa.text(text).compile(dialect=_DRIVER))


_DRIVER = psycopg2.dialect()  # type: ignore[no-untyped-call]

NOTE_REASON = (
    "SELECT set_config('platform.statement_reason', statement_timestamp()::text || ' ' || :reason, true)"
)

_OF_OWNER = "owner_id = CAST(:owner AS uuid) AND "
_OF_OWNERS = (
    "(owner_id, id_) IN (SELECT * FROM unnest(CAST(:owners AS uuid[]), CAST(:ids AS uuid[])) AS given) AND "
)


def _allowed(
    entity: str, status: Status, conditions: Conditions, revision: str = ":expected_revision"
) -> str:
    """Return the condition under which a row may be given the status."""
    sources = ", ".join(sorted(f"'{source.value}'" for source in MACHINES[entity].sources(status)))
    legal = f"status IN ({sources})" if sources else "false"
    # As a CASE, because an OR of statuses makes the planner look for an index on them: that took a fifth of
    # the whole statement's time.
    clauses = [
        f"""CASE WHEN {legal} THEN true ELSE status <> '{status.value}'
            AND platform.guard_permits('{entity}', status::text, '{status.value}') END"""
    ]
    # For the same reason these are CASEs, too.
    if conditions.expected_status:
        clauses.append(
            "CASE WHEN status::text = ANY(CAST(:expected_status AS text[])) THEN true ELSE false END"
        )
    if conditions.unexpected_statuses:
        clauses.append(
            "CASE WHEN status::text = ANY(CAST(:unexpected_statuses AS text[])) THEN false ELSE true END"
        )
    if conditions.expected_revision:
        clauses.append(f"revision = {revision}")
    return " AND ".join(clauses)


@cache
def update(entity: str, status: Status, conditions: Conditions, *, returning: bool) -> str:
    columns = ", ".join(("revision", *MACHINES[entity].times))
    return _for_driver(f"""
        {f"WITH note AS MATERIALIZED ({NOTE_REASON})" if conditions.reason else ""}
        UPDATE platform.{entity} SET status = '{status.value}'
        {"FROM note" if conditions.reason else ""}
        WHERE {_OF_OWNER if conditions.owner else ""}id_ = CAST(:id AS uuid)
          AND {_allowed(entity, status, conditions)}
        {f"RETURNING {columns}" if returning else ""}
        """)


@cache
def read(entity: str, conditions: Conditions) -> str:
    return _for_driver(
        f"SELECT status, revision FROM platform.{entity}"
        f" WHERE {_OF_OWNER if conditions.owner else ''}id_ = CAST(:id AS uuid)"
    )


@cache
def update_many(entity: str, status: Status, conditions: Conditions) -> str:
    # Each row has its own expected revision, or NULL where any will do.
    wish = f"(CAST(:expected_revision AS integer[]))[array_position(CAST(:ids AS uuid[]), {entity}.id_)]"
    allowed = _allowed(entity, status, conditions, f"coalesce({wish}, revision)")
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
            WHERE target.owner_id = locked.owner_id AND target.id_ = locked.id_ AND locked.allowed
            RETURNING target.id_, target.status, target.revision
        )
        SELECT id_::text, true AS changed, status, revision FROM changed
        UNION ALL
        SELECT id_::text, false, status, revision FROM locked WHERE NOT allowed
        """)
