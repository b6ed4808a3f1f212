"""Looking up together what a scheduler asks for next.

A task's result names the calls that are made of it. Those whose arguments are plain can be told before the
scheduler comes to them, so a page of them takes one round trip, where each took one of its own.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any, Literal

from redun.expression import ApplyExpression, Expression, SchedulerExpression, TaskExpression
from redun.scheduler import set_arg_defaults
from redun.task import CacheCheckValid, CacheScope, Task, get_task_registry, hash_args_eval
from redun.utils import iter_nested_value, iter_nested_value_children
from redun.value import get_type_registry

from platform_db.provenance import Recorder, lookups
from platform_db.provenance.lookups import Evaluation

PAGE = 500  # evaluations that are looked up together
CHILDREN = 2000  # of a reduction, which are fetched ahead, at most
LARGEST = 64 * 1024  # bytes of a value that is fetched ahead
MISSING = 2.0  # seconds that one counts as missing which was not there: another process may make the call
# Results whose calls have not all been looked up; of more, the oldest are forgotten.
RESULTS = 1000

# Other arguments may take long to hash, or have another hash later, such as a file that is not written yet.
_PLAIN = (str, bytes, int, float, bool, type(None))
_USUAL = {"check_valid": CacheCheckValid.FULL, "cache_scope": CacheScope.BACKEND}
_LEAVES, _LENGTH = 100, 1000  # of plain arguments: how many values, and how long each


class Upcoming:
    """Evaluations that were looked up before the scheduler asks for them, and those that will be.

    :param recorder: of the owner whose evaluations they are.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._fetching: Future[Collection[Evaluation]] | None = None
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        if self._fetching is not None:
            wait([self._fetching])  # It has the recorder's connection, which may be closed next.
        self._results: deque[Iterator[str]] = deque(maxlen=RESULTS)
        self._found: dict[str, Evaluation] = {}
        self._missing: dict[str, float] = {}
        self._fetching = None

    def expect(self, result: Any) -> None:
        """Say that a task returned this, whose calls the scheduler makes next."""
        if any(isinstance(value, Expression) for value in iter_nested_value(result)):
            self._results.append(_hashes_of(result))

    def fetch(self, task_hash: str, args_hash: str) -> None:
        """Begin to look up the evaluations of the calls that the last call of a task made.

        The scheduler makes jobs of them meanwhile, and asks then.
        """
        self._take_fetched()
        thread = ThreadPoolExecutor(1)  # of its own, which ends then: a pool's would be lost by a fork
        self._fetching = thread.submit(self._fetch, task_hash, args_hash)
        thread.shutdown(wait=False)

    def _fetch(self, task_hash: str, args_hash: str) -> Collection[Evaluation]:
        found = lookups.find_child_evaluations(
            self._recorder.reading,
            self._recorder.owner_id,
            task_hash=task_hash,
            args_hash=args_hash,
            at_most=CHILDREN,
            largest=LARGEST,
        )
        for call_hash in found:
            self._recorder.remember(call_hash)
        return found.values()

    def _take_fetched(self) -> None:
        fetching, self._fetching = self._fetching, None
        if fetching is not None:
            self._add(fetching.result())

    def _add(self, evaluations: Collection[Evaluation]) -> None:
        self._found.update((evaluation.eval_hash, evaluation) for evaluation in evaluations)

    def forget(self, eval_hash: str) -> None:
        """Say that an evaluation is another one from now on."""
        self._take_fetched()
        self._found.pop(eval_hash, None)
        self._missing.pop(eval_hash, None)

    def find(self, eval_hash: str) -> Evaluation | Literal[False] | None:
        """Return an evaluation that was looked up, once; False where it is not there, None where none was."""
        self._take_fetched()
        if eval_hash not in self._found and eval_hash not in self._missing:
            self._look_up(eval_hash)
        if time.monotonic() < self._missing.pop(eval_hash, 0):
            return False
        return self._found.pop(eval_hash, None)

    def _look_up(self, eval_hash: str) -> None:
        """Look up the next page, where there is one, with the evaluation that is asked for."""
        page: list[str] = []
        while self._results and len(page) < PAGE:
            page += islice(self._results[0], PAGE - len(page))
            if len(page) < PAGE:
                self._results.popleft()
        if not page:
            return
        # The database may not have yet what this process has recorded.
        asked = [hash_ for hash_ in (*page, eval_hash) if self._recorder.pending("evaluation", hash_) is None]
        known_until = time.monotonic() + MISSING
        owner_id, reading = self._recorder.owner_id, self._recorder.reading
        stored = lookups.find_stored(reading, owner_id, asked)
        self._missing.update((hash_, known_until) for hash_ in asked if hash_ not in stored)
        if stored and len(self._found) < PAGE:
            self._add(lookups.find_evaluations(reading, owner_id, stored, largest=LARGEST))


def _hashes_of(value: Any) -> Iterator[str]:
    """Iterate over the hashes of the calls in a value that the cache is asked for by plain arguments."""
    for leaf in _iter_in_order(value):
        if not isinstance(leaf, ApplyExpression):
            continue
        task = None
        if isinstance(leaf, TaskExpression) and not isinstance(leaf, SchedulerExpression):
            task = get_task_registry().get(leaf.task_name)
        if task is not None:
            args, kwargs = set_arg_defaults(task, leaf.args, leaf.kwargs)
            if _is_plain((args, kwargs)) and _takes_single_results(task, leaf):
                yield hash_args_eval(get_type_registry(), task, args, kwargs)[0]
                continue
        yield from _hashes_of((leaf.args, leaf.kwargs))


def _iter_in_order(value: Any) -> Iterator[Any]:
    """Iterate over the values in a nested one, first things first, as the scheduler comes to them."""
    for is_leaf, child in iter_nested_value_children(value):
        if is_leaf:
            yield child
        else:
            yield from _iter_in_order(child)


def _takes_single_results(task: Task[Any, Any], call: TaskExpression[Any]) -> bool:
    options = {**task.get_task_options(), **call._options}
    # An option may be an expression, too, which nothing can be compared with.
    return all(options.get(name, usual) is usual for name, usual in _USUAL.items())


def _is_plain(arguments: Any) -> bool:
    leaves = list(islice(iter_nested_value(arguments), _LEAVES + 1))
    return len(leaves) <= _LEAVES and all(
        type(leaf) in _PLAIN and not (isinstance(leaf, (str, bytes)) and len(leaf) > _LENGTH)
        for leaf in leaves
    )
