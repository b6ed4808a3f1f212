"""Why a call has no cached result."""

from __future__ import annotations

import enum
import uuid
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.database.session import takes_session
from platform_db.models.identity import UserOrId, user_id_of
from platform_db.provenance.lookups import Connection, execute


class Reason(str, enum.Enum):
    """Why there is no cached result, and what that means."""

    new_task = "no version of the task was called before"
    new_code = "the task's code is new"
    new_version = "the task's version is new, its code is not"
    new_arguments = "the task was called before, with other arguments"
    new_code_and_arguments = "the task was called before, with other code and with other arguments"
    new_code_below = "a task that it called then has new code"
    pruned = "calls of this task were pruned, and this one is not among those that are left"
    not_used = "there is a result: the cache was not asked, or the result was not valid any more"


class ChangedArgument(NamedTuple):
    """An argument that differs from that of the earlier call.

    :param name: its name, or its position from 0 on.
    :param before: the hash of its value then; None where it was not given.
    :param now: the hash of its value now.
    """

    name: str
    before: str | None
    now: str | None


class Miss(NamedTuple):
    """Why a call has no cached result.

    :param call_hash: the latest call that is closest to it; None for a new task.
    :param task_hash: the version of the task that was called then.
    :param arguments: those that changed.
    :param tasks: the names of the tasks below it that have new code.
    """

    reason: Reason
    call_hash: str | None = None
    task_hash: str | None = None
    arguments: tuple[ChangedArgument, ...] = ()
    tasks: tuple[str, ...] = ()


class Asked(NamedTuple):
    """A call that was looked for.

    :param arguments: the hashes of its arguments' values, by name or position.
    """

    task_hash: str
    name: str
    namespace: str
    code: str
    args_hash: str
    arguments: Mapping[str, str]


@takes_session
def explain_miss(session: Session, owner: UserOrId, job_id: str) -> Miss:
    """Return why an owner's job ran instead of taking a result from the cache.

    :raises errors.NotFound: the owner has no such job.
    :raises errors.Refused: the job has not ended, was lost, or took its result from the cache.
    """
    owner_id = user_id_of(owner)
    session.flush()
    connection = session.connection()
    rows = execute(connection, _JOB, (str(owner_id), job_id))
    if not rows:
        raise errors.NotFound(f"there is no job {job_id} of a call")
    is_cached, started, call_hash, task_hash, name, namespace, code, args_hash = rows[0]
    if call_hash is None:
        raise errors.Refused(f"job {job_id} has not ended with a call, so its arguments are not known")
    if is_cached:
        raise errors.Refused(f"job {job_id} took its result from the cache, of call {call_hash}")
    arguments = _arguments(connection, owner_id, call_hash)
    asked = Asked(task_hash, name, namespace, code, args_hash, arguments)
    return explain(connection, owner_id, asked, before=started)


def explain(
    connection: Connection,
    owner_id: uuid.UUID,
    asked: Asked,
    *,
    known_tasks: Collection[str] | None = None,
    before: datetime | None = None,
) -> Miss:
    """Return why a call has no cached result.

    :param known_tasks: the versions of tasks that may have been used; None where they are not known.
    :param before: only what was called before this time counts.
    """
    owner, time = str(owner_id), before or "infinity"
    same = execute(connection, _SAME, (owner, asked.task_hash, asked.args_hash, time))
    if same:
        call_hash = same[0][0]
        used = execute(connection, _USED, (owner, call_hash))
        changed = [name for hash_, name in used if known_tasks is not None and hash_ not in known_tasks]
        if changed:
            return Miss(Reason.new_code_below, call_hash, asked.task_hash, tasks=tuple(changed))
        return Miss(Reason.not_used, call_hash, asked.task_hash)
    key = (owner, asked.name, asked.namespace)
    if execute(connection, _PRUNED, (owner, asked.task_hash, time)):
        return Miss(Reason.pruned, task_hash=asked.task_hash)
    other = execute(connection, _OTHER_CODE, (*key, asked.args_hash, time))
    if other:
        call_hash, task_hash, code = other[0]
        same_code = code == asked.code
        return Miss(Reason.new_version if same_code else Reason.new_code, call_hash, task_hash)
    other = execute(connection, _OTHER_ARGUMENTS, (*key, asked.task_hash, time))
    if not other:
        return Miss(Reason.new_task)
    call_hash, task_hash = other[0]
    then = _arguments(connection, owner_id, call_hash)
    names = sorted(then.keys() | asked.arguments.keys())
    arguments = tuple(
        ChangedArgument(name, then.get(name), asked.arguments.get(name))
        for name in names
        if then.get(name) != asked.arguments.get(name)
    )
    reason = Reason.new_arguments if task_hash == asked.task_hash else Reason.new_code_and_arguments
    return Miss(reason, call_hash, task_hash, arguments)


def _arguments(connection: Any, owner_id: uuid.UUID, call_hash: str) -> dict[str, str]:
    return dict(execute(connection, _ARGUMENTS, (str(owner_id), call_hash)))  # type: ignore[arg-type]


_JOB = """
    SELECT job.cached, job.start_time, job.call_hash, job.task_hash, task.name, task.namespace, task.source,
           node.args_hash
    FROM platform.call_job AS job
    JOIN platform.call_task AS task ON task.owner_id = job.owner_id AND task.hash = job.task_hash
    LEFT JOIN platform.call_node AS node ON node.owner_id = job.owner_id AND node.call_hash = job.call_hash
    WHERE job.owner_id = %s::uuid AND job.id = %s
"""

_ARGUMENTS = """
    SELECT coalesce(arg_key, arg_position::text), value_hash FROM platform.call_argument
    WHERE owner_id = %s::uuid AND call_hash = %s
"""

_SAME = """
    SELECT node.call_hash FROM platform.call_node AS node
    WHERE node.owner_id = %s::uuid AND node.task_hash = %s AND node.args_hash = %s
        AND node.timestamp < %s::timestamptz
    ORDER BY node.timestamp DESC LIMIT 1
"""

# No call of this version is left that could tell what changed.
_PRUNED = """
    SELECT 1 FROM platform.call_task AS task
    WHERE task.owner_id = %s::uuid AND task.hash = %s AND task.calls_pruned_at IS NOT NULL AND NOT EXISTS (
        SELECT FROM platform.call_node AS node
        WHERE node.owner_id = task.owner_id AND node.task_hash = task.hash
            AND node.timestamp < %s::timestamptz)
"""

_USED = """
    SELECT used.task_hash, coalesce(
        (SELECT concat_ws('.', nullif(task.namespace, ''), task.name) FROM platform.call_task AS task
         WHERE task.owner_id = used.owner_id AND task.hash = used.task_hash), used.task_hash)
    FROM platform.call_subtree_task AS used
    WHERE used.owner_id = %s::uuid AND used.call_hash = %s
    ORDER BY 2
"""

# One version of the task after another, so that each step goes by an index.
_OTHER_CODE = """
    WITH asked AS (
        SELECT %s::uuid AS owner, %s AS name, %s AS namespace, %s AS args, %s::timestamptz AS before
    )
    SELECT latest.call_hash, task.hash, task.source
    FROM asked
    JOIN platform.call_task AS task
        ON task.owner_id = asked.owner AND task.name = asked.name AND task.namespace = asked.namespace
    CROSS JOIN LATERAL (
        SELECT node.call_hash, node.timestamp FROM platform.call_node AS node
        WHERE node.owner_id = task.owner_id AND node.task_hash = task.hash AND node.args_hash = asked.args
            AND node.timestamp < asked.before
        ORDER BY node.timestamp DESC LIMIT 1
    ) AS latest
    ORDER BY latest.timestamp DESC LIMIT 1
"""

_OTHER_ARGUMENTS = """
    WITH asked AS (
        SELECT %s::uuid AS owner, %s AS name, %s AS namespace, %s AS hash, %s::timestamptz AS before
    )
    SELECT latest.call_hash, task.hash
    FROM asked
    JOIN platform.call_task AS task
        ON task.owner_id = asked.owner AND task.name = asked.name AND task.namespace = asked.namespace
    CROSS JOIN LATERAL (
        SELECT node.call_hash, node.timestamp FROM platform.call_node AS node
        WHERE node.owner_id = task.owner_id AND node.task_hash = task.hash AND node.timestamp < asked.before
        ORDER BY node.timestamp DESC LIMIT 1
    ) AS latest
    ORDER BY task.hash = asked.hash DESC, latest.timestamp DESC LIMIT 1
"""
