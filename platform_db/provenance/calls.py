"""Recording calls of tasks, and taking their results from the cache."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from types import TracebackType
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import URL

from platform_db import errors
from platform_db.database import create_engine
from platform_db.identifiers import new_id, parse_id
from platform_db.models.identity import UserOrId
from platform_db.provenance import lookups
from platform_db.provenance.arguments import hide_secrets
from platform_db.provenance.misses import Asked, Miss, explain
from platform_db.provenance.recorder import recorder_of
from platform_db.provenance.values import ERRORS, Result, Value, decode_value, encode_value, hash_of

Arguments = Mapping[str, Any] | Sequence[Any]
"""Values by their names, or in their order. A :class:`Result` as one, or within one, tells its source."""

HEARTBEAT = timedelta(seconds=20)
"""From so old a heartbeat on, the end of a call is one: who is busy may not come to send others."""


class Task(NamedTuple):
    """A version of a task.

    :param hash: of its name, and of its version or its code.
    """

    hash: str
    name: str
    namespace: str
    code: str

    @property
    def full_name(self) -> str:
        return f"{self.namespace}.{self.name}" if self.namespace else self.name


@dataclass
class Call:
    """A call that began."""

    id_: str
    task: Task
    execution_id: str
    parent: Call | None
    begun: datetime
    arguments: list[tuple[int | None, str | None, Value | Result]]
    args_hash: str
    children: list[str] = field(default_factory=list)
    tasks: set[str] = field(default_factory=set)

    @property
    def eval_hash(self) -> str:
        """The hash of the task and its arguments."""
        return hash_of("evaluation", self.task.hash, self.args_hash)

    def row(self) -> dict[str, Any]:
        """Return the row of the table ``call_job``."""
        return {
            "id": self.id_,
            "start_time": self.begun,
            "end_time": None,
            "task_hash": self.task.hash,
            "cached": False,
            "call_hash": None,
            "parent_id": None if self.parent is None else self.parent.id_,
            "execution_id": self.execution_id,
        }


class CallStore:
    """Records an owner's calls, and finds the results of those that were made before.

    What is recorded is on the disk within a moment, at the latest when the store is flushed or closed; a
    process that is killed loses that moment. A store is for one thread; those of an owner share a writer.

    :param database: where to connect, or an engine whose connections are to be made the same way.
    :param owner: whose calls these are.
    :param as_tenant: whether to work as the role of tenants, which sees the owner's rows alone.
    """

    def __init__(self, database: URL | str | sa.Engine, owner: UserOrId, *, as_tenant: bool = False) -> None:
        engine = database if isinstance(database, sa.Engine) else create_engine(database)
        self._recorder = recorder_of(engine, owner, as_tenant=as_tenant)
        self.owner_id = self._recorder.owner_id
        self._executions: dict[str, dict[str, Any]] = {}
        self._tasks: set[str] = set()

    def __enter__(self) -> CallStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def record_task(
        self, name: str, code: str = "", *, namespace: str = "", version: str | None = None
    ) -> Task:
        """Record a version of a task. With it, results of calls that used it may come from the cache.

        :param code: what decides its results, such as its source.
        :param version: decides in the place of the code: another code of the same version is the same task.
        """
        hash_ = hash_of("task", namespace, name, code if version is None else None, version)
        task = Task(hash_, name, namespace, code)
        self._tasks.add(hash_)
        if not self._recorder.known(hash_):
            row = {"hash": hash_, "name": name, "namespace": namespace, "source": code}
            self._recorder.put("call_task", hash_, row, "record_task")
            self._recorder.remember(hash_)
        return task

    def record_value(self, value: Any) -> str:
        """Record a value and return its hash.

        :param value: bytes, or anything that JSON has.
        :raises errors.InvalidArgument: it is something else.
        """
        return self._put_value(encode_value(value), "record_value")

    def get_value(self, value_hash: str) -> Any:
        """Return a value that this owner recorded.

        :raises errors.NotFound: the owner has none of this hash.
        """
        row = self._recorder.pending("value", value_hash)
        if row is not None:
            return decode_value(row["format"], row["value"])
        rows = self._recorder.reading.execute(_GET_VALUE, (str(self.owner_id), value_hash))
        if not rows:
            raise errors.NotFound(f"there is no value {value_hash}")
        return decode_value(*rows[0])

    def begin_execution(
        self, arguments: Sequence[str] = (), *, workflow: uuid.UUID | str | None = None
    ) -> str:
        """Begin an execution and return its id; it is recorded with its first call.

        :param arguments: the command line. Passwords of URLs, tokens, and values of options that are named so
            are left out.
        :param workflow: the id of the run that it is part of.
        """
        id_ = str(new_id())
        self._executions[id_] = {
            "id": id_,
            "args": json.dumps(hide_secrets(arguments)),
            "updated_time": None,
            "job_id": None,
            "workflow_id": None if workflow is None else parse_id(workflow, "workflow id"),
        }
        return id_

    def record_heartbeat(self, execution_id: str) -> None:
        """Record that an execution goes on. Its calls are lost where none has begun or ended for long."""
        execution = self._execution(execution_id)
        execution["updated_time"] = _now()
        if execution["job_id"] is not None:
            self._recorder.put("call_execution", execution_id, execution.copy(), "record_heartbeat")

    def begin_call(
        self, task: Task, arguments: Arguments, *, execution: str, parent: Call | None = None
    ) -> Call:
        """Record that a call began.

        :param execution: the id of an execution that this store began.
        :param parent: the call that makes this one.
        :raises errors.InvalidArgument: an argument is neither bytes nor what JSON has.
        :raises errors.NotFound: this store began no such execution.
        """
        pairs: list[tuple[int | None, str | None, Any]]
        if isinstance(arguments, Mapping):
            pairs = [(None, name, arguments[name]) for name in sorted(arguments)]
        else:
            pairs = [(place, None, value) for place, value in enumerate(arguments)]
        given = [
            (place, name, value if isinstance(value, Result) else encode_value(value))
            for place, name, value in pairs
        ]
        args_hash = hash_of("arguments", [f"{place} {name} {_hash(value)}" for place, name, value in given])
        call = Call(str(new_id()), task, execution, parent, _now(), given, args_hash)
        with self._recorder.together():
            row = self._execution(execution)
            if row["job_id"] is None:
                row.update(job_id=call.id_, updated_time=row["updated_time"] or call.begun)
                self._recorder.put("call_execution", execution, row.copy(), "begin_call")
            self._recorder.put("call_job", call.id_, call.row(), "begin_call")
        return call

    def find_cached(self, call: Call) -> Result | None:
        """Return the result of the same call, made before; None where it is to be made.

        That is the same task with the same arguments: in this execution, or in any, if this store has
        recorded all tasks that were used then, down to the last. So new code of a task that it calls makes it
        a miss. A call that failed is made again.
        """
        if self._recorder.pending("evaluation", call.eval_hash) is not None:
            self._recorder.flush()
        hit = lookups.find_cached(
            self._recorder.reading,
            self.owner_id,
            task_hash=call.task.hash,
            args_hash=call.args_hash,
            eval_hash=call.eval_hash,
            execution_id=call.execution_id,
            kinds=("CSE", "ULTIMATE"),
            known_tasks=self._tasks,
        )
        if hit is None or hit.call_hash is None or hit.type in ERRORS:
            return None
        return Result(decode_value(hit.format, hit.value), hit.value_hash, hit.call_hash, is_cached=True)

    def explain_miss(self, call: Call) -> Miss | None:
        """Return why a call has no cached result; None where it has one.

        :raises errors.Unreachable: the server does not answer.
        """
        if self.find_cached(call) is not None:
            return None
        self.flush()
        asked = Asked(
            call.task.hash,
            call.task.name,
            call.task.namespace,
            call.task.code,
            call.args_hash,
            {_name(place, name): _hash(value) for place, name, value in call.arguments},
        )
        return explain(self._recorder.reading, self.owner_id, asked, known_tasks=self._tasks)

    def end_call(self, call: Call, result: Any) -> Result:
        """Record the end of a call, and return its result, which may be an argument of further calls.

        :param result: bytes, anything that JSON has, or a :class:`Result`: what :meth:`find_cached` gave, or
            what another call returned.
        :raises errors.InvalidArgument: it is something else.
        """
        if isinstance(result, Result) and result.is_cached:
            if call.parent is not None:
                call.tasks |= self._find_tasks(result.call_hash)
            self._end(call, result.call_hash, is_cached=True)
            return result
        value = result if isinstance(result, Result) else encode_value(result)
        call_hash = self._record_node(call, value)
        row = {"eval_hash": call.eval_hash, "task_hash": call.task.hash, "args_hash": call.args_hash}
        row["value_hash"] = _hash(value)
        self._recorder.put("evaluation", call.eval_hash, row, "end_call")
        self._end(call, call_hash)
        returned = result.value if isinstance(result, Result) else result
        return Result(returned, _hash(value), call_hash)

    def fail_call(self, call: Call, error: str) -> None:
        """Record that a call failed. It is made again when it is asked for again.

        :param error: the reason, for people.
        """
        self._end(call, self._record_node(call, encode_value(error, is_error=True)))

    def flush(self) -> None:
        """Return when all that was recorded before is on the disk.

        :raises errors.NotRecorded: some of it cannot be stored; the rest is.
        :raises errors.Unreachable: the server does not answer; nothing is lost.
        """
        self._recorder.flush()

    def close(self) -> None:
        """Flush; what is recorded later is written, too.

        :raises errors.PlatformDBError: as :meth:`flush` does.
        """
        self._recorder.close()

    def _record_node(self, call: Call, value: Value | Result) -> str:
        call_hash = hash_of("call", call.task.hash, call.args_hash, _hash(value), sorted(call.children))
        call.tasks.add(call.task.hash)
        if self._recorder.known(call_hash):
            return call_hash
        with self._recorder.together():
            if isinstance(value, Value):
                self._put_value(value, "end_call")
            node = {
                "call_hash": call_hash,
                "task_name": call.task.full_name,
                "task_hash": call.task.hash,
                "args_hash": call.args_hash,
                "value_hash": _hash(value),
                "timestamp": _now(),
            }
            self._recorder.put("call_node", call_hash, node, "end_call")
            for used in sorted(call.tasks):
                row = {"call_hash": call_hash, "task_hash": used}
                self._recorder.put("call_subtree_task", (call_hash, used), row, "end_call")
            for order, child in enumerate(call.children):
                edge = {"parent_id": call_hash, "child_id": child, "call_order": order}
                self._recorder.put("call_edge", (call_hash, order, child), edge, "end_call")
            for place, name, argument in call.arguments:
                self._put_argument(call_hash, place, name, argument)
        self._recorder.remember(call_hash)
        return call_hash

    def _put_argument(
        self, call_hash: str, place: int | None, name: str | None, argument: Value | Result
    ) -> None:
        if isinstance(argument, Value):
            self._put_value(argument, "end_call")
        arg_hash = hash_of("argument", call_hash, _name(place, name), _hash(argument))
        row = {
            "arg_hash": arg_hash,
            "call_hash": call_hash,
            "value_hash": _hash(argument),
            "arg_position": place,
            "arg_key": name,
        }
        self._recorder.put("call_argument", arg_hash, row, "end_call")
        for call in (argument.call_hash,) if isinstance(argument, Result) else argument.sources:
            source = {"arg_hash": arg_hash, "result_call_hash": call}
            self._recorder.put("call_argument_source", tuple(source.values()), source, "end_call")

    def _put_value(self, value: Value, method: str) -> str:
        if not self._recorder.known(value.hash):
            self._recorder.put("value", value.hash, value.row(), method)
            self._recorder.remember(value.hash)
        return value.hash

    def _end(self, call: Call, call_hash: str, *, is_cached: bool = False) -> None:
        row = {**call.row(), "end_time": _now(), "cached": is_cached, "call_hash": call_hash}
        self._recorder.put("call_job", call.id_, row, "end_call")
        if is_silent(self._execution(call.execution_id), row["end_time"]):
            self.record_heartbeat(call.execution_id)
        if call.parent is not None:
            call.parent.children.append(call_hash)
            call.parent.tasks |= call.tasks

    def _execution(self, id_: str) -> dict[str, Any]:
        if id_ not in self._executions:
            raise errors.NotFound(f"this store began no execution {id_}")
        return self._executions[id_]

    def _find_tasks(self, call_hash: str) -> set[str]:
        rows = self._recorder.reading.execute(_FIND_TASKS, (str(self.owner_id), call_hash))
        # Without any, the call was pruned since it was found: of the tasks that it used, all are known.
        return {task for (task,) in rows} or set(self._tasks)


def is_silent(execution: Mapping[str, Any], now: datetime) -> bool:
    """Tell whether the last heartbeat of an execution is so old that another is due."""
    return execution["updated_time"] is None or now - execution["updated_time"] >= HEARTBEAT


def _hash(value: Value | Result) -> str:
    return value.value_hash if isinstance(value, Result) else value.hash


def _name(place: int | None, name: str | None) -> str:
    return str(place) if name is None else name


def _now() -> datetime:
    return datetime.now(timezone.utc)


_GET_VALUE = "SELECT format, value FROM platform.value WHERE owner_id = %s::uuid AND value_hash = %s"

_FIND_TASKS = """
    SELECT task_hash FROM platform.call_subtree_task WHERE owner_id = %s::uuid AND call_hash = %s
"""
