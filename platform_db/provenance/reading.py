"""Reading what was recorded: executions, and whatever has an id or a hash."""

from __future__ import annotations

import base64
import json
import uuid
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy.orm import Session

from platform_db import cursors, errors
from platform_db.bounds import require_limit
from platform_db.cursors import Page
from platform_db.database.session import takes_session
from platform_db.models.identity import UserOrId, user_id_of
from platform_db.provenance.arguments import read_arguments
from platform_db.provenance.lookups import execute
from platform_db.provenance.values import ERRORS


class Execution(NamedTuple):
    """An execution, by its first job.

    :param status: ``running``, ``finished``, ``cached``, ``failed``, or ``lost`` where it ended without a
        result, as that of a killed program does.
    :param arguments: the command line, without what is secret in it.
    :param workflow_id: the run that it is part of.
    """

    id: str
    task_name: str
    status: str
    started: datetime
    ended: datetime | None
    arguments: list[str]
    workflow_id: uuid.UUID | None


@takes_session
def list_executions(
    session: Session, owner: UserOrId, *, limit: int = 100, cursor: str | None = None
) -> Page[Execution]:
    """Return a page of an owner's executions, the last one first.

    :param cursor: where the page before ended.
    :raises errors.InvalidIdentifier: this list gave no such cursor.
    """
    require_limit(limit)
    session.flush()
    owner_id = str(user_id_of(owner))
    query = ("executions", owner_id)
    place: tuple[Any, ...] = ("infinity", "")
    if cursor is not None:
        place = tuple(cursors.decode(query, cursor, cursors.stored_time, cursors.text))
    rows = execute(session.connection(), _LIST, (owner_id, *place, limit + 1))
    found = [
        Execution(id_, task, status, started, ended, read_arguments(args), workflow_id)
        for id_, task, status, started, ended, args, workflow_id in rows
    ]
    after = None
    if len(found) > limit:
        last = found[limit - 1]
        after = cursors.encode(query, (last.started.isoformat(), last.id))
    return Page(found[:limit], after)


@takes_session
def find_entity(session: Session, owner: UserOrId, id_: str) -> tuple[str, str]:
    """Return the kind and the whole id of what has this id or hash, or the beginning of it.

    The kinds are ``execution``, ``job``, ``call``, ``task`` and ``value``. Something that is both a task and
    a value, as redun's tasks are, is a task.

    :raises errors.NotFound: the owner has nothing of this id.
    :raises errors.AmbiguousIdentifier: several ids begin so.
    """
    session.flush()
    found: dict[str, str] = {}
    for kind, (table, column) in _KINDS.items():
        statement = (
            f"SELECT {column} FROM platform.{table} WHERE owner_id = %s::uuid"
            f" AND {column} >= %s AND {column} < %s ORDER BY 1 LIMIT 2"
        )
        values = (str(user_id_of(owner)), id_, f"{id_}\U0010ffff")
        for (whole,) in execute(session.connection(), statement, values):
            found.setdefault(whole, kind)
    if id_ in found:
        return found[id_], id_
    if not found:
        raise errors.NotFound(f"there is no execution, job, call, task or value {id_}")
    if len(found) > 1:
        raise errors.AmbiguousIdentifier(f"several ids begin with {id_}")
    ((whole, kind),) = found.items()
    return kind, whole


@takes_session
def describe(session: Session, owner: UserOrId, id_: str) -> dict[str, Any]:
    """Return what was recorded of an execution, a job, a call, a task or a value.

    :param id_: its id or hash, or the beginning of it.
    :raises errors.NotFound: the owner has nothing of this id.
    :raises errors.AmbiguousIdentifier: several ids begin so.
    """
    kind, whole = find_entity(session, owner, id_)
    ((facts,),) = execute(
        session.connection(), _DESCRIBE[kind], {"owner": str(user_id_of(owner)), "id": whole}
    )
    if kind == "execution":
        facts["arguments"] = read_arguments(facts["arguments"])
    if kind == "value":
        facts["json"] = _read_json(facts["json"])
    return {"kind": kind, "id": whole, **facts}


def _read_json(content: str | None) -> Any:
    try:
        return None if content is None else json.loads(base64.b64decode(content))
    except (ValueError, RecursionError):  # of another program's
        return None


_KINDS = {
    "execution": ("call_execution", "id"),
    "job": ("call_job", "id"),
    "call": ("call_node", "call_hash"),
    "task": ("call_task", "hash"),
    "value": ("value", "value_hash"),
}

_ERRORS = ", ".join(f"'{name}'" for name in ERRORS)

_JOB_STATUS = f"""
    CASE WHEN job.end_time IS NULL THEN 'running'
         WHEN job.call_hash IS NULL THEN 'lost'
         WHEN (SELECT result.type FROM platform.value AS result
               WHERE result.owner_id = job.owner_id AND result.value_hash = (
                   SELECT node.value_hash FROM platform.call_node AS node
                   WHERE node.owner_id = job.owner_id AND node.call_hash = job.call_hash))
              IN ({_ERRORS}) THEN 'failed'
         WHEN job.cached THEN 'cached'
         ELSE 'finished' END
"""

_TASK_NAME = """
    (SELECT concat_ws('.', nullif(task.namespace, ''), task.name) FROM platform.call_task AS task
     WHERE task.owner_id = {0}.owner_id AND task.hash = {0}.task_hash)
"""

# First jobs have no parent, which an index knows.
_LIST = f"""
    SELECT execution.id, {_TASK_NAME.format("job")}, {_JOB_STATUS}, job.start_time, job.end_time,
           execution.args, execution.workflow_id
    FROM platform.call_job AS job
    CROSS JOIN LATERAL (
        SELECT found.id, found.args, found.workflow_id FROM platform.call_execution AS found
        WHERE found.owner_id = job.owner_id AND found.id = job.execution_id AND found.job_id = job.id LIMIT 1
    ) AS execution
    WHERE job.owner_id = %s::uuid AND job.parent_id IS NULL
        AND (job.start_time, job.execution_id) < (%s::timestamptz, %s)
    ORDER BY job.start_time DESC, job.execution_id DESC LIMIT %s
"""

_DESCRIBE = {
    "execution": f"""
        SELECT json_build_object(
            'arguments', execution.args, 'workflow_id', execution.workflow_id,
            'heartbeat', execution.updated_time, 'first_job', execution.job_id,
            'jobs', (SELECT json_object_agg(status, number) FROM (
                SELECT {_JOB_STATUS} AS status, count(*) AS number FROM platform.call_job AS job
                WHERE job.owner_id = execution.owner_id AND job.execution_id = execution.id GROUP BY 1
            ) AS counted))
        FROM platform.call_execution AS execution
        WHERE execution.owner_id = %(owner)s::uuid AND execution.id = %(id)s
    """,
    "job": f"""
        SELECT json_build_object(
            'task', {_TASK_NAME.format("job")}, 'task_hash', job.task_hash, 'status', {_JOB_STATUS},
            'started', job.start_time, 'ended', job.end_time, 'call', job.call_hash,
            'execution', job.execution_id, 'parent', job.parent_id,
            'children', (SELECT count(*) FROM platform.call_job AS child
                         WHERE child.owner_id = job.owner_id AND child.parent_id = job.id))
        FROM platform.call_job AS job WHERE job.owner_id = %(owner)s::uuid AND job.id = %(id)s
    """,
    "call": """
        SELECT json_build_object(
            'task', node.task_name, 'task_hash', node.task_hash, 'recorded', node.timestamp,
            'result', node.value_hash,
            'arguments', (
                SELECT json_object_agg(coalesce(arg_key, arg_position::text), value_hash)
                FROM platform.call_argument AS argument
                WHERE argument.owner_id = node.owner_id AND argument.call_hash = node.call_hash),
            'calls', ARRAY(
                SELECT edge.child_id FROM platform.call_edge AS edge
                WHERE edge.owner_id = node.owner_id AND edge.parent_id = node.call_hash
                ORDER BY edge.call_order LIMIT 100))
        FROM platform.call_node AS node WHERE node.owner_id = %(owner)s::uuid AND node.call_hash = %(id)s
    """,
    "task": """
        SELECT json_build_object(
            'name', task.name, 'namespace', task.namespace, 'code', task.source,
            'calls', (SELECT count(*) FROM platform.call_node AS node
                      WHERE node.owner_id = task.owner_id AND node.task_hash = task.hash))
        FROM platform.call_task AS task WHERE task.owner_id = %(owner)s::uuid AND task.hash = %(id)s
    """,
    "value": """
        SELECT json_build_object(
            'type', value.type, 'format', value.format, 'size', value.size,
            'path', (SELECT file.path FROM platform.value_file AS file
                     WHERE file.owner_id = value.owner_id AND file.value_hash = value.value_hash),
            'json', CASE WHEN value.format = 'application/json' AND octet_length(value.value) <= 10000
                         THEN encode(value.value, 'base64') END)
        FROM platform.value WHERE value.owner_id = %(owner)s::uuid AND value.value_hash = %(id)s
    """,
}
