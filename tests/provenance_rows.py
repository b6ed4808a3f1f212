"""Recorders of these tests, and what integrations give them: rows of each table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.models import User
from platform_db.provenance import Recorder, recorder
from tests.factories import make_user

NOW = datetime(2026, 11, 26, 20, 0, tzinfo=timezone.utc)
LATER = 60.0  # seconds; nothing is written by itself within a test


def make_owner(session: Session) -> User:
    user = make_user(session)
    session.refresh(user)
    session.expunge(user)
    session.rollback()
    return user


@contextmanager
def recorders(engine: sa.Engine, owner: User) -> Iterator[Callable[..., Recorder]]:
    """Give a function that makes recorders, which are closed in the end."""
    made: list[Recorder] = []

    def make(engine: sa.Engine = engine, owner: Any = owner.id_, **options: Any) -> Recorder:
        made.append(Recorder(engine, owner, **{"delay": LATER, **options}))
        return made[-1]

    yield make
    for one in made:
        with suppress(errors.NotRecorded):
            one.close()


def put_value(recorder: Recorder, hash_: str, data: bytes = b"x", **values: Any) -> str:
    row = {"value_hash": hash_, "type": "bytes", "format": "text/plain", "value": data, "size": len(data)}
    recorder.put("value", hash_, {**row, **values}, "record_value")
    return hash_


def put_task(recorder: Recorder, hash_: str = "task") -> str:
    put_value(recorder, hash_, type="Task")
    row = {"hash": hash_, "name": "fit", "namespace": "", "source": "code"}
    recorder.put("call_task", hash_, row, "record_value")
    return hash_


def put_call(
    recorder: Recorder, hash_: str, argument: str = "argument", key: str | None = None, children: Any = ()
) -> str:
    """Record a call with one argument, as an integration does."""
    with recorder.together():
        node = {"call_hash": hash_, "task_name": "fit", "task_hash": "task", "args_hash": f"args {argument}"}
        node |= {"value_hash": argument, "timestamp": NOW}
        recorder.put("call_node", hash_, node, "record_call_node")
        row = {"call_hash": hash_, "task_hash": "task"}
        recorder.put("call_subtree_task", (hash_, "task"), row, "record_call_node")
        row = {"arg_hash": f"arg {hash_}", "call_hash": hash_, "value_hash": argument, "arg_position": 0}
        recorder.put("call_argument", f"arg {hash_}", {**row, "arg_key": key}, "record_call_node")
        for order, child in enumerate(children):
            edge = {"parent_id": hash_, "child_id": child, "call_order": order}
            recorder.put("call_edge", (hash_, order, child), edge, "record_call_node")
    return hash_


def put_job(recorder: Recorder, id_: str, execution: str = "execution", **values: Any) -> None:
    row = {"id": id_, "start_time": NOW, "end_time": None, "task_hash": "task", "cached": False}
    row |= {"call_hash": None, "parent_id": None, "execution_id": execution, **values}
    recorder.put("call_job", id_, row, "record_job")


def put_execution(recorder: Recorder, id_: str = "execution", job: str = "job", args: str = "[]") -> None:
    row = {"id": id_, "args": args, "updated_time": NOW, "job_id": job, "workflow_id": None}
    recorder.put("call_execution", id_, row, "record_execution")


def put_everything(recorder: Recorder) -> None:
    """Record a row of each table."""
    put_task(recorder)
    for value in ("argument", "whole", "part", "file", "state 1", "state 2"):
        put_value(recorder, value)
    recorder.put("value_file", "file", {"value_hash": "file", "path": "/data/a"}, "record_value")
    part = {"value_hash": "part", "parent_value_hash": "whole"}
    recorder.put("subvalue", ("whole", "part"), part, "record_value")
    evaluation = {"eval_hash": "eval", "task_hash": "task", "args_hash": "args argument"}
    recorder.put("evaluation", "eval", {**evaluation, "value_hash": "whole"}, "set_eval_cache")
    put_call(recorder, "child")
    put_call(recorder, "parent", children=["child"])
    source = {"arg_hash": "arg parent", "result_call_hash": "child"}
    recorder.put("call_argument_source", ("arg parent", "child"), source, "record_call_node")
    with recorder.together():
        put_execution(recorder)
        put_job(recorder, "job", end_time=NOW, call_hash="parent")
    for tag, value in (("tag 1", {"a": 'b"\\'}), ("tag 2", None)):
        row = {"tag_hash": tag, "entity_type": "Job", "entity_id": "job", "key": "k", "value": value}
        recorder.put("entity_tag", tag, {**row, "is_current": True}, "record_tags")
    recorder.put("entity_tag_edit", ("tag 1", "tag 2"), {"parent_id": "tag 1", "child_id": "tag 2"}, "tags")
    for state in ("state 1", "state 2"):
        row = {"hash": state, "fullname": "db", "value_hash": state, "key": "", "is_valid": True}
        recorder.put("handle", state, row, "advance_handle")
    row = {"parent_id": "state 1", "child_id": "state 2"}
    recorder.put("handle_edge", ("state 1", "state 2"), row, "advance_handle")


def count(engine: sa.Engine, table: str) -> int:
    with engine.connect() as connection:
        return int(connection.exec_driver_sql(f"SELECT count(*) FROM platform.{table}").scalar_one())


def counts(engine: sa.Engine) -> dict[str, int]:
    return {table: count(engine, table) for table in recorder.TABLES}
