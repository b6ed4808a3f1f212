"""Calls of a task, as a recorder writes them."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta, timezone

from sqlalchemy.orm import Session

from platform_db.models import (
    CallEdge,
    CallExecution,
    CallJob,
    CallNode,
    CallSubtreeTask,
    CallTask,
    Evaluation,
    Value,
)

START = datetime(2025, 1, 1, tzinfo=timezone.utc)


def record_call(
    session: Session,
    owner_id: uuid.UUID,
    name: str,
    *,
    execution: str = "execution",
    subtree: tuple[str, ...] = ("task",),
    children: tuple[str, ...] = (),
    minute: int = 0,
) -> None:
    """Write an ended call of ``task``, with a value of its own, as the first job of an execution."""
    at = START + timedelta(minutes=minute)
    owned = {"owner_id": owner_id}
    if session.get(CallTask, (owner_id, "task")) is None:
        session.add(CallTask(**owned, hash="task", name="task", namespace="", source="def task(): ..."))
    session.add(Value(**owned, value_hash=f"value {name}", type_="str", format_="x", value=b"12345", size=5))
    session.flush()
    called = {**owned, "task_hash": "task", "args_hash": "args", "value_hash": f"value {name}"}
    session.add(CallNode(**called, call_hash=name, task_name="task", timestamp=at))
    session.add(Evaluation(**called, eval_hash=f"eval {name}"))
    session.flush()
    session.add_all(CallSubtreeTask(**owned, call_hash=name, task_hash=used) for used in subtree)
    session.add_all(
        CallEdge(**owned, parent_id=name, child_id=child, call_order=order)
        for order, child in enumerate(children)
    )
    if session.get(CallExecution, (owner_id, execution)) is None:
        session.add(CallExecution(**owned, id=execution, args="[]", job_id=f"job {name}"))
    session.add(
        CallJob(
            **owned,
            id=f"job {name}",
            start_time=at,
            end_time=at,
            task_hash="task",
            call_hash=name,
            execution_id=execution,
        )
    )
    session.flush()
