"""Whose log it is: a run's or a job's, and where its chunks are."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import NamedTuple

import sqlalchemy as sa

from platform_db import errors
from platform_db.identifiers import parse_id
from platform_db.models import Job, Workflow
from platform_db.models.base import identity_of

Logged = Workflow | Job


class Target(NamedTuple):
    """Whose log it is."""

    model: type[Logged]
    id_: uuid.UUID

    @property
    def table(self) -> str:
        return str(self.model.__tablename__)

    @classmethod
    def of(cls, row: Logged | uuid.UUID | str, model: type[Logged] = Workflow) -> Target:
        if isinstance(row, Workflow | Job):
            return cls(type(row), identity_of(row))
        return cls(model, parse_id(row, f"{model.__tablename__} id"))

    def not_found(self) -> errors.NotFound:
        error = errors.WorkflowNotFound if self.model is Workflow else errors.NotFound
        return error(f"there is no {self.table} {self.id_}")


# By the table whose row's log it is: its columns for a run and a job, and the condition for its chunks.
COLUMNS = {
    "workflow": ("row.id_", "CAST(NULL AS uuid)"),
    "job": ("row.workflow_id", "row.id_"),
}
CHUNKS = {
    "workflow": """platform.workflow AS row JOIN platform.log_chunk AS chunk
        ON chunk.owner_id = row.owner_id AND chunk.workflow_id = row.id_ AND chunk.job_id IS NULL""",
    "job": """platform.job AS row JOIN platform.log_chunk AS chunk
        ON chunk.owner_id = row.owner_id AND chunk.job_id = row.id_""",
}


def for_each(template: Callable[[str], str]) -> dict[str, sa.TextClause]:
    return {table: sa.text(template(table)) for table in COLUMNS}
