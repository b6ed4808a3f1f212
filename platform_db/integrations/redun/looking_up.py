"""Looking up what was recorded: the cache, results and the tasks below a call."""

from __future__ import annotations

from typing import Any

from redun.backends.db import db_retry
from redun.expression import TaskExpression
from redun.task import CacheCheckValid, CacheResult, CacheScope
from redun.utils import iter_nested_value

from platform_db.integrations.redun.part import Part
from platform_db.provenance import lookups


class LookingUp(Part):
    """The methods that look up."""

    @db_retry
    def check_cache(
        self,
        task_hash: str,
        args_hash: str,
        eval_hash: str,
        execution_id: str,
        scheduler_task_hashes: set[str],
        cache_scope: CacheScope,
        check_valid: CacheCheckValid,
        context_hash: str | None = None,
        allowed_cache_results: set[CacheResult] | None = None,
    ) -> tuple[Any, str | None, CacheResult]:
        """Return a cached result, its call and which kind of result it is.

        That is the result of the same call in this execution (CSE); else, with a shallow check, of the latest
        call whose tasks are all known (ULTIMATE); else what the task itself returned (SINGLE).
        """
        kinds = _kinds(cache_scope, check_valid, allowed_cache_results)
        if not kinds:
            return None, None, CacheResult.MISS
        self.end_transaction()
        call_hash = self.latest.find(execution_id, task_hash, args_hash, context_hash)
        if call_hash is not None and CacheResult.CSE in kinds:
            result, found = self.get_call_cache(call_hash)
            if found:
                return result, call_hash, CacheResult.CSE
        if CacheResult.ULTIMATE in kinds:
            if call_hash is not None or self.recorder.pending("evaluation", eval_hash) is not None:
                self.recorder.flush()
        elif CacheResult.SINGLE in kinds:
            result, call_hash, found = self._find_in_memory(eval_hash)
            if found:
                return result, call_hash, CacheResult.SINGLE
            if found is None:
                return None, None, CacheResult.MISS
        return self._find_stored(
            task_hash, args_hash, eval_hash, execution_id, context_hash, kinds, scheduler_task_hashes
        )

    def _find_in_memory(self, eval_hash: str) -> tuple[Any, str | None, bool | None]:
        """Return what is not written yet, or was looked up ahead, its call, and whether it is there.

        A call is named where the result is its final one: redun need not record it again. Instead of whether,
        None says that it was looked up, and is not there; False that it was not looked up, or cannot be read.
        """
        evaluation = self.recorder.pending("evaluation", eval_hash)
        if evaluation is not None:
            value, found = self.get_value(evaluation["value_hash"])
            return value, None, found
        ahead = self.upcoming.find(eval_hash)
        if not ahead:
            return None, None, False if ahead is None else None
        self.recorder.remember(ahead.value_hash)
        value, found = self.read_value(ahead.value_hash, ahead.type, ahead.value)
        # What was read long ago may be pruned; redun records it then.
        self._final = ahead.call_hash if self.recorder.known(ahead.call_hash) else None
        return value, self._final, found

    def _find_stored(
        self,
        task_hash: str,
        args_hash: str,
        eval_hash: str,
        execution_id: str,
        context_hash: str | None,
        kinds: list[CacheResult],
        known: set[str],
    ) -> tuple[Any, str | None, CacheResult]:
        while kinds:
            hit = lookups.find_cached(
                self.recorder.reading,
                self.owner_id,
                task_hash=task_hash,
                args_hash=args_hash,
                eval_hash=eval_hash,
                execution_id=execution_id,
                context_hash=context_hash,
                kinds=[kind.name for kind in kinds],
                known_tasks=known if CacheResult.ULTIMATE in kinds else (),
            )
            if hit is None:
                break
            kind = CacheResult[hit.kind]
            result, found = self.read_value(hit.value_hash, hit.type, hit.value)
            if found:
                self.recorder.remember(hit.value_hash)
                if kind is CacheResult.SINGLE:
                    self._fetch_ahead(result, task_hash, args_hash)
                return result, hit.call_hash, kind
            # It cannot be read: perhaps one of the kinds after it can.
            kinds = kinds[kinds.index(kind) + 1 :]
        return None, None, CacheResult.MISS

    def _fetch_ahead(self, result: Any, task_hash: str, args_hash: str) -> None:
        """Fetch the evaluations of the calls that the last call made, which the scheduler asks for next."""
        if not any(isinstance(value, TaskExpression) for value in iter_nested_value(result)):
            return
        self.upcoming.fetch(task_hash, args_hash)

    @db_retry
    def get_call_cache(self, call_hash: str) -> tuple[Any, bool]:
        """Return the final result of a call, and whether there is one that can be read."""
        node = self.recorder.pending("call_node", call_hash)
        if node is not None:
            pending: tuple[Any, bool] = self.get_value(node["value_hash"])
            return pending
        for found in self.recorder.reading.execute(_FIND_RESULT, (str(self.owner_id), call_hash)):
            result: tuple[Any, bool] = self.read_value(*found)
            return result
        return None, False

    @db_retry
    def get_subtree_tasks(self, call_hash: str) -> set[str]:
        """Return the hashes of the tasks that a call used, down to the last one."""
        if self.recorder.pending("call_node", call_hash) is not None:
            self.recorder.flush()
        found = self.recorder.reading.execute(_FIND_SUBTREE_TASKS, (str(self.owner_id), call_hash))
        return {task_hash for (task_hash,) in found}


def _kinds(
    scope: CacheScope, check_valid: CacheCheckValid, allowed: set[CacheResult] | None
) -> list[CacheResult]:
    """Return which kinds of results may be used, the best first."""
    if scope == CacheScope.NONE:
        return []
    kinds = [CacheResult.CSE]
    if scope == CacheScope.BACKEND:
        if check_valid == CacheCheckValid.SHALLOW:
            kinds.append(CacheResult.ULTIMATE)
        kinds.append(CacheResult.SINGLE)
    return [kind for kind in kinds if allowed is None or kind in allowed]


_FIND_RESULT = """
    SELECT value.value_hash, value.type, value.value
    FROM platform.call_node AS node
    JOIN platform.value ON value.owner_id = node.owner_id AND value.value_hash = node.value_hash
    WHERE node.owner_id = %s::uuid AND node.call_hash = %s
"""

_FIND_SUBTREE_TASKS = """
    SELECT task_hash FROM platform.call_subtree_task WHERE owner_id = %s::uuid AND call_hash = %s
"""
