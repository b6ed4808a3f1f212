"""Claiming: the next rows of the owners whose turn it is, without waiting for any other claim.

The owners are read first, without locks: who has something to hand out, the one who was served longest ago
first, and for how many rows the limits leave room. Then each owner's rows are taken by one statement. It
locks the owner's turn only where no other claim has served the owner since (``claims`` is as it was read). So
the room that was read is still there: no claim can have filled it.

Between the two a claim announces the owners whom it is about to serve, so that claims at the same time serve
others.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Collection, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.bounds import LARGEST_LIMIT, require_limit
from platform_db.database.distribution import execute_everywhere, execute_for, is_distributed
from platform_db.database.session import takes_session
from platform_db.leases.holding import Claim, require_holder
from platform_db.models import Job, OwnerLimit, Workflow
from platform_db.models.expiry import expire_row
from platform_db.models.run_number import format_run_number
from platform_db.queue.limits import TURN, default_limits, refuse_tenant_scope
from platform_db.queue.sources import (
    KEPT,
    MOST_DUE,
    Line,
    Source,
    Wanted,
    source_of,
    waiting_owners,
    wanted_rows,
)

# So many more owners are read than rows are wanted: others may be serving the first ones at this moment.
SPARE_OWNERS = 64

# The server has room for a few thousand such locks of all transactions.
MOST_ANNOUNCED = 100

# How often to begin again where other claims served each owner meanwhile.
ATTEMPTS = 3


@takes_session
def claim(
    session: Session,
    worker: str,
    *,
    limit: int,
    model: type[Workflow] | type[Job] = Workflow,
    kinds: Collection[str] | None = None,
    labels: str | None = None,
) -> list[Claim]:
    """Claim up to ``limit`` rows that are next, each with a lease of the worker; the caller commits soon.

    A run goes from queued to pending. A job stays queued, and its lease says that it was taken; only jobs of
    pending and running runs are handed out, and none of a run that was asked to stop.

    Owners take turns: each of them gets one row before any of them gets a second one, if there are enough of
    them.

    It waits for no other claim. Where others serve every owner at this moment, it returns nothing, although
    something may be queued: ask again.

    The lease is good without a heartbeat for as long as recovery lets one be (its ``older_than``), counted
    from the claim: the first heartbeat has to come within that time.

    :param worker: who holds the leases: ``node`` or ``node/process``, as
        :func:`platform_db.leases.this_worker` returns it.
    :param limit: how many rows at most.
    :param kinds: only runs of these types, or jobs of these compute backends.
    :param labels: only runs that meet this selector, such as ``team=a,gpu in (a100,h100)``. An owner's queue
        is read until enough is found, so a rare label is slow to find in a long queue.
    :returns: in the order of the turns.
    :raises errors.InvalidArgument: the limit is out of range, the worker has no name, or rows of this model
        have no queue.
    :raises errors.InvalidFilter: the selector is wrong, or jobs were asked for by labels.
    :raises errors.Refused: in a tenant's scope.
    """
    refuse_tenant_scope(session, "the queue is of all owners")
    require_limit(limit)
    require_holder(worker)
    wanted, values = wanted_rows(model, labels)
    session.flush()
    queue = _Queue(
        session.connection(),
        model,
        wanted,
        {
            **default_limits(),
            **values,
            "limit": limit,
            "worker": worker,
            "reason": f"claimed by {worker}",
            "kinds": [kinds] if isinstance(kinds, str) else None if kinds is None else list(kinds),
        },
    )
    claims: list[Claim] = []
    for _ in range(ATTEMPTS):
        claims = list(queue.take(limit))
        if claims or not queue.lost:
            break
    for claimed in claims:
        expire_row(session, model, claimed.key)
        expire_row(session, OwnerLimit, (claimed.owner_id,))
    return claims


class _Turn(NamedTuple):
    owner_id: uuid.UUID
    claims: int
    room: int


class _Queue:
    """The queue of a model's rows, as one claim sees it.

    :ivar lost: whether an owner was passed over because another claim serves it.
    """

    def __init__(
        self, connection: sa.Connection, model: type[Any], wanted: Wanted, parameters: dict[str, Any]
    ) -> None:
        self.connection = connection
        self.model = model
        self.parameters = parameters
        self.turns = _turns(source_of(model), wanted)
        self.taking = _take(source_of(model), wanted)
        self.announced = 0
        self.lost = False

    def take(self, limit: int) -> Iterator[Claim]:
        """Yield up to so many claims: one of each owner, then an equal share of those who have more."""
        self.lost = False
        read: list[_Turn] = []
        turns: deque[_Turn] = deque()
        again: deque[_Turn] = deque()
        tried: list[str] = []
        more, look = True, limit + SPARE_OWNERS
        while limit:
            if not turns and not read and more:
                read = self._read(tried, look)
                more, look = len(read) == look, min(4 * look, LARGEST_LIMIT)
                tried += [str(turn.owner_id) for turn in read]
            if not turns and read:
                turns, read = self._announce(read, limit)
                continue
            if not turns:
                turns, again = again, deque()
            if not turns:
                return
            turn = turns.popleft()
            share = min(turn.room, 1 if read or more else -(-limit // (len(turns) + 1)))
            claims = self._take(turn, share)
            yield from claims
            limit -= len(claims)
            if len(claims) == share < turn.room:
                again.append(turn._replace(claims=turn.claims + 1, room=turn.room - share))

    def _read(self, tried: list[str], look: int) -> list[_Turn]:
        parameters = {**self.parameters, "tried": tried, "look": look}
        rows = execute_everywhere(self.connection, self.turns, parameters)
        if is_distributed(self.connection):  # Each machine has named the next of its own.
            rows = sorted(rows, key=lambda row: (row.served, row.owner_id))[:look]
        return [_Turn(*row[:3]) for row in rows]

    def _announce(self, turns: list[_Turn], limit: int) -> tuple[deque[_Turn], list[_Turn]]:
        """Return the first owners whom no other claim serves, and those who come after them."""
        limit = min(limit, MOST_ANNOUNCED - self.announced)
        if limit <= 0:
            return deque(turns), []
        parameters = {
            "owners": [str(turn.owner_id) for turn in turns],
            "claims": [turn.claims for turn in turns],
            "limit": limit,
            "first": self.announced == 0,
        }
        announce = _ANNOUNCE_ALONE if is_distributed(self.connection) else _ANNOUNCE
        places = self.connection.execute(announce, parameters).scalars().all()
        self.announced += len(places)
        self.lost |= len(places) < min(limit, len(turns))
        rest = places[-1] if len(places) == limit else len(turns)
        return deque(turns[place - 1] for place in places), turns[rest:]

    def _take(self, turn: _Turn, share: int) -> list[Claim]:
        parameters = {**self.parameters, "owner": str(turn.owner_id), "seen": turn.claims, "share": share}
        rows = execute_for(self.connection, turn.owner_id, self.taking, parameters).all()
        self.lost |= not rows
        return [
            Claim(
                self.model,
                turn.owner_id,
                row.id_,
                row.name,
                None if row.major is None else format_run_number(row.major, row.minor),
                row.revision,
                self.parameters["worker"],
            )
            for row in rows
            if row.id_ is not None
        ]


# An advisory lock. It decides nothing: the statement that takes the rows locks the owner's row. It spares
# claims at the same time from all trying the same owners. Any login can hold one, so now and then the owner
# who has waited longest is tried without.
def _announcing(still_waiting: str) -> sa.TextClause:
    return sa.text(f"""
        SELECT place FROM (
            SELECT turn.owner_id, turn.place
            FROM unnest(CAST(:owners AS uuid[]), CAST(:claims AS bigint[]))
                 WITH ORDINALITY AS turn (owner_id, claims, place)
            {still_waiting}
            ORDER BY turn.place OFFSET 0
        ) AS turn
        WHERE (:first AND place = 1 AND random() < 0.1)
           OR pg_try_advisory_xact_lock(hashtextextended('platform queue ' || owner_id, 0))
        LIMIT :limit
        """)


_ANNOUNCE = _announcing("""
    JOIN platform.owner_limit ON owner_limit.owner_id = turn.owner_id AND owner_limit.claims = turn.claims
    """)
# Where the owners' rows are on other machines: what has been served since is passed over when it is taken.
_ANNOUNCE_ALONE = _announcing("")


@lru_cache(KEPT)
def _turns(source: Source, wanted: Wanted) -> sa.TextClause:
    """Return the statement that reads whose turn it is.

    The owners are looked at in the order of their turns until enough of them can be served.
    """
    has_one = ", ".join(
        f"""(SELECT true FROM platform.{source.table}
             WHERE owner_id = turn.owner_id AND {_may_go(source, line, wanted)}
             ORDER BY {line.order} LIMIT 1)"""
        for line in source.lines
    )
    return sa.text(f"""
        WITH RECURSIVE {waiting_owners(source)}
        SELECT turn.owner_id, turn.claims, room.rows, turn.served
        FROM (
            SELECT {TURN}, CASE WHEN {source.turn} <= statement_timestamp() + CAST(:clock_error AS interval)
                                THEN extract(epoch FROM {source.turn}) ELSE '-infinity' END::text AS served
            FROM waiting JOIN platform.owner_limit ON owner_limit.owner_id = waiting.owner_id
            WHERE waiting.owner_id <> ALL (CAST(:tried AS uuid[]))
            -- A turn in the future was stored before the server's clock was set back.
            ORDER BY CASE WHEN {source.turn} <= statement_timestamp() + CAST(:clock_error AS interval)
                          THEN {source.turn} ELSE '-infinity' END, owner_id
            OFFSET 0
        ) AS turn
        CROSS JOIN LATERAL (SELECT {source.room} AS rows OFFSET 0) AS room
        WHERE room.rows > 0
          AND coalesce({has_one})
        LIMIT :look
        """).bindparams(*wanted.binds)


@lru_cache(KEPT)
def _take(source: Source, wanted: Wanted) -> sa.TextClause:
    """Return the statement that takes an owner's next rows; without a row another claim was quicker."""
    first = " UNION ALL ".join(f"SELECT * FROM line_{number}" for number in range(len(source.lines)))
    return sa.text(f"""
        WITH turn AS MATERIALIZED (
            SELECT owner_id FROM platform.owner_limit
            WHERE owner_id = CAST(:owner AS uuid) AND claims = :seen
            FOR NO KEY UPDATE SKIP LOCKED
        ),
        {_locked(source, wanted)},
        next AS MATERIALIZED (
            SELECT id_ FROM ({first}) AS first ORDER BY {source.order} LIMIT :share
        ),
        leased AS (
            INSERT INTO platform.lease (owner_id, entity, entity_id, holder, heartbeat_at)
            SELECT CAST(:owner AS uuid), '{source.table}', id_, :worker, clock_timestamp()
            FROM next ORDER BY id_
            ON CONFLICT (owner_id, entity_id) {source.on_leased}
            RETURNING entity_id
        ),
        {source.taken},
        served AS (
            UPDATE platform.owner_limit
            SET claims = claims + 1, {source.turn} = statement_timestamp(){source.starts}
            FROM (SELECT count(*) AS rows FROM taken) AS count
            WHERE owner_id = CAST(:owner AS uuid) AND count.rows > 0
        )
        SELECT taken.* FROM turn LEFT JOIN taken ON true ORDER BY {source.order}
        """).bindparams(*wanted.binds)


def _locked(source: Source, wanted: Wanted) -> str:
    """Return the CTEs of the first rows of each line, locked; what another has locked is passed over."""
    return ", ".join(
        f"""
        line_{number} AS MATERIALIZED (
            SELECT {source.columns} FROM platform.{source.table}
            WHERE owner_id = CAST(:owner AS uuid) AND {_among(source, line, wanted)}
            ORDER BY {source.order}
            LIMIT :share
            FOR NO KEY UPDATE SKIP LOCKED
        )"""
        for number, line in enumerate(source.lines)
    )


def _among(source: Source, line: Line, wanted: Wanted) -> str:
    may_go = f"{_may_go(source, line, wanted)} AND (SELECT true FROM turn)"
    if line.order == source.order:
        return may_go
    # In another order than that of the index: so many of them are read, and then they are sorted.
    return f"""{line.queued} AND id_ = ANY (ARRAY(
        SELECT id_ FROM platform.{source.table} WHERE owner_id = CAST(:owner AS uuid) AND {may_go}
        ORDER BY {line.order} LIMIT {MOST_DUE}
    ))"""


def _may_go(source: Source, line: Line, wanted: Wanted) -> str:
    return f"""{line.queued} AND {line.goes} AND {wanted.sql}
        AND (CAST(:kinds AS text[]) IS NULL OR {source.kind} = ANY (CAST(:kinds AS text[])))"""
