"""One dispatch: its detail, its graph, an electron of it, and its manifest."""

from __future__ import annotations

import uuid
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.database.session import takes_session
from platform_db.integrations.covalent.assets import get_asset
from platform_db.integrations.covalent.dispatches import as_iso, job_id_of, read_dispatch
from platform_db.integrations.covalent.electrons import parameter_of
from platform_db.integrations.covalent.listing import COLUMNS, shown
from platform_db.integrations.covalent.statuses import told
from platform_db.models import Job, JobDependency, Workflow
from platform_db.models.identity import UserOrId, user_id_of
from platform_db.query.sorting import sorts_of
from platform_db.workflows import progress


@takes_session
def get_dispatch(session: Session, owner: UserOrId, dispatch_id: uuid.UUID | str) -> dict[str, Any]:
    """Return the detail of a dispatch, as the UI shows it.

    ``description`` is the text of its asset ``doc``, where that has been saved.

    :raises errors.InvalidArgument: this is no id.
    :raises errors.WorkflowNotFound: the owner has no such dispatch.
    """
    owner_id = user_id_of(owner)
    columns = [column.label(name) for name, column in COLUMNS.items()]
    row = read_dispatch(session, owner_id, dispatch_id, Workflow.workspace_path, *columns)
    try:
        description = get_asset(session, owner_id, row.id_, "doc").data.decode(errors="replace")
    except errors.ResultNotFound:
        description = None
    values = shown(row, progress(session, (owner_id, row.id_)))
    del values["lattice_name"]
    return {
        "dispatch_id": str(row.id_),
        **values,
        "directory": row.workspace_path,
        "description": description,
    }


@takes_session
def get_graph(session: Session, owner: UserOrId, dispatch_id: uuid.UUID | str) -> dict[str, Any]:
    """Return a dispatch's graph, as ``{"dispatch_id": …, "graph": {"nodes": […], "links": […]}}``.

    Nodes are known by their ids within the dispatch, and links lead from one to another.

    :raises errors.InvalidArgument: this is no id.
    :raises errors.WorkflowNotFound: the owner has no such dispatch.
    """
    owner_id = user_id_of(owner)
    id_ = read_dispatch(session, owner_id, dispatch_id).id_
    links, jobs = _links(session, owner_id, id_), _jobs(session, owner_id, id_)
    nodes = [
        {
            "id": node_id,
            "name": job.job_name,
            "node_id": node_id,
            "started_at": as_iso(job.started_at),
            "completed_at": as_iso(job.finished_at),
            "status": told(job.status, job.attributes["status"]).value,
            "type": job.attributes["type"],
            "executor_label": job.compute_backend,
            "sublattice_dispatch_id": job.attributes["sub_dispatch_id"],
        }
        for node_id, job in jobs.items()
    ]
    return {"dispatch_id": str(id_), "graph": {"nodes": nodes, "links": _ends(links, jobs)}}


@takes_session
def get_electron(
    session: Session, owner: UserOrId, dispatch_id: uuid.UUID | str, node_id: int
) -> dict[str, Any]:
    """Return the detail of an electron, as the UI shows it.

    ``runtime`` is in milliseconds; of one that runs, until now.

    :raises errors.InvalidArgument: this is no id.
    :raises errors.NotFound: the owner has no such dispatch, or it has no such node.
    """
    owner_id = user_id_of(owner)
    run = read_dispatch(session, owner_id, dispatch_id, Workflow.workspace_path)
    runtime = sorts_of(Job)["runtime"][0]
    found = session.execute(
        sa.select(*_COLUMNS, runtime.label("runtime")).where(
            Job.owner_id == owner_id, Job.id_ == job_id_of(run.id_, node_id)
        )
    ).one_or_none()
    if found is None:
        raise errors.NotFound(f"there is no electron {node_id} of dispatch {run.id_}")
    return {
        "id": node_id,
        "node_id": node_id,
        "parent_lattice_id": None,
        "type": found.attributes["type"],
        "storage_path": run.workspace_path,
        "name": found.job_name,
        "status": told(found.status, found.attributes["status"]).value,
        "started_at": as_iso(found.started_at),
        "ended_at": as_iso(found.finished_at),
        "runtime": found.runtime,
        "description": "",
    }


@takes_session
def get_manifest(session: Session, owner: UserOrId, dispatch_id: uuid.UUID | str) -> dict[str, Any]:
    """Return a dispatch's manifest, with what has become of it since it was saved.

    :raises errors.InvalidArgument: this is no id.
    :raises errors.WorkflowNotFound: the owner has no such dispatch.
    """
    owner_id = user_id_of(owner)
    columns = [column.label(name) for name, column in COLUMNS.items()]
    row = read_dispatch(
        session, owner_id, dispatch_id, Workflow.specification, Workflow.engine_specific, *columns
    )
    links, jobs = _links(session, owner_id, row.id_), _jobs(session, owner_id, row.id_)
    times = {"status": row.status, "start_time": as_iso(row.started_at), "end_time": as_iso(row.ended_at)}
    metadata = {
        **row.specification["metadata"],
        "dispatch_id": str(row.id_),
        "root_dispatch_id": row.engine_specific["root_dispatch_id"],
        **times,
    }
    ends = [
        {
            "source": link["source"],
            "target": link["target"],
            "metadata": {
                "edge_name": link["edge_name"],
                "param_type": link["parameter_type"],
                "arg_index": link["arg_index"],
            },
        }
        for link in _ends(links, jobs)
    ]
    graph = {"nodes": [_node(node_id, job) for node_id, job in jobs.items()], "links": ends}
    lattice = {**row.specification["lattice"], "transport_graph": graph}
    return {**row.specification, "metadata": metadata, "lattice": lattice}


_COLUMNS = (
    Job.id_,
    Job.job_name,
    Job.compute_backend,
    Job.status,
    Job.attributes,
    Job.started_at,
    Job.finished_at,
)


def _jobs(session: Session, owner_id: uuid.UUID, run_id: uuid.UUID) -> dict[int, sa.Row[Any]]:
    """Return a dispatch's jobs by the ids of their nodes, in that order."""
    jobs = session.execute(sa.select(*_COLUMNS).where(Job.owner_id == owner_id, Job.workflow_id == run_id))
    return dict(sorted((job.attributes["node_id"], job) for job in jobs))


def _links(session: Session, owner_id: uuid.UUID, run_id: uuid.UUID) -> list[sa.Row[Any]]:
    # Before the jobs: those are there before their links.
    link = JobDependency
    columns = (link.parent_id, link.child_id, link.name, link.kind)
    own = (link.owner_id == owner_id, link.workflow_id == run_id)
    return list(session.execute(sa.select(*columns).where(*own)))


def _ends(links: list[sa.Row[Any]], jobs: dict[int, sa.Row[Any]]) -> list[dict[str, Any]]:
    nodes = {job.id_: node_id for node_id, job in jobs.items()}
    ends = []
    for link in links:
        parameter_type, arg_index = parameter_of(link.kind)
        ends.append(
            {
                "edge_name": link.name,
                "parameter_type": parameter_type,
                "target": nodes[link.child_id],
                "source": nodes[link.parent_id],
                "arg_index": arg_index,
            }
        )
    return sorted(ends, key=lambda end: (end["source"], end["target"], end["edge_name"]))


def _node(node_id: int, job: sa.Row[Any]) -> dict[str, Any]:
    electron = job.attributes["electron"]
    metadata = {
        **electron["metadata"],
        "name": job.job_name,
        "executor": job.compute_backend,
        "sub_dispatch_id": job.attributes["sub_dispatch_id"],
        "status": told(job.status, job.attributes["status"]).value,
        "start_time": as_iso(job.started_at),
        "end_time": as_iso(job.finished_at),
    }
    return {"id": node_id, **electron, "metadata": metadata}
