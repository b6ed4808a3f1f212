"""Push, pull, import and export: records of another backend, with what redun's own ones leave out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import sqlalchemy as sa
from redun.backends import db
from redun.backends.db import db_retry
from redun.db_utils import filter_in

from platform_db.integrations.redun.part import Part
from platform_db.integrations.redun.serializing import (
    Record,
    find_evaluations,
    find_related_handles,
    hash_evaluation,
)
from platform_db.integrations.redun.subtrees import find_subtree_tasks
from platform_db.provenance import statements

PART_BYTES = 64 * 1024**2
"""So many bytes of values go into one statement, or one value."""

Rows = dict[str, dict[Any, dict[str, Any]]]
"""Rows by their keys, by table."""

# The tables of redun's classes, and what their rows are known by.
_TABLES: dict[Any, tuple[str, tuple[str, ...]]] = {
    db.Value: ("value", ("value_hash",)),
    db.Subvalue: ("subvalue", ("parent_value_hash", "value_hash")),
    db.File: ("value_file", ("value_hash",)),
    db.Task: ("call_task", ("hash",)),
    db.CallNode: ("call_node", ("call_hash",)),
    db.CallEdge: ("call_edge", ("parent_id", "call_order", "child_id")),
    db.Argument: ("call_argument", ("arg_hash",)),
    db.ArgumentResult: ("call_argument_source", ("arg_hash", "result_call_hash")),
    db.Execution: ("call_execution", ("id",)),
    db.Job: ("call_job", ("id",)),
    db.Tag: ("entity_tag", ("tag_hash",)),
    db.TagEdit: ("entity_tag_edit", ("parent_id", "child_id")),
}


class Syncing(Part):
    """The methods that exchange records with another backend."""

    @db_retry
    def get_child_record_ids(self, model_ids: Iterable[tuple[Any, str]]) -> Iterator[tuple[str, Any, str]]:
        """Iterate over the records that records refer to."""
        model_ids = list(model_ids)
        yield from super().get_child_record_ids(model_ids)
        calls = [id_ for model, id_ in model_ids if model is db.CallNode]
        values = [id_ for model, id_ in model_ids if model is db.Value]
        with self.with_session() as session:
            keys = session.query(db.CallNode.task_hash, db.CallNode.args_hash)
            called = filter_in(keys, db.CallNode.call_hash, calls)
            for value_hash in find_evaluations(session, called).values():
                yield "CallNode.evaluation", db.Value, value_hash
            for value_hash in find_related_handles(session, values):
                yield "Value.handle", db.Value, value_hash

    @db_retry
    def put_records(self, records: Iterable[Record]) -> int:
        """Store records of another backend in one transaction, and return how many are new."""
        assert self._record_serializer is not None  # noqa: S101 - loaded
        by_id = {self._record_serializer.get_pk(record): record for record in records}
        self.end_transaction()
        with self.with_session() as session:
            new = by_id.keys() - set(self.has_records(by_id))
            connection = session.connection()
            rows = self._rows(by_id, new)
            self._add_subtree_tasks(connection, rows, [by_id[id_] for id_ in new])
            self._keep_own(connection, rows)
            for part in _parts(rows):
                statements.write(connection, self.owner_id, part)
            tags = [*rows["entity_tag"], *(parent for parent, _ in rows["entity_tag_edit"])]
            connection.execute(_SUPERSEDE, {"owner": self.owner_id, "hashes": tags})
            session.commit()
        return len(new)

    def _rows(self, records: dict[str, Record], new: set[str]) -> Rows:
        """Return the rows of the records that are new, and those that an earlier pull may have left out."""
        rows: Rows = defaultdict(dict)
        for id_, record in records.items():
            if id_ in new:
                for instance in self._record_serializer.deserialize(record):
                    table, key = _TABLES[type(instance)]
                    row = {
                        column.key: getattr(instance, column.key)
                        for column in sa.inspect(type(instance)).column_attrs
                    }
                    values = tuple(row[name] for name in key)
                    row = self._completed(table, row)
                    rows[table][values if len(values) > 1 else values[0]] = row
            if record["_type"] == "CallNode":
                _add_call(rows, record)
            for handle in record.get("handles", ()):
                _add_handle(rows, record["value_hash"], handle)
        return rows

    def _completed(self, table: str, row: dict[str, Any]) -> dict[str, Any]:
        """Return a row with the values that redun's classes leave to the database, and to files."""
        if table == "value":
            data = row["value"]
            return {**row, "value": self._store(row["value_hash"], data), "size": len(data)}
        if table == "entity_tag":
            return {**row, "entity_type": row["entity_type"].name, "is_current": True}
        if table == "call_execution":
            return {**row, "updated_time": None, "workflow_id": None}
        return row

    def _add_subtree_tasks(self, connection: sa.Connection, rows: Rows, records: list[Record]) -> None:
        """Add the tasks below calls whose records leave them out, which a shallow check relies on."""
        calls = {
            record["call_hash"]: record
            for record in records
            if record["_type"] == "CallNode" and "subtree_tasks" not in record
        }
        further = {child for record in calls.values() for child in record["children"]} - calls.keys()
        known = connection.execute(_FIND_SUBTREE_TASKS, {"owner": self.owner_id, "calls": list(further)})
        tasks = find_subtree_tasks(
            {call: record["task_hash"] for call, record in calls.items()},
            {call: record["children"] for call, record in calls.items()},
            {call: set(used) for call, used in known},
        )
        for call, used in tasks.items():
            for task in used:
                rows["call_subtree_task"][call, task] = {"call_hash": call, "task_hash": task}

    def _keep_own(self, connection: sa.Connection, rows: Rows) -> None:
        """Leave out evaluations and handles that are there: those here may be newer."""
        for table, find in (("evaluation", _FIND_EVALUATIONS), ("handle", _FIND_HANDLES)):
            values = {"owner": self.owner_id, "hashes": list(rows[table])}
            for hash_ in connection.scalars(find, values):
                del rows[table][hash_]


def _parts(rows: Rows) -> Iterator[Rows]:
    """Iterate over all rows: a few values at a time, for a statement has its limits, and then the others."""
    part: dict[Any, dict[str, Any]] = {}
    size = 0
    for key, row in sorted(rows.pop("value", {}).items()):
        if part and size + len(row["value"]) > PART_BYTES:
            yield {"value": part}
            part, size = {}, 0
        part[key] = row
        size += len(row["value"])
    yield {"value": part, **rows}


def _add_call(rows: Rows, record: Record) -> None:
    call_hash, task_hash, args_hash = record["call_hash"], record["task_hash"], record["args_hash"]
    for used in record.get("subtree_tasks", ()):
        row = {"call_hash": call_hash, "task_hash": used}
        rows["call_subtree_task"][call_hash, used] = row
    if record.get("evaluation"):
        eval_hash = hash_evaluation(task_hash, args_hash)
        rows["evaluation"][eval_hash] = {
            "eval_hash": eval_hash,
            "task_hash": task_hash,
            "args_hash": args_hash,
            "value_hash": record["evaluation"],
        }


def _add_handle(rows: Rows, value_hash: str, handle: Record) -> None:
    row = {name: handle[name] for name in ("hash", "fullname", "key", "is_valid")}
    rows["handle"][handle["hash"]] = {**row, "value_hash": value_hash}
    for parent in handle["parents"]:
        rows["handle_edge"][parent, handle["hash"]] = {"parent_id": parent, "child_id": handle["hash"]}


# A tag is current until another replaces it, and never again.
_SUPERSEDE = sa.text("""
    UPDATE platform.entity_tag AS tag SET is_current = false
    WHERE tag.owner_id = :owner AND tag.tag_hash = ANY(:hashes) AND tag.is_current
      AND EXISTS (
          SELECT FROM platform.entity_tag_edit AS edit
          WHERE edit.owner_id = tag.owner_id AND edit.parent_id = tag.tag_hash)
""")

_FIND_EVALUATIONS = sa.text(
    "SELECT eval_hash FROM platform.evaluation WHERE owner_id = :owner AND eval_hash = ANY(:hashes)"
)

_FIND_HANDLES = sa.text("SELECT hash FROM platform.handle WHERE owner_id = :owner AND hash = ANY(:hashes)")

_FIND_SUBTREE_TASKS = sa.text("""
    SELECT call_hash, array_agg(task_hash) FROM platform.call_subtree_task
    WHERE owner_id = :owner AND call_hash = ANY(:calls) GROUP BY call_hash
""")
