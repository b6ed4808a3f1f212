"""Calls of tasks: what was called with what, what came of it, and in which execution.

Hashes are the client's; a row that is there already is the same row when another writes it again.
"""

from __future__ import annotations

import uuid
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from platform_db.models.base import (
    CHANGED_OFTEN,
    ONLY_GROWING,
    STORAGE,
    Base,
    OfTenant,
    partial_index,
    tenant_reference,
    user_foreign_key,
)
from platform_db.models.types import ByteOrdered, Timestamp


class CallTask(OfTenant, Base):
    """A version of a task: its name and its code.

    :param calls_pruned_at: when calls of it were last pruned; so a miss of one of these can be explained.
    """

    hash: Mapped[str] = mapped_column(ByteOrdered)
    name: Mapped[str] = mapped_column(ByteOrdered)
    namespace: Mapped[str] = mapped_column(ByteOrdered)
    source: Mapped[str] = mapped_column(ByteOrdered)
    calls_pruned_at: Mapped[datetime | None] = mapped_column(Timestamp)

    __table_args__ = (
        sa.PrimaryKeyConstraint("owner_id", "hash"),
        user_foreign_key(),
        sa.Index(None, "owner_id", "name"),
        sa.Index(None, "owner_id", "namespace"),
    )


class Evaluation(OfTenant, Base):
    """The cache of single reductions: what a task's code returned for these arguments.

    It may be an expression, whose calls have evaluations of their own.
    """

    eval_hash: Mapped[str] = mapped_column(ByteOrdered)
    task_hash: Mapped[str] = mapped_column(ByteOrdered)
    args_hash: Mapped[str] = mapped_column(ByteOrdered)
    value_hash: Mapped[str] = mapped_column(ByteOrdered)

    __table_args__ = (
        sa.PrimaryKeyConstraint("owner_id", "eval_hash"),
        tenant_reference("task_hash", "call_task.hash"),
        tenant_reference("value_hash", "value.value_hash"),
        sa.Index(None, "owner_id", "task_hash", "args_hash"),
        sa.Index(None, "owner_id", "value_hash"),
        {"info": {STORAGE: ONLY_GROWING}},
    )


class CallNode(OfTenant, Base):
    """A call of a task with its arguments, its final result and its calls: a node of the call graph."""

    call_hash: Mapped[str] = mapped_column(ByteOrdered)
    task_name: Mapped[str] = mapped_column(ByteOrdered)
    task_hash: Mapped[str] = mapped_column(ByteOrdered)
    args_hash: Mapped[str] = mapped_column(ByteOrdered)
    value_hash: Mapped[str] = mapped_column(ByteOrdered)
    timestamp: Mapped[datetime] = mapped_column(Timestamp)

    __table_args__ = (
        sa.PrimaryKeyConstraint("owner_id", "call_hash"),
        tenant_reference("task_hash", "call_task.hash"),
        tenant_reference("value_hash", "value.value_hash"),
        sa.Index(None, "owner_id", "task_hash", "args_hash", "timestamp"),
        sa.Index(None, "owner_id", "args_hash"),
        sa.Index(None, "owner_id", "value_hash"),
        # Finds the oldest in few blocks, and costs a new row nothing.
        sa.Index("ix_call_node_timestamp", "timestamp", postgresql_using="brin"),
        {"info": {STORAGE: ONLY_GROWING}},
    )


class CallSubtreeTask(OfTenant, Base):
    """A version of a task that a call or one of the calls below it used."""

    call_hash: Mapped[str] = mapped_column(ByteOrdered)
    task_hash: Mapped[str] = mapped_column(ByteOrdered)

    __table_args__ = (
        # The task is compared with the client's own versions alone, and may be no row of the owner's.
        sa.PrimaryKeyConstraint("owner_id", "call_hash", "task_hash"),
        tenant_reference("call_hash", "call_node.call_hash", ondelete="CASCADE"),
        {"info": {STORAGE: ONLY_GROWING}},
    )


class CallArgument(OfTenant, Base):
    """An argument of a call, by its position or by its key."""

    arg_hash: Mapped[str] = mapped_column(ByteOrdered)
    call_hash: Mapped[str] = mapped_column(ByteOrdered)
    value_hash: Mapped[str] = mapped_column(ByteOrdered)
    arg_position: Mapped[int | None]
    arg_key: Mapped[str | None] = mapped_column(ByteOrdered)

    __table_args__ = (
        sa.PrimaryKeyConstraint("owner_id", "arg_hash"),
        tenant_reference("call_hash", "call_node.call_hash", ondelete="CASCADE"),
        tenant_reference("value_hash", "value.value_hash"),
        sa.Index(None, "owner_id", "call_hash"),
        sa.Index(None, "owner_id", "value_hash"),
        {"info": {STORAGE: ONLY_GROWING}},
    )


class CallArgumentSource(OfTenant, Base):
    """A call whose result went into an argument of another."""

    arg_hash: Mapped[str] = mapped_column(ByteOrdered)
    result_call_hash: Mapped[str] = mapped_column(ByteOrdered)

    __table_args__ = (
        sa.PrimaryKeyConstraint("owner_id", "arg_hash", "result_call_hash"),
        tenant_reference("arg_hash", "call_argument.arg_hash", ondelete="CASCADE"),
        tenant_reference("result_call_hash", "call_node.call_hash"),
        sa.Index(None, "owner_id", "result_call_hash"),
        {"info": {STORAGE: ONLY_GROWING}},
    )


class CallEdge(OfTenant, Base):
    """A call that another call made."""

    parent_id: Mapped[str] = mapped_column(ByteOrdered)
    child_id: Mapped[str] = mapped_column(ByteOrdered)
    call_order: Mapped[int]

    __table_args__ = (
        sa.PrimaryKeyConstraint("owner_id", "parent_id", "call_order", "child_id"),
        tenant_reference("parent_id", "call_node.call_hash", ondelete="CASCADE"),
        tenant_reference("child_id", "call_node.call_hash"),
        sa.Index(None, "owner_id", "child_id"),
        {"info": {STORAGE: ONLY_GROWING}},
    )


class CallExecution(OfTenant, Base):
    """A program that called tasks, from its first job on.

    :param args: the command line, as JSON text.
    :param updated_time: its heartbeat, by the client's clock.
    :param job_id: its first job. The two refer to each other, so the key is looked at when both are written.
    :param workflow_id: the run that it is part of, if any. NULL again once the run is pruned
        (``schema/sql/provenance.sql``).
    """

    id: Mapped[str] = mapped_column(ByteOrdered)
    args: Mapped[str] = mapped_column(ByteOrdered)
    updated_time: Mapped[datetime | None] = mapped_column(Timestamp)
    job_id: Mapped[str] = mapped_column(ByteOrdered)
    workflow_id: Mapped[uuid.UUID | None]

    __table_args__ = (
        sa.PrimaryKeyConstraint("owner_id", "id"),
        user_foreign_key(),
        tenant_reference("job_id", "call_job.id", deferrable=True, initially="DEFERRED", use_alter=True),
        sa.Index(None, "owner_id", "job_id"),
        partial_index(
            "ix_call_execution_owner_id_workflow_id", "workflow_id IS NOT NULL", "owner_id", "workflow_id"
        ),
        # Each heartbeat changes it.
        {"info": {STORAGE: f"fillfactor = 50, {CHANGED_OFTEN}"}},
    )


class CallJob(OfTenant, Base):
    """A call in an execution: when it began and ended, and which call of the graph it was.

    It ends with a call once, which the database sees to; the end of one that was taken for lost has none, and
    gives way to the job's own (``schema/sql/provenance.sql``).

    :param start_time: by the client's clock, like ``end_time``, which may be another machine's.
    :param cached: whether the result was taken from the cache.
    :param call_hash: the call, once the job has ended; without one, the job was lost.
    :param parent_id: the job that called it. NULL for the first job of an execution, and where another
        execution's job called it and was pruned.
    """

    id: Mapped[str] = mapped_column(ByteOrdered)
    start_time: Mapped[datetime] = mapped_column(Timestamp)
    end_time: Mapped[datetime | None] = mapped_column(Timestamp)
    task_hash: Mapped[str] = mapped_column(ByteOrdered)
    cached: Mapped[bool] = mapped_column(server_default=sa.false())
    call_hash: Mapped[str | None] = mapped_column(ByteOrdered)
    parent_id: Mapped[str | None] = mapped_column(ByteOrdered)
    execution_id: Mapped[str] = mapped_column(ByteOrdered)

    __table_args__ = (
        sa.PrimaryKeyConstraint("owner_id", "id"),
        tenant_reference("task_hash", "call_task.hash"),
        tenant_reference("call_hash", "call_node.call_hash"),
        tenant_reference(
            "execution_id", "call_execution.id", ondelete="CASCADE", deferrable=True, initially="DEFERRED"
        ),
        sa.Index(None, "owner_id", "execution_id", "start_time"),
        # The latest job of a call in an execution, in one step.
        sa.Index(None, "owner_id", "call_hash", "execution_id", "start_time"),
        sa.Index(None, "owner_id", "task_hash"),
        sa.Index(None, "owner_id", "parent_id"),
        sa.Index(None, "owner_id", "start_time"),
        partial_index("ix_call_job_running", "end_time IS NULL", "owner_id", "execution_id"),
        {"info": {STORAGE: CHANGED_OFTEN}},
    )
