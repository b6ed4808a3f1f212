"""The calls that have ended last in this process: the database may not have them yet."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

_Key = tuple[str, str, str, str | None]

# More than can wait to be written: what is forgotten is in the database.
LIMIT = 100_000


class LatestCalls:
    """The last call of each task and arguments in each execution, by context and whatever its context."""

    def __init__(self) -> None:
        self._calls: OrderedDict[_Key, str] = OrderedDict()

    def add(self, job: Any) -> None:
        """Remember the call of a job that has ended."""
        for context in {None, job.context_hash}:
            key = (job.execution.id, job.task.hash, job.args_hash, context)
            self._calls[key] = job.call_hash
            self._calls.move_to_end(key)
        while len(self._calls) > LIMIT:
            self._calls.popitem(last=False)

    def find(self, execution_id: str, task_hash: str, args_hash: str, context: str | None) -> str | None:
        """Return the hash of the call."""
        return self._calls.get((execution_id, task_hash, args_hash, context))
