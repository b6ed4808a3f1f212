"""Recovery: what becomes of the rows of dead workers, and of runs that do not stop when they are asked."""

from __future__ import annotations

import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.bounds import require_limit, require_seconds
from platform_db.database.distribution import execute_by_owner, execute_everywhere
from platform_db.database.session import SessionFactory, takes_session
from platform_db.leases.calls import end_lost_calls
from platform_db.leases.holding import CLOCK_ERROR, JOIN_RUN, MODELS, RUN_OF, require_holder
from platform_db.leases.policies import DEFAULT_POLICIES, NODE_POLICIES, Action, Chosen, Policies
from platform_db.lifecycle.job_restarts import restart_job
from platform_db.lifecycle.restarts import restart_if_possible
from platform_db.lifecycle.returns import TOO_OFTEN, return_to_queue
from platform_db.lifecycle.stopping import is_asked, stop_jobs
from platform_db.lifecycle.target import Key
from platform_db.lifecycle.transitions import transition_many
from platform_db.models import Job
from platform_db.models.expiry import expire_row
from platform_db.states import MACHINES

BATCH = 100


@dataclass
class Recovery:
    """What was recovered.

    :param counts: how many rows have which status now, by table; a restart counts as ``queued``.
    :param left: how many dead rows the policy leaves alone, by table.
    :param ids: the rows that were recovered or stopped.
    """

    counts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    left: Counter[str] = field(default_factory=Counter)
    ids: list[uuid.UUID] = field(default_factory=list)

    @property
    def by_status(self) -> Counter[str]:
        """How many rows have which status now."""
        return sum(self.counts.values(), Counter())

    def add(self, table: str, status: str, ids: Iterable[uuid.UUID]) -> None:
        """Count rows that have this status now."""
        for id_ in ids:
            self.ids.append(id_)
            self.counts[table][status] += 1


@takes_session
def recover(
    session: Session,
    older_than: timedelta | float,
    policies: Policies = DEFAULT_POLICIES,
    *,
    grace: timedelta | float | None = None,
    batch: int = BATCH,
) -> Recovery:
    """Recover up to ``batch`` rows of each kind whose heartbeat is older, each by the policy of its kind.

    It also stops runs that were asked to and have not within their grace time, and jobs that are left of runs
    that have ended. Rows that a worker has locked are left alone. Call it again, in a new transaction, until
    it recovers nothing. Where runs are to be restarted, it waits for those who create runs of their owners.

    :param older_than: in seconds where it is a number, as ``grace``.
    :param policies: by table, or for ``workflow:TYPE`` (see :mod:`platform_db.leases.policies`); what is not
        there is left alone.
    :param grace: how long a run may take to stop after it was asked, and a job to end after its run; by
        default as long as a worker may be silent.
    :raises errors.InvalidArgument: a policy that the kind of row does not have.
    """
    age = timedelta(seconds=require_seconds(older_than, "age of a heartbeat"))
    bounds = {
        **_BOUNDS,
        "age": age,
        "grace": age if grace is None else timedelta(seconds=require_seconds(grace, "grace time")),
        "batch": require_limit(batch, "batch"),
    }
    chosen = Chosen(policies)
    bounds["owners"] = _lock_owners(session, chosen, bounds)
    recovery = _recover_dead(session, chosen, None, bounds)
    _stop_overdue(session, recovery, bounds)
    return recovery


def recover_all(
    factory: SessionFactory,
    older_than: timedelta | float,
    policies: Policies = DEFAULT_POLICIES,
    *,
    grace: timedelta | float | None = None,
) -> dict[str, int]:
    """Recover all rows whose heartbeat is older, and return how many rows have which status now.

    Each batch of :func:`recover`, which takes the same, is a transaction of its own. Jobs of executions whose
    heartbeat is older are ``lost``: see :func:`platform_db.leases.end_lost_calls`.

    :param factory: makes the sessions.
    """
    total: Counter[str] = Counter()
    while True:
        with factory() as session, session.begin():
            recovery = recover(session, older_than, policies, grace=grace)
        total.update(recovery.by_status)
        if not recovery.ids:
            break
    while True:
        with factory() as session, session.begin():
            lost = end_lost_calls(session, older_than)
        if not lost:
            return dict(+total)
        total["lost"] += lost


@takes_session
def recover_owned_by(session: Session, node: str, policies: Policies = NODE_POLICIES) -> dict[str, int]:
    """Recover all that a node held, whatever the age, and return how many rows have which status now.

    For a service's start: the processes that held leases in the node's name before have ended.

    :param node: the holder, or what stands before the ``/`` of it.
    :param policies: by table, or for ``workflow:TYPE`` (see :mod:`platform_db.leases.policies`).
    :raises errors.InvalidArgument: the node has no name, or a policy is not one of the kind of row.
    """
    require_holder(node)  # Without one, all workers' rows would be recovered.
    chosen, total = Chosen(policies), Counter[str]()
    bounds = {**_BOUNDS, "node": node, "batch": BATCH}
    bounds["owners"] = _lock_owners(session, chosen, {**bounds, "batch": None})
    while True:
        recovery = _recover_dead(session, chosen, "its node restarted", bounds)
        total.update(recovery.by_status)
        if not recovery.ids:
            return dict(total)


_BOUNDS: dict[str, object] = {"age": None, "node": None, "clock_error": CLOCK_ERROR}


def _lock_owners(session: Session, policies: Chosen, bounds: dict[str, object]) -> list[str] | None:
    """Lock the owners whose runs may be restarted, in key order, and return them; None where none is.

    Before any row: a creator of an owner's runs has this lock, and may then write a row of a dead worker.
    """
    session.flush()
    if not policies.restart_runs:
        return None
    parameters = {**bounds, **policies.parameters("workflow")}
    return [str(row[0]) for row in execute_everywhere(session.connection(), _LOCK_OWNERS, parameters)]


def _recover_dead(
    session: Session, policies: Chosen, reason: str | None, bounds: dict[str, object]
) -> Recovery:
    """Recover the rows of dead workers.

    :param reason: why; by default that its worker died, and when.
    """
    recovery, connection = Recovery(), session.connection()
    to_restart: list[tuple[Key, str, str]] = []
    for table in MODELS:
        parameters = {**bounds, **policies.parameters(table)}
        recovery.left[table] += sum(
            row[0] for row in execute_everywhere(connection, _count_left(table), parameters)
        )
        groups: dict[tuple[Action, str, str], list[Key]] = defaultdict(list)
        for lease in execute_everywhere(connection, _lock_dead(table), parameters):
            action = policies.action(table, lease.type_, lease.status, stopping=lease.stopping)
            why = reason or (
                f"its worker {lease.holder} died: last heartbeat {lease.heartbeat_at:%Y-%m-%d %H:%M:%S %Z}"
            )
            groups[action, why, lease.status].append((lease.owner_id, lease.entity_id))
        for (action, why, status), keys in groups.items():
            # The rows are locked, so this waits for no lock, and each has the status that was read.
            _act(session, recovery, table, action, keys, status, why)
            if action is Action.restarted:
                to_restart += ((key, table, why) for key in keys)
        execute_by_owner(connection, _FORGET, [key for keys in groups.values() for key in keys], {})
    for key, table, why in to_restart:
        restarted = (restart_job if table == "job" else restart_if_possible)(session, key, reason=why)
        recovery.counts[table]["queued"] += restarted is not None
    # Last: a transaction that starts an ended run again waits for its lease, and may hold rows needed above.
    for table in MODELS:
        execute_everywhere(connection, _drop_ended(table), bounds)
    return recovery


def _act(
    session: Session,
    recovery: Recovery,
    table: str,
    action: Action,
    keys: list[Key],
    status: str,
    reason: str,
) -> None:
    ids = [id_ for _, id_ in keys]
    if action is Action.released:
        recovery.add(table, status, ids)
        if table == "job":
            execute_by_owner(session.connection(), _CLEAR_PHASE, keys, {})
            for key in keys:
                expire_row(session, Job, key, ["phase", "updated"])
        return
    if action is Action.queued:
        returned = return_to_queue(session, keys, reason=reason)
        recovery.add(table, "queued", [id_ for _, id_ in returned])
        keys = [key for key in keys if key not in set(returned)]
        action, ids, reason = Action.failed, [id_ for _, id_ in keys], f"{reason}; {TOO_OFTEN}"
    wanted = "failed" if action is Action.restarted else action.name
    transition_many(session, keys, wanted, model=MODELS[table], reason=reason, expected_status=status)
    recovery.add(table, wanted, ids)
    if action is Action.stopped and table == "workflow":
        recovery.add("job", "stopped", [id_ for _, id_ in stop_jobs(session, keys, reason=reason)])


def _stop_overdue(session: Session, recovery: Recovery, bounds: dict[str, object]) -> None:
    """Stop what was asked to stop and has not, and what is left of runs that have ended."""
    connection = session.connection()
    by_reason: dict[str, list[Key]] = defaultdict(list)
    for run in execute_everywhere(connection, _LOCK_OVERDUE, bounds):
        reason = f"it was asked to stop at {run.stop_requested_at:%Y-%m-%d %H:%M:%S %Z}, and did not"
        by_reason[reason].append((run.owner_id, run.id_))
    for reason, runs in by_reason.items():
        _act(session, recovery, "workflow", Action.stopped, runs, "running", reason)
    by_status: dict[str, list[Key]] = defaultdict(list)
    for job in execute_everywhere(connection, _LOCK_LEFT_JOBS, bounds):
        by_status[job.status].append((job.owner_id, job.id_))
    for status, jobs in by_status.items():
        _act(session, recovery, "job", Action.stopped, jobs, status, "its run has ended")


_GIVEN = "(SELECT * FROM unnest(CAST(:owners AS uuid[]), CAST(:ids AS uuid[])) AS given)"

_FORGET = sa.text(f"DELETE FROM platform.lease WHERE (owner_id, entity_id) IN {_GIVEN} RETURNING entity_id")

# What its worker was at is not true of the next one.
_CLEAR_PHASE = sa.text(f"""
    UPDATE platform.job SET phase = NULL WHERE phase IS NOT NULL AND (owner_id, id_) IN {_GIVEN}
    RETURNING id_
    """)

# A worker that lives replaces a heartbeat from before the clock was set back by its next one.
_DEAD = """
    (CAST(:age AS interval) IS NULL OR lease.heartbeat_at < clock_timestamp() - CAST(:age AS interval)
        OR lease.heartbeat_at > clock_timestamp() + CAST(:clock_error AS interval))
    AND (CAST(:node AS text) IS NULL OR lease.holder = :node OR starts_with(lease.holder, :node || '/'))
"""


def _type_of(table: str) -> str:
    return f"{RUN_OF[table]}.type_" if table in RUN_OF else "NULL::text"


@cache
def _left(table: str) -> str:
    """Return the condition that a policy leaves a row alone."""
    return f"""CASE WHEN {_type_of(table)} = ANY (CAST(:typed AS text[]))
        THEN {_type_of(table)} = ANY (CAST(:typed_left AS text[])) ELSE :others_left END"""


def _from_dead(table: str) -> str:
    return f"""
        FROM platform.lease JOIN platform.{table} AS leased
          ON leased.owner_id = lease.owner_id AND leased.id_ = lease.entity_id
             AND leased.status IN ({_alive(table)})
        {JOIN_RUN.get(table, "")}
        WHERE lease.entity = '{table}' AND {_DEAD}
    """


def _alive(table: str) -> str:
    return ", ".join(f"'{status}'" for status in MACHINES[table].alive)


@cache
def _count_left(table: str) -> sa.TextClause:
    return sa.text(f"SELECT count(*) {_from_dead(table)} AND {_left(table)}")


@cache
def _lock_dead(table: str) -> sa.TextClause:
    stopping = {"workflow": is_asked("leased"), "job": f"({is_asked('run')} OR run.status = 'stopped')"}
    # Both rows are skipped where either is locked: a worker that beats, or ends its run, is alive. So no
    # transaction waits for another, in whatever order workers lock the two.
    return sa.text(f"""
        SELECT lease.owner_id, lease.entity_id, lease.holder, lease.heartbeat_at, leased.status,
               {_type_of(table)} AS type_, coalesce({stopping.get(table, "false")}, false) AS stopping
        {_from_dead(table)} AND NOT {_left(table)} {_MAY_RESTART if table == "workflow" else ""}
        ORDER BY lease.owner_id, lease.entity_id
        LIMIT :batch
        FOR NO KEY UPDATE OF lease, leased SKIP LOCKED
        """)


# What has begun to be dead since the owners were locked is left to the next call.
_MAY_RESTART = """AND (leased.status <> 'running' OR CAST(:owners AS uuid[]) IS NULL
    OR lease.owner_id = ANY (CAST(:owners AS uuid[])))"""

_LOCK_OWNERS = sa.text(f"""
    SELECT owner_id, platform.lock_owner(owner_id) FROM (
        SELECT DISTINCT owner_id FROM (
            SELECT lease.owner_id {_from_dead("workflow")} AND NOT {_left("workflow")}
              AND leased.status = 'running'
            ORDER BY lease.owner_id, lease.entity_id
            LIMIT :batch
        ) AS dead ORDER BY owner_id
    ) AS owners
    """)


@cache
def _drop_ended(table: str) -> sa.TextClause:
    """Return the statement that drops the dead leases of what has ended, or is no more."""
    return sa.text(f"""
        DELETE FROM platform.lease WHERE (owner_id, entity_id) IN (
            SELECT lease.owner_id, lease.entity_id FROM platform.lease
            WHERE lease.entity = '{table}' AND {_DEAD} AND NOT EXISTS (
                SELECT FROM platform.{table} AS leased
                WHERE leased.owner_id = lease.owner_id AND leased.id_ = lease.entity_id
                  AND leased.status IN ({_alive(table)})
            )
            ORDER BY lease.owner_id, lease.entity_id
            FOR UPDATE SKIP LOCKED
        )
        RETURNING entity_id
        """)


_IS_ALIVE_JOB = f"status IN ({_alive('job')})"

# Few runs are asked at any time, and an index has no other. A worker that ends its run now is not waited for.
_LOCK_OVERDUE = sa.text(f"""
    SELECT owner_id, id_, stop_requested_at FROM platform.workflow
    WHERE status = 'running' AND stop_requested_at IS NOT NULL AND {is_asked("workflow")}
      AND (stop_requested_at < clock_timestamp() - CAST(:grace AS interval)
           OR stop_requested_at > clock_timestamp() + CAST(:clock_error AS interval))
    ORDER BY stop_requested_at
    LIMIT :batch
    FOR NO KEY UPDATE SKIP LOCKED
    """)

# One probe of an index for each run that has jobs alive, however many it has. The LIMIT ends it early.
_LOCK_LEFT_JOBS = sa.text(f"""
    WITH RECURSIVE working AS (
        (SELECT owner_id, workflow_id FROM platform.job WHERE {_IS_ALIVE_JOB}
         ORDER BY owner_id, workflow_id LIMIT 1)
        UNION ALL
        SELECT next.owner_id, next.workflow_id FROM working CROSS JOIN LATERAL (
            SELECT owner_id, workflow_id FROM platform.job
            WHERE {_IS_ALIVE_JOB} AND (owner_id, workflow_id) > (working.owner_id, working.workflow_id)
            ORDER BY owner_id, workflow_id LIMIT 1
        ) AS next
    ),
    ended AS MATERIALIZED (
        SELECT working.owner_id, working.workflow_id FROM working CROSS JOIN LATERAL (
            SELECT FROM platform.workflow
            WHERE owner_id = working.owner_id AND id_ = working.workflow_id
              AND status NOT IN ({_alive("workflow")})
              AND coalesce(greatest(run_finished_at, run_stopped_at), updated)
                  < clock_timestamp() - CAST(:grace AS interval)
            LIMIT 1
        ) AS run
        LIMIT :batch
    )
    SELECT owner_id, id_, status FROM platform.job
    WHERE (owner_id, workflow_id) IN (SELECT owner_id, workflow_id FROM ended) AND {_IS_ALIVE_JOB}
    ORDER BY owner_id, id_
    LIMIT :batch
    FOR NO KEY UPDATE SKIP LOCKED
    """)
