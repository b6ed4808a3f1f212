"""Recording calls: nodes of the call graph, with arguments and what these came from, and evaluations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from redun.backends.base import TagEntity
from redun.backends.db import db_retry
from redun.hashing import hash_call_node, hash_struct
from redun.tags import CONTEXT_KEY
from redun.task import Task
from redun.utils import utcnow

from platform_db.integrations.redun.part import Part

_METHOD = "record_call_node"


class Calls(Part):
    """The methods about calls."""

    @db_retry
    def record_call_node(
        self,
        task_name: str,
        task_hash: str,
        args_hash: str,
        expr_args: tuple[tuple[Any, ...], dict[str, Any]],
        eval_args: tuple[tuple[Any, ...], dict[str, Any]],
        result_hash: str,
        child_call_hashes: list[str],
        subtree_tasks: Iterable[Task[Any, Any]],
    ) -> str:
        """Record a call that has ended, and return its hash.

        :param expr_args: its arguments before they were evaluated, which tell whose results they are.
        :param child_call_hashes: the calls that it made. Those that were not recorded are left out.
        :param subtree_tasks: the tasks that it used, down to the last call.
        """
        call_hash: str = hash_call_node(task_hash, args_hash, result_hash, child_call_hashes)
        with self.with_session():  # redun's tests let this fail, and see that the call is recorded again.
            self.end_transaction()
        if self.recorder.known(call_hash):
            return call_hash
        node = {
            "call_hash": call_hash,
            "task_name": task_name,
            "task_hash": task_hash,
            "args_hash": args_hash,
            "value_hash": result_hash,
            "timestamp": utcnow(),
        }
        arguments = [
            (position, key, expression, self.put_value(value, None, _METHOD))
            for position, key, expression, value in _arguments(expr_args, eval_args)
        ]
        tasks = [self.put_value(task, None, _METHOD) for task in subtree_tasks]
        put = self.recorder.put
        with self.recorder.together():
            put("call_node", call_hash, node, _METHOD)
            for order, child in enumerate(child_call_hashes):
                edge = {"parent_id": call_hash, "child_id": child, "call_order": order}
                put("call_edge", (call_hash, order, child), edge, _METHOD)
            for argument in arguments:
                self._put_argument(call_hash, *argument)
            for task_hash in tasks:
                used = {"call_hash": call_hash, "task_hash": task_hash}
                put("call_subtree_task", (call_hash, task_hash), used, _METHOD)
        self.recorder.remember(call_hash)
        return call_hash

    def _put_argument(
        self, call_hash: str, position: int | None, key: str | None, expression: Any, value_hash: str
    ) -> None:
        arg_hash = hash_struct(["Argument", call_hash, str(position), str(key), value_hash])
        argument = {
            "arg_hash": arg_hash,
            "call_hash": call_hash,
            "value_hash": value_hash,
            "arg_position": position,
            "arg_key": key,
        }
        self.recorder.put("call_argument", arg_hash, argument, _METHOD)
        for source in set(self._find_arg_upstreams(expression)):
            row = {"arg_hash": arg_hash, "result_call_hash": source}
            self.recorder.put("call_argument_source", (arg_hash, source), row, _METHOD)

    @db_retry
    def record_call_node_context(
        self, call_hash: str, context_hash: str | None, context: dict[str, Any]
    ) -> str:
        """Record the context of a call as a tag, and return the context's hash."""
        if context_hash is None:
            context_hash = self.record_value(context)
        self.record_tags(TagEntity.CallNode, call_hash, [(CONTEXT_KEY, context_hash)])
        return context_hash

    @db_retry
    def set_eval_cache(
        self, eval_hash: str, task_hash: str, args_hash: str, value: Any, value_hash: str | None = None
    ) -> None:
        """Record what a task returned for these arguments, in place of what it returned before."""
        self.end_transaction()
        if not value_hash:
            value_hash = self.put_value(value, None, "set_eval_cache")
        row = {
            "eval_hash": eval_hash,
            "task_hash": task_hash,
            "args_hash": args_hash,
            "value_hash": value_hash,
        }
        self.upcoming.forget(eval_hash)
        self.recorder.put("evaluation", eval_hash, row, "set_eval_cache")
        self.upcoming.expect(value)


def _arguments(
    expr_args: tuple[tuple[Any, ...], dict[str, Any]], eval_args: tuple[tuple[Any, ...], dict[str, Any]]
) -> Iterator[tuple[int | None, str | None, Any, Any]]:
    """Iterate over position, key, expression and value: by position, then by key, then the defaults."""
    (expr_positional, expr_by_key), (positional, by_key) = expr_args, eval_args
    for position, (expression, value) in enumerate(zip(expr_positional, positional, strict=False)):
        yield position, None, expression, value
    for key in sorted(expr_by_key.keys() & by_key.keys()):
        yield None, key, expr_by_key[key], by_key[key]
    for key, value in by_key.items():
        if key not in expr_by_key:
            yield None, key, value, value
