"""Records of push, pull and export: redun's own, with what it leaves out.

redun ignores keys that it does not know, so its databases take these records as well.
"""

from __future__ import annotations

from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from redun.backends.db import REDUN_DB_VERSIONS, CallSubtreeTask, Evaluation, Handle, HandleEdge
from redun.backends.db.serializers import CallNodeSerializer, RecordSerializer, ValueSerializer
from redun.db_utils import filter_in
from redun.hashing import hash_struct
from sqlalchemy.orm import Query, Session

Record = dict[str, Any]


class CallRecords(CallNodeSerializer):
    """Records of calls with ``evaluation``, what the task itself returned, and with ``subtree_tasks``."""

    def serialize_query(self, query: Query[Any]) -> Iterator[Record]:
        """Iterate over the records of the calls that a query finds."""
        records = list(super().serialize_query(query))
        tasks = defaultdict(list)
        pairs = query.session.query(CallSubtreeTask.call_hash, CallSubtreeTask.task_hash)
        for call_hash, task_hash in filter_in(
            pairs, CallSubtreeTask.call_hash, [record["call_hash"] for record in records]
        ):
            tasks[call_hash].append(task_hash)
        evaluations = find_evaluations(
            query.session, ((record["task_hash"], record["args_hash"]) for record in records)
        )
        for record in records:
            value_hash = evaluations.get((record["task_hash"], record["args_hash"]))
            yield {**record, "evaluation": value_hash, "subtree_tasks": sorted(tasks[record["call_hash"]])}


class ValueRecords(ValueSerializer):
    """Records of values with their bytes, also where files hold these, and with ``handles``: the states of a
    handle that have this value."""

    def serialize_query(self, query: Query[Any]) -> Iterator[Record]:
        """Iterate over the records of the values that a query finds."""
        records = list(super().serialize_query(query))
        handles = defaultdict(list)
        hashes = [record["value_hash"] for record in records]
        found = list(filter_in(query.session.query(Handle), Handle.value_hash, hashes))
        parents = defaultdict(list)
        edges = query.session.query(HandleEdge.child_id, HandleEdge.parent_id)
        for child, parent in filter_in(edges, HandleEdge.child_id, [handle.hash for handle in found]):
            parents[child].append(parent)
        for handle in found:
            handles[handle.value_hash].append(
                {
                    "hash": handle.hash,
                    "fullname": handle.fullname,
                    "key": handle.key,
                    "is_valid": handle.is_valid,
                    "parents": sorted(parents[handle.hash]),
                }
            )
        session: Any = query.session
        store = session.backend.value_store
        for record in records:
            value_hash = record["value_hash"]
            if store is not None and not record["data"]:
                record["data"] = b64encode(store.get(value_hash)[0]).decode()
            of_value = handles.get(value_hash)
            yield {**record, "handles": of_value} if of_value else record


def make_serializer() -> RecordSerializer:
    """Return what turns rows into records."""
    serializer = RecordSerializer(REDUN_DB_VERSIONS[-1])
    serializer._serializers["CallNode"] = CallRecords(REDUN_DB_VERSIONS[-1])
    serializer._serializers["Value"] = ValueRecords(REDUN_DB_VERSIONS[-1])
    return serializer


def hash_evaluation(task_hash: str, args_hash: str) -> str:
    """Return the hash of a task's evaluation with these arguments."""
    hash_: str = hash_struct(["Eval", task_hash, args_hash])
    return hash_


def find_evaluations(session: Session, calls: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Return the hash of what tasks returned, by task and arguments."""
    hashes = [hash_evaluation(*call) for call in calls]
    query = session.query(Evaluation.task_hash, Evaluation.args_hash, Evaluation.value_hash)
    return {
        (task_hash, args_hash): value_hash
        for task_hash, args_hash, value_hash in filter_in(query, Evaluation.eval_hash, hashes)
    }


def find_related_handles(session: Session, values: Iterable[str]) -> Iterator[str]:
    """Iterate over the values of the states that came before these values' handles, or came of them."""
    own = [hash_ for (hash_,) in filter_in(session.query(Handle.hash), Handle.value_hash, values)]
    related = set()
    for here, there in (
        (HandleEdge.child_id, HandleEdge.parent_id),
        (HandleEdge.parent_id, HandleEdge.child_id),
    ):
        related |= {hash_ for (hash_,) in filter_in(session.query(there), here, own)}
    for (value_hash,) in filter_in(session.query(Handle.value_hash), Handle.hash, related):
        yield value_hash
