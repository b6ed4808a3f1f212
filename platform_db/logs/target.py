"""Whose log it is: a run's or a job's, and where its chunks are."""

from __future__ import annotations

import uuid
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.database.distribution import execute_for
from platform_db.lifecycle.target import GuardedTarget, Key, Reference
from platform_db.models import Job, Workflow

Logged = Workflow | Job
LoggedOrId = Logged | Reference | Key | uuid.UUID | str

# By the table whose row's log it is: what templates of statements name a run's column, a job's, and the row
# joined to its chunks.
_PARTS = {
    "workflow": {
        "run": "row.id_",
        "job": "CAST(NULL AS uuid)",
        "chunks": """platform.workflow AS row JOIN platform.log_chunk AS chunk
            ON chunk.owner_id = row.owner_id AND chunk.workflow_id = row.id_ AND chunk.job_id IS NULL
            AND {partition}""",
    },
    "job": {
        "run": "row.workflow_id",
        "job": "row.id_",
        "chunks": """platform.job AS row JOIN platform.log_chunk AS chunk
            ON chunk.owner_id = row.owner_id AND chunk.workflow_id = row.workflow_id
            AND chunk.job_id = row.id_ AND {partition}""",
    },
}

# A run's pieces are in one partition, which the planner knows by a constant alone.
_PARTITION = "chunk.workflow_id = CAST(:run AS uuid)"


class LogTarget(GuardedTarget):
    tables = _PARTS
    run: str | None = None

    def run_id(self, session: Session) -> str:
        """Return the id of the run whose log it is, or whose job's.

        :raises errors.NotFound: there is no such job.
        """
        if self.run is None:
            found = (
                self.id_
                if self.model is Workflow
                else execute_for(
                    session.connection(), self.owner_id, self.statement(_RUN), self.parameters
                ).scalar()
            )
            if found is None:
                raise self.not_found()
            self.run = str(found)
        return self.run

    def statement(self, template: str) -> sa.TextClause:
        """Return a template's statement; its ``{row}`` is the condition that :attr:`parameters` are for."""
        return _statement(template, self.table, self.owner_id is not None)

    def execute(self, session: Session, template: str, **parameters: Any) -> Any:
        given = {**self.parameters, **parameters}
        statement = self.statement(template)
        if ":run" in statement.text:
            given["run"] = self.run_id(session)
        return execute_for(session.connection(), self.owner_id, statement, given)


@cache
def _statement(template: str, table: str, owner_is_known: bool) -> sa.TextClause:
    owned = "row.owner_id = CAST(:owner AS uuid) AND " if owner_is_known else ""
    row = f"{owned}row.id_ = CAST(:id AS uuid)"
    parts = {name: part.format(partition=_PARTITION) for name, part in _PARTS[table].items()}
    return sa.text(template.format(table=table, row=row, partition=_PARTITION, **parts))


_RUN = "SELECT row.workflow_id FROM platform.{table} AS row WHERE {row}"
