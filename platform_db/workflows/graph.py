"""The graph of a run: its jobs, and which of them depends on which."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.database.distribution import execute_for
from platform_db.database.session import takes_session
from platform_db.identifiers import parse_id
from platform_db.lifecycle.target import RunOrId, RunTarget
from platform_db.models import Job, Workflow
from platform_db.models.base import identity_of
from platform_db.models.types import is_text
from platform_db.states import JobStatus
from platform_db.workflows.drawing import as_dot


class Dependency(NamedTuple):
    """An edge of a graph: ``child`` depends on ``parent``.

    :param parent: a job or its id; where it comes from the database, the id.
    :param child: a job or its id; where it comes from the database, the id.
    :param name: tells several edges between the same two jobs apart, such as the parameter that is passed on.
    :param kind: what the edge is, in the platform's own words.
    """

    parent: Job | uuid.UUID | str
    child: Job | uuid.UUID | str
    name: str = ""
    kind: str = ""


class Node(NamedTuple):
    """A job of a graph."""

    id_: uuid.UUID
    name: str | None
    status: JobStatus
    started_at: datetime | None
    finished_at: datetime | None


class Edge(NamedTuple):
    """A dependency of a graph, by the ids of its jobs."""

    parent: uuid.UUID
    child: uuid.UUID
    name: str
    kind: str


@dataclass(frozen=True)
class Graph:
    """The jobs of a run, oldest first, and the dependencies between them."""

    run_id: uuid.UUID
    nodes: list[Node]
    edges: list[Edge]

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values, for JSON."""
        return {
            "run": str(self.run_id),
            "nodes": [
                {
                    "id": str(node.id_),
                    "name": node.name,
                    "status": node.status.value,
                    "started_at": node.started_at and node.started_at.isoformat(),
                    "finished_at": node.finished_at and node.finished_at.isoformat(),
                }
                for node in self.nodes
            ],
            "edges": [
                {"parent": str(edge.parent), "child": str(edge.child), "name": edge.name, "kind": edge.kind}
                for edge in self.edges
            ],
        }

    def as_dot(self) -> str:
        """Return it in the language of Graphviz; whatever the jobs are called, it is one digraph."""
        return as_dot(
            {str(node.id_): (self.label(node), node.status.value) for node in self.nodes},
            [(str(edge.parent), str(edge.child), edge.name) for edge in self.edges],
        )

    def as_rows(self) -> list[dict[str, Any]]:
        """Return a row for each job, with the names of those that it comes after, for a table.

        Where several of these share a name, it is there once, with their number.
        """
        labels = {node.id_: self.label(node) for node in self.nodes}
        parents: dict[uuid.UUID, dict[uuid.UUID, None]] = {node.id_: {} for node in self.nodes}
        for edge in self.edges:
            parents[edge.child][edge.parent] = None
        return [
            {
                "job": labels[node.id_],
                "status": node.status.value,
                "after": ", ".join(
                    name if number == 1 else f"{name} ({number})"
                    for name, number in Counter(labels[parent] for parent in parents[node.id_]).items()
                ),
            }
            for node in self.nodes
        ]

    @staticmethod
    def label(node: Node) -> str:
        """Return the name of a job, or the beginning of its id where it has none."""
        return node.name or str(node.id_)[:13]


@takes_session
def add_dependencies(session: Session, run: RunOrId, edges: Iterable[Dependency]) -> int:
    """Add edges to the graph of a run in one statement, and return how many are new or of another kind now.

    An edge is known by its jobs and its name: adding it again changes its kind at most. A refusal leaves the
    transaction usable, and nothing is added. Two callers that add edges to one run wait for each other.

    :param run: the run, its key ``(owner_id, id_)``, or its id.
    :raises errors.DependencyCycle: a job would depend on itself; names one.
    :raises errors.NotFound: a job is none of this run, or there is no such run.
    :raises errors.InvalidArgument: a name is longer than 1024 bytes.
    :raises errors.InvalidText: a name or a kind cannot be stored.
    """
    session.flush()
    owner_id, run_id = RunTarget.of(session, run, Workflow).key(session)
    # The last one counts, as if they had been added one after another.
    kinds = {(_job_id(edge.parent), _job_id(edge.child), edge.name): edge.kind for edge in edges}
    if not kinds:
        return 0
    for (_, _, name), kind in kinds.items():
        if not is_text(name + kind):
            raise errors.InvalidText
        if len(name.encode()) > LONGEST_NAME:
            raise errors.InvalidArgument(f"the name of a dependency is longer than {LONGEST_NAME} bytes")
    parameters = {
        "owner": str(owner_id),
        "run": str(run_id),
        "parents": [str(parent) for parent, _, _ in kinds],
        "children": [str(child) for _, child, _ in kinds],
        "names": [name for _, _, name in kinds],
        "kinds": list(kinds.values()),
    }
    with session.begin_nested():
        added, stranger = execute_for(session.connection(), owner_id, _ADD, parameters).one()
    if stranger is not None:
        raise errors.NotFound(f"there is no job {stranger} in run {run_id}")
    return int(added)


@takes_session
def graph(session: Session, run: RunOrId) -> Graph:
    """Return the graph of a run: all of its jobs and dependencies, in two statements.

    :param run: the run, its key ``(owner_id, id_)``, or its id.
    :raises errors.WorkflowNotFound: there is no such run.
    """
    session.flush()
    owner_id, run_id = RunTarget.of(session, run, Workflow).key(session)
    parameters = {"owner": str(owner_id), "run": str(run_id)}
    connection = session.connection()
    # Edges before nodes: a job is there before its edges. One that was deleted in between takes them along.
    edges = [Edge(*row) for row in connection.execute(_EDGES, parameters)]
    jobs = connection.execute(_NODES, parameters).all()
    if not jobs:
        raise errors.WorkflowNotFound(f"there is no workflow {run_id}")
    nodes = [
        Node(id_, name, JobStatus(status), *times)
        for id_, name, status, *times in jobs
        if id_ is not None  # as where the run has no job
    ]
    known = {node.id_ for node in nodes}
    return Graph(run_id, nodes, [edge for edge in edges if {edge.parent, edge.child} <= known])


LONGEST_NAME = 1024


def _job_id(job: Job | uuid.UUID | str) -> uuid.UUID:
    return identity_of(job)[1] if isinstance(job, Job) else parse_id(job, "job id")


# The graph is locked before any edge is written: two callers with the same edges do not deadlock on them.
_ADD = sa.text("""
    WITH locked AS MATERIALIZED (SELECT platform.lock_graph(CAST(:run AS uuid))),
    given AS MATERIALIZED (
        SELECT edge.* FROM locked CROSS JOIN unnest(
            CAST(:parents AS uuid[]), CAST(:children AS uuid[]), CAST(:names AS text[]),
            CAST(:kinds AS text[])
        ) AS edge (parent_id, child_id, name, kind)
    ),
    stranger AS MATERIALIZED (
        SELECT id_ FROM (SELECT parent_id FROM given UNION SELECT child_id FROM given) AS end_ (id_)
        WHERE (SELECT workflow_id FROM platform.job
               WHERE job.owner_id = CAST(:owner AS uuid) AND job.id_ = end_.id_)
              IS DISTINCT FROM CAST(:run AS uuid)
        ORDER BY id_ LIMIT 1
    ),
    added AS (
        INSERT INTO platform.job_dependency AS edge (owner_id, workflow_id, parent_id, child_id, name, kind)
        SELECT CAST(:owner AS uuid), CAST(:run AS uuid), parent_id, child_id, name, kind FROM given
        WHERE NOT EXISTS (SELECT FROM stranger)
        ORDER BY parent_id, child_id, name
        ON CONFLICT (owner_id, workflow_id, parent_id, child_id, name) DO UPDATE SET kind = excluded.kind
        WHERE edge.kind <> excluded.kind
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM added), (SELECT id_ FROM stranger)
    """)

_EDGES = sa.text("""
    SELECT parent_id, child_id, name, kind FROM platform.job_dependency
    WHERE owner_id = CAST(:owner AS uuid) AND workflow_id = CAST(:run AS uuid)
    ORDER BY parent_id, child_id, name
    """)

_NODES = sa.text("""
    SELECT job.id_, job.job_name, job.status, job.started_at, job.finished_at
    FROM platform.workflow AS run
    LEFT JOIN platform.job ON job.owner_id = run.owner_id AND job.workflow_id = run.id_
    WHERE run.owner_id = CAST(:owner AS uuid) AND run.id_ = CAST(:run AS uuid)
    ORDER BY job.created, job.id_
    """)
