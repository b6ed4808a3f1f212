"""redun's tables and ours, in the order of their references."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

OPTIONAL = " or null"


@dataclass(frozen=True)
class Table:
    """A table of redun's, and the one that its rows move to.

    :param columns: the type of each column: text, time, flag, number, json or bytes, each perhaps with
        " or null". They have the same names on both sides.
    :param references: the table of redun's whose key each of these columns holds.
    :param later: of a column that changes after the row is written, what a later pass makes of the stored
        row. It is a condition on ``stored`` and ``excluded`` under which the source's values are taken.
    """

    name: str
    target: str
    key: tuple[str, ...]
    columns: dict[str, str]
    references: dict[str, str] = field(default_factory=dict)
    changing: tuple[str, ...] = ()
    later: str = ""
    sorted_by_key: bool = False

    @cached_property
    def fixed(self) -> list[str]:
        """The columns that never change."""
        return [column for column in self.columns if column not in self.changing]


def _text(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, "text")


VALUE = Table(
    "value",
    "value",
    ("value_hash",),
    {**_text("value_hash", "type", "format"), "value": "bytes"},
    sorted_by_key=True,
)
FILE = Table("file", "value_file", ("value_hash",), _text("value_hash", "path"), {"value_hash": "value"})
TASK = Table("task", "call_task", ("hash",), _text("hash", "name", "namespace", "source"))
SUBVALUE = Table(
    "subvalue",
    "subvalue",
    ("parent_value_hash", "value_hash"),
    _text("value_hash", "parent_value_hash"),
    {"value_hash": "value", "parent_value_hash": "value"},
)
CALL_NODE = Table(
    "call_node",
    "call_node",
    ("call_hash",),
    {**_text("call_hash", "task_name", "task_hash", "args_hash", "value_hash"), "timestamp": "time"},
    {"task_hash": "task", "value_hash": "value"},
    sorted_by_key=True,
)
CALL_SUBTREE_TASK = Table(
    "call_subtree_task",
    "call_subtree_task",
    ("call_hash", "task_hash"),
    _text("call_hash", "task_hash"),
    {"call_hash": "call_node", "task_hash": "task"},
)
ARGUMENT = Table(
    "argument",
    "call_argument",
    ("arg_hash",),
    {
        **_text("arg_hash", "call_hash", "value_hash"),
        "arg_position": "number" + OPTIONAL,
        "arg_key": "text" + OPTIONAL,
    },
    {"call_hash": "call_node", "value_hash": "value"},
)
ARGUMENT_RESULT = Table(
    "argument_result",
    "call_argument_source",
    ("arg_hash", "result_call_hash"),
    _text("arg_hash", "result_call_hash"),
    {"arg_hash": "argument", "result_call_hash": "call_node"},
)
CALL_EDGE = Table(
    "call_edge",
    "call_edge",
    ("parent_id", "call_order", "child_id"),
    {**_text("parent_id", "child_id"), "call_order": "number"},
    {"parent_id": "call_node", "child_id": "call_node"},
)

_NEWEST_CALL = """coalesce((SELECT max(node.timestamp) FROM platform.call_node AS node
    WHERE node.owner_id = stored.owner_id AND node.task_hash = stored.task_hash
    AND node.args_hash = stored.args_hash AND node.value_hash = {row}.value_hash), '-infinity')"""
EVALUATION = Table(
    "evaluation",
    "evaluation",
    ("eval_hash",),
    _text("eval_hash", "task_hash", "args_hash", "value_hash"),
    {"task_hash": "task", "value_hash": "value"},
    changing=("value_hash",),
    later=f"{_NEWEST_CALL.format(row='excluded')} >= {_NEWEST_CALL.format(row='stored')}",
    sorted_by_key=True,
)
EXECUTION = Table(
    "execution",
    "call_execution",
    ("id",),
    {**_text("id", "args"), "updated_time": "time" + OPTIONAL, "job_id": "text"},
    {"job_id": "job"},
    changing=("updated_time",),
    later="excluded.updated_time > coalesce(stored.updated_time, '-infinity')",
)
JOB = Table(
    "job",
    "call_job",
    ("id",),
    {
        "id": "text",
        "start_time": "time",
        "end_time": "time" + OPTIONAL,
        "task_hash": "text",
        "cached": "flag",
        "call_hash": "text" + OPTIONAL,
        "parent_id": "text" + OPTIONAL,
        "execution_id": "text",
    },
    {"task_hash": "task", "call_hash": "call_node", "parent_id": "job", "execution_id": "execution"},
    changing=("end_time", "cached", "call_hash"),
    # An end without a call is that of a job that was taken for lost.
    later="""(stored.end_time IS NULL AND excluded.end_time IS NOT NULL)
        OR (stored.call_hash IS NULL AND excluded.call_hash IS NOT NULL)""",
)
TAG = Table(
    "tag",
    "entity_tag",
    ("tag_hash",),
    {**_text("tag_hash", "entity_type", "entity_id", "key"), "value": "json", "is_current": "flag"},
    changing=("is_current",),
    later="stored.is_current AND NOT excluded.is_current",
    sorted_by_key=True,
)
TAG_EDIT = Table(
    "tag_edit",
    "entity_tag_edit",
    ("parent_id", "child_id"),
    _text("parent_id", "child_id"),
    {"parent_id": "tag", "child_id": "tag"},
)
HANDLE = Table(
    "handle",
    "handle",
    ("hash",),
    {**_text("hash", "fullname", "value_hash", "key"), "is_valid": "flag"},
    {"value_hash": "value"},
    changing=("is_valid",),
    # What is not valid on one side is computed again, which is never wrong.
    later="stored.is_valid AND NOT excluded.is_valid",
    sorted_by_key=True,
)
HANDLE_EDGE = Table(
    "handle_edge",
    "handle_edge",
    ("parent_id", "child_id"),
    _text("parent_id", "child_id"),
    {"parent_id": "handle", "child_id": "handle"},
)

# An evaluation is compared by its calls, so these go before it. Executions and jobs refer to each other, and
# move together.
ALONE_BEFORE = (
    FILE,
    TASK,
    SUBVALUE,
    CALL_NODE,
    CALL_SUBTREE_TASK,
    ARGUMENT,
    ARGUMENT_RESULT,
    CALL_EDGE,
    EVALUATION,
)
ALONE_AFTER = (TAG, TAG_EDIT, HANDLE, HANDLE_EDGE)
TABLES = (VALUE, *ALONE_BEFORE, EXECUTION, JOB, *ALONE_AFTER)
BY_NAME = {table.name: table for table in TABLES}
