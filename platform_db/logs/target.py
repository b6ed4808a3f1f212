"""Whose log it is: a run's or a job's, and where its chunks are."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

import sqlalchemy as sa

from platform_db import errors
from platform_db.identifiers import parse_id
from platform_db.models import Job, Workflow
from platform_db.models.base import identity_of

Logged = Workflow | Job

Statements = dict[tuple[str, bool], sa.TextClause]
"""By the table whose row's log it is, and whether its owner is known."""


class Target(NamedTuple):
    """Whose log it is.

    :param owner_id: its owner, where it is known.
    """

    model: type[Logged]
    id_: uuid.UUID
    owner_id: uuid.UUID | None = None

    @property
    def table(self) -> str:
        return str(self.model.__tablename__)

    @property
    def key(self) -> tuple[str, bool]:
        return self.table, self.owner_id is not None

    @property
    def parameters(self) -> dict[str, Any]:
        """Return the parameters that name the row."""
        named = {"id": str(self.id_)}
        return named if self.owner_id is None else {**named, "owner": str(self.owner_id)}

    @classmethod
    def of(cls, row: Logged | uuid.UUID | str, model: type[Logged] | None = None) -> Target:
        if isinstance(row, Workflow | Job):
            owner_id, id_ = identity_of(row)
            return cls(type(row), id_, owner_id)
        if model is None:
            raise errors.InvalidIdentifier("an id alone does not say what it is the id of: give its model")
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


def for_each(template: Callable[[str, str], str]) -> Statements:
    """Return the statements of a template, which takes the table and the condition that names the row."""
    by_id = "row.id_ = CAST(:id AS uuid)"
    return {
        (table, owner): sa.text(
            template(table, f"row.owner_id = CAST(:owner AS uuid) AND {by_id}" if owner else by_id)
        )
        for table in COLUMNS
        for owner in (False, True)
    }
