"""Saving a dispatch's manifest as a run with jobs and dependencies, and saving it again."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.database.session import takes_session
from platform_db.identifiers import new_id
from platform_db.integrations.covalent.dispatches import KINDS, Electron, as_iso, job_id_of, lock_run
from platform_db.integrations.covalent.electrons import kind_of, type_of
from platform_db.integrations.covalent.manifest import DispatchMetadata, Link, Manifest, read_manifest
from platform_db.integrations.covalent.manifest import Electron as Node
from platform_db.integrations.covalent.statuses import stored_as, way
from platform_db.integrations.covalent.sublattices import Place, adopt, place_below, place_in, put
from platform_db.lifecycle import transition
from platform_db.models import Job, Workflow
from platform_db.models.expiry import expire_rows
from platform_db.models.identity import UserOrId, user_id_of
from platform_db.models.types import Json
from platform_db.quota.termination import account_for_ended_run
from platform_db.states import JOB, WORKFLOW, JobStatus, RunStatus
from platform_db.workflows import Dependency, add_dependencies


@takes_session
def save_dispatch(
    session: Session,
    owner: UserOrId,
    manifest: Mapping[str, Any] | str | bytes,
    *,
    parent: Electron | tuple[uuid.UUID | str, int] | None = None,
) -> Workflow:
    """Save a dispatch as a run, with its electrons as jobs and its links as dependencies; return the run.

    A known one is brought up to date. A status changes where Covalent's rules and ours allow it: nothing
    follows what has ended, and what runs does not go back. Saving the same again changes nothing, and a
    deleted dispatch stays as it is. The run stays locked until the transaction ends, so that two who save one
    dispatch wait for each other. A refusal leaves the transaction usable, and nothing is saved.

    :param manifest: as Covalent's server takes it, as JSON's values or as its text. Without a dispatch id it
        is a new one.
    :param parent: the dispatch and the node that this one was dispatched by, if it is a sublattice's. It is
        found without this where the parent's manifest names it and is saved.
    :raises errors.InvalidArgument: this is no manifest; names the place.
    :raises errors.InvalidText: it has text that cannot be stored.
    :raises errors.DependencyCycle: a node would depend on itself.
    :raises errors.NotFound: there is no such parent.
    :raises errors.Refused: the id is another run's.
    """
    read = read_manifest(manifest)
    owner_id = user_id_of(owner)
    dispatch_id = read.metadata.dispatch_id or new_id()
    session.flush()
    with session.begin_nested():
        # A parent is locked before what it dispatched, here as in adopt().
        place = None if parent is None else place_below(session, owner_id, dispatch_id, Electron(*parent))
        run, is_changed = _save_run(session, owner_id, dispatch_id, read, place)
        if run.status is RunStatus.deleted:
            return run
        graph = read.lattice.transport_graph
        _save_jobs(session, run, graph.nodes)
        add_dependencies(session, run, [_dependency(run.id_, link) for link in graph.links])
        adopt(session, run, _sublattices(run.id_, graph.nodes))
        if is_changed and run.status in WORKFLOW.ended:
            # Last, since it locks the owner's totals; an update of a sublattice locks its run before them.
            account_for_ended_run(session, (owner_id, dispatch_id))
    return run


def _save_run(
    session: Session, owner_id: uuid.UUID, id_: uuid.UUID, manifest: Manifest, place: Place | None
) -> tuple[Workflow, bool]:
    """Return the run, locked, and whether it is new or differs from what was stored."""
    run = lock_run(session, owner_id, id_)
    if run is None:
        try:
            return _add_run(session, owner_id, id_, manifest, place), True
        except errors.WorkflowExists:
            pass  # Another writer has saved it since it was looked for; or the id is another owner's.
        run = lock_run(session, owner_id, id_)
        if run is None:
            raise errors.Refused(f"the dispatch id {id_} is in use already")
    if run.type_ not in KINDS:
        raise errors.Refused(f"run {id_} is no dispatch of Covalent's")
    return run, run.status is not RunStatus.deleted and _update_run(session, run, manifest, place)


def _add_run(
    session: Session, owner_id: uuid.UUID, id_: uuid.UUID, manifest: Manifest, place: Place | None
) -> Workflow:
    run = Workflow(id_=id_, owner_id=owner_id, name=manifest.lattice.metadata.name)
    put(session, run, place or place_in(session, owner_id, id_, manifest.metadata.root_dispatch_id))
    _describe(run, manifest)
    _set_status(run, manifest.metadata, stored_as(WORKFLOW, manifest.metadata.status))
    with session.begin_nested():
        session.add(run)
    return run


def _update_run(session: Session, run: Workflow, manifest: Manifest, place: Place | None) -> bool:
    if place is None and run.engine_specific["parent_job_id"] is None:
        place = place_in(session, run.owner_id, run.id_, manifest.metadata.root_dispatch_id)
    if place is not None:
        put(session, run, place)
    _describe(run, manifest)
    steps = way(WORKFLOW, run.status, run.engine_specific["status"], manifest.metadata.status)
    if steps is not None:
        for step in steps[:-1]:
            transition(session, run, step)
        _set_status(run, manifest.metadata, steps[-1] if steps else run.status)
    is_changed = session.is_modified(run)
    session.flush()
    return is_changed


def _describe(run: Workflow, manifest: Manifest) -> None:
    run.specification = {
        **manifest.as_json("metadata", "lattice"),
        "metadata": manifest.metadata.as_json("dispatch_id", "root_dispatch_id", *_IN_COLUMNS),
        "lattice": manifest.lattice.as_json("transport_graph"),
    }


def _set_status(run: Workflow, metadata: DispatchMetadata, status: RunStatus) -> None:
    run.status = status
    run.engine_specific = {**run.engine_specific, "status": metadata.status.value}
    if metadata.start_time is not None:
        run.run_started_at = metadata.start_time
    if metadata.end_time is not None and status is RunStatus.stopped:
        run.run_stopped_at = metadata.end_time
    elif metadata.end_time is not None and status in WORKFLOW.ended:
        run.run_finished_at = metadata.end_time


class _Row(NamedTuple):
    """What is stored of an electron."""

    id_: uuid.UUID
    job_name: str
    compute_backend: str
    status: JobStatus
    attributes: dict[str, Any]
    started_at: datetime | None
    finished_at: datetime | None


def _save_jobs(session: Session, run: Workflow, nodes: Iterable[Node]) -> None:
    """Write the jobs that are new or differ, in one statement."""
    columns = [getattr(Job, name) for name in _Row._fields]
    known = (
        sa.select(*columns)
        .where(Job.owner_id == run.owner_id, Job.workflow_id == run.id_)
        .order_by(Job.owner_id, Job.id_)
        .with_for_update(key_share=True)
    )
    stored = {row.id_: _Row(*row) for row in session.execute(known)}
    rows = [_row(job_id_of(run.id_, node.id), node, stored) for node in nodes]
    changed = [
        {
            **row._asdict(),
            "id_": str(row.id_),
            "started_at": as_iso(row.started_at),
            "finished_at": as_iso(row.finished_at),
        }
        for row in rows
        if row != stored.get(row.id_)
    ]
    if changed:
        parameters = {"owner": str(run.owner_id), "run": str(run.id_), "jobs": changed}
        session.connection().execute(_SAVE_JOBS, parameters)
        expire_rows(session, Job, {run.owner_id})


def _row(id_: uuid.UUID, node: Node, stored: Mapping[uuid.UUID, _Row]) -> _Row:
    metadata, former = node.metadata, stored.get(id_)
    status, kept = stored_as(JOB, metadata.status), metadata.status.value
    started_at, finished_at = metadata.start_time, metadata.end_time if status in JOB.ended else None
    sub_dispatch_id = metadata.sub_dispatch_id and str(metadata.sub_dispatch_id)
    if former is not None:
        before = former.attributes
        if way(JOB, former.status, before["status"], metadata.status) is None:
            status, kept = former.status, before["status"]
            started_at = finished_at = None
        started_at, finished_at = started_at or former.started_at, finished_at or former.finished_at
        sub_dispatch_id = sub_dispatch_id or before["sub_dispatch_id"]
    attributes = {
        "node_id": node.id,
        "type": type_of(metadata.name),
        "status": kept,
        "sub_dispatch_id": sub_dispatch_id,
        "electron": {
            **node.as_json("id", "metadata"),
            "metadata": metadata.as_json("name", "executor", "sub_dispatch_id", *_IN_COLUMNS),
        },
    }
    return _Row(id_, metadata.name, metadata.executor, status, attributes, started_at, finished_at)


def _sublattices(dispatch_id: uuid.UUID, nodes: Iterable[Node]) -> dict[uuid.UUID, uuid.UUID]:
    """Return the jobs of the electrons that name what they dispatched, by its id."""
    named = ((node.metadata.sub_dispatch_id, node.id) for node in nodes)
    return {id_: job_id_of(dispatch_id, node_id) for id_, node_id in named if id_ is not None}


def _dependency(dispatch_id: uuid.UUID, link: Link) -> Dependency:
    return Dependency(
        parent=job_id_of(dispatch_id, link.source),
        child=job_id_of(dispatch_id, link.target),
        name=link.metadata.edge_name,
        kind=kind_of(link.metadata.param_type, link.metadata.arg_index),
    )


# What has a column, or a place, of its own.
_IN_COLUMNS = ("status", "start_time", "end_time")

# Those that are known are locked by then, in the order of their keys.
_SAVE_JOBS = sa.text("""
    INSERT INTO platform.job AS job
        (owner_id, workflow_id, id_, job_name, compute_backend, status, attributes, started_at, finished_at)
    SELECT CAST(:owner AS uuid), CAST(:run AS uuid), given.*
    FROM jsonb_to_recordset(CAST(:jobs AS jsonb)) AS given (
        id_ uuid, job_name text, compute_backend text, status platform.job_status, attributes jsonb,
        started_at timestamptz, finished_at timestamptz)
    ORDER BY given.attributes -> 'node_id'
    ON CONFLICT (owner_id, id_) DO UPDATE
    SET job_name = excluded.job_name, compute_backend = excluded.compute_backend, status = excluded.status,
        attributes = excluded.attributes, started_at = excluded.started_at, finished_at = excluded.finished_at
    """).bindparams(sa.bindparam("jobs", type_=Json))
