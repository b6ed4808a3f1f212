"""The tables of provenance as they are written: columns, keys, and what a second row of a key does."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Table(NamedTuple):
    """A table.

    :param types: the type of each column that is written, beside the owner.
    :param key: the columns of its primary key, beside the owner.
    :param conflict: what happens where the row is there already.
    :param condition: which rows are written, of ``u``, where ``o`` has the owner.
    :param instead: what is written instead of a column's own value.
    :param is_sorted: whether a batch writes it in the order of its keys, so that two batches wait for each
        other in one direction only. The others keep the order of recording: where they meet, they have met in
        a sorted table before.
    :param whole: the table of which a row is a part, and the column that names it there. A row is stored with
        all its parts, or not at all.
    """

    types: dict[str, str]
    key: tuple[str, ...]
    conflict: str = "DO NOTHING"
    condition: str = ""
    instead: Mapping[str, str] = MappingProxyType({})
    is_sorted: bool = False
    whole: tuple[str, str] | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.types)


def _texts(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, "text")


# Scalar queries: each is asked of these rows alone, whatever the planner knows of the table.
_NODE = """(SELECT node.call_hash FROM platform.call_node AS node
    WHERE node.owner_id = o.owner_id AND node.call_hash = u.{} LIMIT 1)"""

_NO_EDGE = """(SELECT true FROM platform.call_edge AS edge
    WHERE edge.owner_id = o.owner_id AND edge.parent_id = u.parent_id AND edge.call_order = u.call_order
    LIMIT 1) IS NULL"""

# In the order in which they are written: what a row refers to is there before.
TABLES: dict[str, Table] = {
    "value": Table(
        {**_texts("value_hash", "type", "format"), "value": "bytea", "size": "bigint"},
        ("value_hash",),
        is_sorted=True,
    ),
    "value_file": Table(_texts("value_hash", "path"), ("value_hash",), whole=("value", "value_hash")),
    "call_task": Table(_texts("hash", "name", "namespace", "source"), ("hash",), whole=("value", "hash")),
    "subvalue": Table(
        _texts("value_hash", "parent_value_hash"),
        ("parent_value_hash", "value_hash"),
        whole=("value", "parent_value_hash"),
    ),
    "evaluation": Table(
        _texts("eval_hash", "task_hash", "args_hash", "value_hash"),
        ("eval_hash",),
        """DO UPDATE SET value_hash = excluded.value_hash
            WHERE evaluation.value_hash <> excluded.value_hash""",
        is_sorted=True,
    ),
    "call_node": Table(
        {
            **_texts("call_hash", "task_name", "task_hash", "args_hash", "value_hash"),
            "timestamp": "timestamptz",
        },
        ("call_hash",),
        is_sorted=True,
    ),
    "call_subtree_task": Table(
        _texts("call_hash", "task_hash"), ("call_hash", "task_hash"), whole=("call_node", "call_hash")
    ),
    "call_argument": Table(
        {
            **_texts("arg_hash", "call_hash", "value_hash"),
            "arg_position": "integer",
            "arg_key": "text",
        },
        ("arg_hash",),
        whole=("call_node", "call_hash"),
    ),
    # Calls that were never recorded, or are pruned, are left out, as sources, as children and of jobs.
    "call_argument_source": Table(
        _texts("arg_hash", "result_call_hash"),
        ("arg_hash", "result_call_hash"),
        condition=f"WHERE {_NODE.format('result_call_hash')} IS NOT NULL",
        whole=("call_argument", "arg_hash"),
    ),
    "call_edge": Table(
        {**_texts("parent_id", "child_id"), "call_order": "integer"},
        ("parent_id", "call_order", "child_id"),
        # The same calls in another order, as another program made them, are not further ones.
        condition=f"WHERE {_NODE.format('child_id')} IS NOT NULL AND {_NO_EDGE}",
        whole=("call_node", "parent_id"),
    ),
    "call_execution": Table(
        {**_texts("id", "args"), "updated_time": "timestamptz", "job_id": "text", "workflow_id": "uuid"},
        ("id",),
        """DO UPDATE SET updated_time = greatest(call_execution.updated_time, excluded.updated_time),
                job_id = coalesce(call_execution.job_id, excluded.job_id)
            WHERE call_execution.updated_time IS DISTINCT FROM
                    greatest(call_execution.updated_time, excluded.updated_time)
                OR call_execution.job_id IS NULL AND excluded.job_id IS NOT NULL""",
    ),
    "call_job": Table(
        {
            "id": "text",
            "start_time": "timestamptz",
            "end_time": "timestamptz",
            "task_hash": "text",
            "cached": "boolean",
            **_texts("call_hash", "parent_id", "execution_id"),
        },
        ("id",),
        # A job ends with a call once; a batch whose commit was not answered is written again.
        """DO UPDATE
            SET end_time = excluded.end_time, cached = excluded.cached, call_hash = excluded.call_hash
            WHERE (call_job.end_time IS NULL OR call_job.call_hash IS NULL)
                AND excluded.end_time IS NOT NULL""",
        instead={"call_hash": _NODE.format("call_hash")},
    ),
    "entity_tag": Table(
        {
            **_texts("tag_hash", "entity_type", "entity_id", "key"),
            "value": "jsonb",
            "is_current": "boolean",
        },
        ("tag_hash",),
        is_sorted=True,
    ),
    "entity_tag_edit": Table(
        _texts("parent_id", "child_id"), ("parent_id", "child_id"), whole=("entity_tag", "child_id")
    ),
    "handle": Table(
        {**_texts("hash", "fullname", "value_hash", "key"), "is_valid": "boolean"},
        ("hash",),
        "DO UPDATE SET is_valid = true WHERE NOT handle.is_valid AND excluded.is_valid",
        is_sorted=True,
    ),
    "handle_edge": Table(
        _texts("parent_id", "child_id"), ("parent_id", "child_id"), whole=("handle", "child_id")
    ),
}
