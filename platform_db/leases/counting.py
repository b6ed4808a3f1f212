"""Counting what is alive: what a service finds when it starts."""

from __future__ import annotations

from collections import Counter, defaultdict

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.database.distribution import execute_everywhere
from platform_db.database.session import takes_session
from platform_db.leases.holding import MODELS
from platform_db.states import MACHINES


@takes_session
def count_alive(session: Session, node: str | None = None) -> dict[str, Counter[str]]:
    """Return how many rows that have not ended have which status, by table; what has ended is not read.

    A job in a phase is counted by its status and that, as ``running/publishing``.

    :param node: count only what this holder has leases of, or the holders that begin with it and a ``/``.
    """
    session.flush()
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    statement = _COUNT if node is None else _COUNT_HELD
    for table, status, rows in execute_everywhere(session.connection(), statement, {"node": node}):
        counts[table][status] += rows
    return dict(counts)


_PHASE = {"job": "|| coalesce('/' || phase, '')"}


def _counting(held: str) -> sa.TextClause:
    return sa.text(
        " UNION ALL ".join(
            f"""
            SELECT '{table}' AS entity, status::text {_PHASE.get(table, "")} AS status, count(*) AS rows
            FROM platform.{table} {held.format(table=table)}
            WHERE status IN ({", ".join(f"'{status}'" for status in MACHINES[table].alive)})
            GROUP BY 2
            """
            for table in MODELS
        )
    )


# Each table has an index of what is alive.
_COUNT = _counting("")

_COUNT_HELD = _counting("""
    JOIN platform.lease ON lease.owner_id = {table}.owner_id AND lease.entity_id = {table}.id_
      AND lease.entity = '{table}' AND (lease.holder = :node OR starts_with(lease.holder, :node || '/'))
""")
