"""The calls that have ended last in this process: the database may not have them yet."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

# Of an execution, more than can wait to be written: what is forgotten is in the database.
LIMIT = 100_000


class LatestCalls:
    """The last call of each task and arguments in each execution, by context and whatever its context."""

    def __init__(self) -> None:
        self._executions: dict[str, OrderedDict[str, str]] = {}

    def add(self, job: Any) -> None:
        """Remember the call of a job that has ended."""
        calls = self._executions.setdefault(job.execution.id, OrderedDict())
        for context in {None, job.context_hash}:
            key = _key(job.task.hash, job.args_hash, context)
            calls[key] = job.call_hash
            calls.move_to_end(key)
        while len(calls) > LIMIT:
            calls.popitem(last=False)

    def find(self, execution_id: str, task_hash: str, args_hash: str, context: str | None) -> str | None:
        """Return the hash of the call."""
        calls = self._executions.get(execution_id)
        return None if calls is None else calls.get(_key(task_hash, args_hash, context))

    def forget(self, execution_id: str) -> None:
        """Say that all calls of an execution are in the database."""
        self._executions.pop(execution_id, None)


def _key(task_hash: str, args_hash: str, context: str | None) -> str:
    return f"{task_hash} {args_hash} {context}"
