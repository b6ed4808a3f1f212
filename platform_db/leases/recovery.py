"""Recovery: failing or restarting the running rows of dead workers."""

from __future__ import annotations

import enum
import uuid
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.bounds import require_limit, require_seconds
from platform_db.database.session import SessionFactory, takes_session
from platform_db.leases.holding import CLOCK_ERROR, MODELS
from platform_db.lifecycle.restarts import restart_if_possible
from platform_db.lifecycle.target import Key
from platform_db.lifecycle.transitions import transition_many
from platform_db.states import MACHINES

BATCH = 100


class Policy(str, enum.Enum):
    """What recovery does with a running row whose worker died.

    ``requeue`` is for runs: the run fails, since a run that was started cannot be queued again, and a restart
    of it, in the same workspace, is queued. After three restarts it only fails.
    """

    fail = "fail"
    requeue = "requeue"
    nothing = "nothing"


DEFAULT_POLICIES: Mapping[str, Policy] = dict.fromkeys(MODELS, Policy.fail)


@dataclass
class Recovery:
    """What was recovered.

    :param counts: how many rows have which status now, by table; a restart counts as ``queued``.
    :param left: how many dead rows the policy leaves alone, by table.
    :param ids: the rows that failed.
    """

    counts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    left: Counter[str] = field(default_factory=Counter)
    ids: list[uuid.UUID] = field(default_factory=list)

    @property
    def by_status(self) -> Counter[str]:
        """How many rows have which status now."""
        return sum(self.counts.values(), Counter())


@takes_session
def recover(
    session: Session,
    older_than: timedelta,
    policies: Mapping[str, Policy | str] = DEFAULT_POLICIES,
    *,
    batch: int = BATCH,
) -> Recovery:
    """Recover up to ``batch`` rows of each kind whose heartbeat is older, each by the policy of its kind.

    Rows that a worker has locked are left alone. Call it again, in a new transaction, until it recovers
    nothing.

    :param policies: by table; one that is not there is left alone.
    :raises errors.InvalidArgument: a policy that the kind of row does not have.
    """
    require_seconds(older_than, "age of a heartbeat")
    return _recover(session, policies, age=older_than, batch=require_limit(batch, "batch"))


def recover_all(
    factory: SessionFactory, older_than: timedelta, policies: Mapping[str, Policy | str] = DEFAULT_POLICIES
) -> dict[str, int]:
    """Recover all rows whose heartbeat is older, and return how many rows have which status now.

    Each batch of :func:`recover` is a transaction of its own.

    :param factory: makes the sessions.
    """
    total: Counter[str] = Counter()
    while True:
        with factory() as session, session.begin():
            recovery = recover(session, older_than, policies)
        total.update(recovery.by_status)
        if not recovery.ids:
            return dict(total)


@takes_session
def recover_owned_by(
    session: Session, node: str, policies: Mapping[str, Policy | str] = DEFAULT_POLICIES
) -> dict[str, int]:
    """Recover all that a node held, whatever the age, and return how many rows have which status now.

    For a service's start: the processes that held leases in the node's name before have ended.

    :param node: the holder, or what stands before the ``/`` of it.
    """
    total: Counter[str] = Counter()
    while True:
        recovery = _recover(session, policies, node=node, batch=BATCH)
        total.update(recovery.by_status)
        if not recovery.ids:
            return dict(total)


def _parse(policies: Mapping[str, Policy | str]) -> dict[str, Policy]:
    parsed = {}
    for table, policy in policies.items():
        if table not in MODELS:
            raise errors.InvalidArgument(f"there are no leases of {table}; choose from {', '.join(MODELS)}")
        possible = [p.value for p in Policy if p is not Policy.requeue or table == "workflow"]
        if policy not in possible:
            given = getattr(policy, "value", policy)
            raise errors.InvalidArgument(
                f"{given!r} is no policy for a {table}; choose from {', '.join(possible)}"
            )
        parsed[table] = Policy(policy)
    return parsed


def _recover(session: Session, given: Mapping[str, Policy | str], **bounds: object) -> Recovery:
    policies, parameters = _parse(given), {"age": None, "node": None, "clock_error": CLOCK_ERROR, **bounds}
    session.flush()
    recovery = Recovery()
    connection = session.connection()
    for table, model in MODELS.items():
        policy = policies.get(table, Policy.nothing)
        if policy is Policy.nothing:
            count = sa.text(f"SELECT count(*) {_from_dead(table)}")
            recovery.left[table] += connection.execute(count, parameters).scalar_one()
            continue
        by_reason: dict[str, list[Key]] = defaultdict(list)
        for lease in connection.execute(_lock_dead(table), parameters):
            reason = (
                f"its worker {lease.holder} died: last heartbeat {lease.heartbeat_at:%Y-%m-%d %H:%M:%S %Z}"
            )
            by_reason[reason].append((lease.owner_id, lease.entity_id))
        for reason, keys in by_reason.items():
            # The rows are locked, so this waits for no lock, and what was running still is.
            results = transition_many(
                session, keys, "failed", model=model, reason=reason, expected_status="running"
            )
            for key, result in zip(keys, results, strict=True):
                if not result.changed:
                    continue
                recovery.ids.append(result.id_)
                recovery.counts[table]["failed"] += 1
                if policy is Policy.requeue and restart_if_possible(session, key, reason=reason):
                    recovery.counts[table]["queued"] += 1
        dead = [key for keys in by_reason.values() for key in keys]
        connection.execute(_FORGET, {"owners": [owner for owner, _ in dead], "ids": [id_ for _, id_ in dead]})
    # Last: a transaction that starts an ended run again waits for its lease, and may hold rows needed above.
    for table in MODELS:
        connection.execute(_drop_ended(table), parameters)
    return recovery


_FORGET = sa.text("""
    DELETE FROM platform.lease
    WHERE (owner_id, entity_id) IN (
        SELECT * FROM unnest(CAST(:owners AS uuid[]), CAST(:ids AS uuid[])) AS given
    )
    """)

# A worker that lives replaces a heartbeat from before the clock was set back by its next one.
_DEAD = """
    (CAST(:age AS interval) IS NULL OR lease.heartbeat_at < clock_timestamp() - CAST(:age AS interval)
        OR lease.heartbeat_at > clock_timestamp() + CAST(:clock_error AS interval))
    AND (CAST(:node AS text) IS NULL OR lease.holder = :node OR starts_with(lease.holder, :node || '/'))
"""


@cache
def _lock_dead(table: str) -> sa.TextClause:
    # Both rows are skipped where either is locked: a worker that beats, or ends its run, is alive. So no
    # transaction waits for another, in whatever order workers lock the two.
    return sa.text(f"""
        SELECT lease.owner_id, lease.entity_id, lease.holder, lease.heartbeat_at {_from_dead(table)}
        ORDER BY lease.owner_id, lease.entity_id
        LIMIT :batch
        FOR NO KEY UPDATE OF lease, leased SKIP LOCKED
        """)


def _from_dead(table: str) -> str:
    return f"""
        FROM platform.lease JOIN platform.{table} AS leased
          ON leased.owner_id = lease.owner_id AND leased.id_ = lease.entity_id AND leased.status = 'running'
        WHERE lease.entity = '{table}' AND {_DEAD}
    """


@cache
def _drop_ended(table: str) -> sa.TextClause:
    """Return the statement that drops the dead leases of what has ended, or is no more."""
    alive = ", ".join(f"'{status}'" for status in MACHINES[table].alive)
    return sa.text(f"""
        DELETE FROM platform.lease WHERE (owner_id, entity_id) IN (
            SELECT lease.owner_id, lease.entity_id FROM platform.lease
            WHERE lease.entity = '{table}' AND {_DEAD} AND NOT EXISTS (
                SELECT FROM platform.{table} AS leased
                WHERE leased.owner_id = lease.owner_id AND leased.id_ = lease.entity_id
                  AND leased.status IN ({alive})
            )
            ORDER BY lease.owner_id, lease.entity_id
            FOR UPDATE SKIP LOCKED
        )
        """)
