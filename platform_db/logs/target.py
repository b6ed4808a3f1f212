"""Whose log it is: a run's or a job's, and where its chunks are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from platform_db.lifecycle.target import Target
from platform_db.models import Job, Workflow

Logged = Workflow | Job

Statements = dict[tuple[str, bool], sa.TextClause]
"""By the table whose row's log it is, and whether its owner is known."""


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


class LogTarget(Target):
    """The run or job whose log is meant."""

    tables = COLUMNS

    @property
    def key(self) -> tuple[str, bool]:
        return self.table, self.owner_id is not None

    @property
    def parameters(self) -> dict[str, Any]:
        """Return the parameters that name the row."""
        named = {"id": str(self.id_)}
        return named if self.owner_id is None else {**named, "owner": str(self.owner_id)}
