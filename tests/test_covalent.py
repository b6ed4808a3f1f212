"""Covalent's dispatches: their manifests as runs, and what its UI asks for."""

from __future__ import annotations

import copy
import json
import threading
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.integrations import covalent
from platform_db.lifecycle import history, transition
from platform_db.models import Job, Resource, User, UserResource, Workflow
from platform_db.tenancy import tenant_scope
from platform_db.workflows import graph, progress
from tests.factories import make_run, make_user
from tests.locks import wait_for_a_lock
from tests.tenants import prepare_roles

START = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
STATUSES = [
    *("NEW_OBJECT", "PENDING_REUSE", "PENDING_REPLACEMENT", "STARTING", "DISPATCHING", "RUNNING"),
    *("PENDING_POSTPROCESSING", "POSTPROCESSING", "POSTPROCESSING_FAILED"),
    *("COMPLETED", "FAILED", "CANCELLED"),
]


def at(seconds: float) -> str:
    """Return a time as Covalent writes it: in UTC, without saying so."""
    return (START + timedelta(seconds=seconds)).replace(tzinfo=None).isoformat()


def asset(size: int = 0, **values: str) -> dict[str, Any]:
    return {"digest_alg": "sha", "digest": "0" * 40, "uri": None, "remote_uri": None, "size": size, **values}


def electron(node_id: int, name: str, status: str = "NEW_OBJECT", **metadata: Any) -> dict[str, Any]:
    return {
        "id": node_id,
        "metadata": {
            "task_group_id": node_id,
            "name": name,
            "executor": "dask",
            "executor_data": {"short_name": "dask", "attributes": {"retries": 2}},
            "sub_dispatch_id": None,
            "status": status,
            "start_time": None,
            "end_time": None,
            **metadata,
        },
        "assets": {key: asset() for key in ("function", "function_string", "value", "output", "hooks")},
    }


def link(source: int, target: int, name: str, type_: str | None = None, index: int | None = None) -> Any:
    metadata = {"edge_name": name, "param_type": type_, "arg_index": index}
    return {"source": source, "target": target, "metadata": metadata}


def make_manifest(
    name: str = "fit", status: str = "NEW_OBJECT", *, dispatch_id: str | None = None, **metadata: Any
) -> dict[str, Any]:
    """Return the manifest of a lattice that adds two numbers and fits the sum in a sublattice."""
    dispatch_id = dispatch_id or str(uuid.uuid4())
    return {
        "metadata": {
            "dispatch_id": dispatch_id,
            "root_dispatch_id": dispatch_id,
            "status": status,
            "start_time": None,
            "end_time": None,
            **metadata,
        },
        "assets": {"result": asset(), "error": asset()},
        "lattice": {
            "metadata": {
                "name": name,
                "executor": "dask",
                "executor_data": {"short_name": "dask"},
                "workflow_executor": "local",
                "workflow_executor_data": {},
                "python_version": "3.10.12",
                "covalent_version": "0.239.0",
            },
            "assets": {"workflow_function": asset(200), "doc": asset(9), "inputs": asset(80)},
            "transport_graph": {
                "nodes": [
                    electron(0, "add"),
                    electron(1, ":parameter:1", "COMPLETED", start_time=at(0), end_time=at(0)),
                    electron(2, ":sublattice:fit"),
                ],
                "links": [
                    link(0, 2, "!waiting_edge"),
                    link(0, 2, "x", "kwarg"),
                    link(1, 0, "a", "arg", 0),
                    link(1, 0, "b", "arg", 1),
                ],
            },
        },
    }


def with_status(manifest: dict[str, Any], status: str, **metadata: Any) -> dict[str, Any]:
    changed = copy.deepcopy(manifest)
    changed["metadata"].update(status=status, **metadata)
    return changed


def in_utc(value: Any) -> Any:
    """Return the times of a manifest as the store tells them: with their zone."""
    if isinstance(value, dict):
        return {
            key: f"{part}+00:00" if key in ("start_time", "end_time") and part else in_utc(part)
            for key, part in value.items()
        }
    return [in_utc(part) for part in value] if isinstance(value, list) else value


@pytest.fixture
def user(session: Session) -> User:
    return make_user(session)


# -- saving


def test_a_dispatch_is_a_run_with_jobs_and_dependencies(session: Session, user: User) -> None:
    manifest = make_manifest(status="RUNNING", start_time=at(1))

    run = covalent.save_dispatch(session, user, manifest)
    session.commit()

    assert str(run.id_) == manifest["metadata"]["dispatch_id"]
    assert (run.get_full_workflow_name(), run.type_, run.status) == ("fit.1", "covalent", "running")
    assert run.run_started_at == START + timedelta(seconds=1)
    assert [(job.job_name, job.status, job.compute_backend) for job in run.jobs] == [
        ("add", "created", "dask"),
        (":parameter:1", "finished", "dask"),
        (":sublattice:fit", "created", "dask"),
    ]
    names = {job.id_: job.job_name for job in run.jobs}
    edges = {
        (names[edge.parent], names[edge.child], edge.name, edge.kind) for edge in graph(session, run).edges
    }
    assert edges == {
        ("add", ":sublattice:fit", "!waiting_edge", ""),
        ("add", ":sublattice:fit", "x", "kwarg"),
        (":parameter:1", "add", "a", "arg 0"),
        (":parameter:1", "add", "b", "arg 1"),
    }


@pytest.mark.parametrize("form", [dict, json.dumps, lambda manifest: json.dumps(manifest).encode()])
def test_a_manifest_comes_back_as_it_was_saved(
    session: Session, user: User, form: Callable[[Any], Any]
) -> None:
    manifest = make_manifest(status="COMPLETED", start_time=at(1), end_time=at(3.25))
    manifest["lattice"]["metadata"]["team"] = {"of": "a plugin"}

    run = covalent.save_dispatch(session, user, form(manifest))

    assert covalent.get_manifest(session, user, run.id_) == in_utc(manifest)


def test_saving_again_changes_nothing(session: Session, user: User) -> None:
    manifest = make_manifest(status="COMPLETED", start_time=at(0), end_time=at(2))
    run = covalent.save_dispatch(session, user, manifest)
    session.commit()
    before = covalent.get_manifest(session, user, run.id_)
    stamps = [(row.revision, row.updated) for row in (run, *run.jobs)]
    session.commit()
    written: list[str] = []
    sa.event.listen(session.connection(), "before_cursor_execute", lambda *args: written.append(args[2]))

    again = covalent.save_dispatch(session, user, covalent.get_manifest(session, user, run.id_))

    assert again is run
    assert not [text for text in written if text.lstrip().startswith(("UPDATE", "INSERT INTO platform.job "))]
    session.commit()
    session.expire_all()
    assert [(row.revision, row.updated) for row in (run, *run.jobs)] == stamps
    assert covalent.get_manifest(session, user, run.id_) == before


def test_a_known_dispatch_is_brought_up_to_date_along_legal_transitions(session: Session, user: User) -> None:
    manifest = make_manifest()
    run = covalent.save_dispatch(session, user, manifest)
    session.commit()
    manifest = with_status(manifest, "COMPLETED", start_time=at(0), end_time=at(2))
    for node, status in zip(
        manifest["lattice"]["transport_graph"]["nodes"], ("RUNNING", "COMPLETED", "FAILED"), strict=True
    ):
        node["metadata"].update(status=status, start_time=at(0))
    manifest["assets"]["result"] = asset(12, digest="1" * 40)

    covalent.save_dispatch(session, user, manifest)
    session.commit()

    changes = [entry.to_status for entry in history(session, run).rows if entry.entity == "workflow"]
    assert changes == ["queued", "running", "finished"]
    assert [job.status for job in run.jobs] == ["running", "finished", "failed"]
    assert (run.run_started_at, run.run_finished_at) == (START, START + timedelta(seconds=2))
    stored = covalent.get_manifest(session, user, run.id_)
    assert stored["assets"]["result"]["size"] == 12
    assert (progress(session, run).running, progress(session, run).failed) == (1, 1)


@pytest.mark.parametrize("status", ["COMPLETED", "FAILED", "CANCELLED"])
@pytest.mark.parametrize("late", ["NEW_OBJECT", "RUNNING", "COMPLETED", "FAILED", "POSTPROCESSING_FAILED"])
def test_what_has_ended_stays_when_an_older_manifest_is_saved(
    session: Session, user: User, status: str, late: str
) -> None:
    manifest = make_manifest(status=status, start_time=at(0), end_time=at(2))
    manifest["lattice"]["transport_graph"]["nodes"][0]["metadata"]["status"] = status
    run = covalent.save_dispatch(session, user, manifest)
    before = covalent.get_dispatch(session, user, run.id_)
    older = with_status(manifest, late, start_time=at(1), end_time=at(3))
    older["lattice"]["transport_graph"]["nodes"][0]["metadata"]["status"] = late

    covalent.save_dispatch(session, user, older)

    found = covalent.get_dispatch(session, user, run.id_)
    assert found["status"] == status
    assert covalent.get_electron(session, user, run.id_, 0)["status"] == status
    if late != status:
        assert found == before


def test_what_runs_does_not_go_back(session: Session, user: User) -> None:
    manifest = make_manifest(status="RUNNING", start_time=at(0))
    run = covalent.save_dispatch(session, user, manifest)

    covalent.save_dispatch(session, user, with_status(manifest, "NEW_OBJECT", start_time=None))
    assert covalent.get_dispatch(session, user, run.id_)["status"] == "RUNNING"

    covalent.save_dispatch(session, user, with_status(manifest, "POSTPROCESSING_FAILED", end_time=at(5)))
    assert (run.status, covalent.get_dispatch(session, user, run.id_)["status"]) == (
        "failed",
        "POSTPROCESSING_FAILED",
    )
    covalent.save_dispatch(session, user, with_status(manifest, "COMPLETED", end_time=at(9)))
    assert run.status == "finished"
    assert covalent.get_dispatch(session, user, run.id_)["runtime"] == 9000


@pytest.mark.parametrize("status", STATUSES)
def test_each_status_of_covalent_is_told_back(session: Session, user: User, status: str) -> None:
    manifest = make_manifest(status=status)
    manifest["lattice"]["transport_graph"]["nodes"][0]["metadata"]["status"] = status

    run = covalent.save_dispatch(session, user, manifest)

    assert covalent.list_dispatches(session, user)["items"][0]["status"] == status
    assert covalent.get_dispatch(session, user, run.id_)["status"] == status
    assert covalent.get_electron(session, user, run.id_, 0)["status"] == status
    assert covalent.get_graph(session, user, run.id_)["graph"]["nodes"][0]["status"] == status


def test_what_another_writer_has_stopped_is_cancelled(session: Session, user: User) -> None:
    manifest = make_manifest(status="POSTPROCESSING", start_time=at(0))
    manifest["lattice"]["transport_graph"]["nodes"][0]["metadata"]["status"] = "RUNNING"
    run = covalent.save_dispatch(session, user, manifest)
    transition(session, run, "stopped", reason="platform-db workflow stop")
    transition(session, run.jobs[0], "stopped")

    assert covalent.get_dispatch(session, user, run.id_)["status"] == "CANCELLED"
    assert covalent.get_electron(session, user, run.id_, 0)["status"] == "CANCELLED"
    assert covalent.list_dispatches(session, user, status_filter="CANCELLED")["total_count"] == 1
    assert covalent.overview(session, user)["total_jobs_cancelled"] == 1
    covalent.save_dispatch(session, user, with_status(manifest, "COMPLETED"))
    assert covalent.get_dispatch(session, user, run.id_)["status"] == "CANCELLED"


def test_the_processing_time_of_a_dispatch_that_has_ended_is_counted(session: Session) -> None:
    Resource.initialise_default_resources(session)
    user = make_user(session)

    manifest = make_manifest(status="RUNNING", start_time=at(0))
    covalent.save_dispatch(session, user, manifest)
    covalent.save_dispatch(session, user, with_status(manifest, "COMPLETED", end_time=at(2)))
    covalent.save_dispatch(session, user, make_manifest(status="FAILED", start_time=at(0), end_time=at(3)))

    used = {use.resource.name: use.quota_used for use in session.scalars(sa.select(UserResource))}
    assert used["processing time"] == 5000


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda m: m.pop("lattice"), "lattice"),
        (lambda m: m["metadata"].update(status="DONE"), "metadata.status"),
        (lambda m: m["metadata"].update(dispatch_id="x"), "metadata.dispatch_id"),
        (lambda m: m["lattice"]["metadata"].update(name=""), "lattice.metadata.name"),
        (lambda m: m["lattice"]["metadata"].update(name="x\0"), "lattice.metadata.name"),
        (lambda m: m["lattice"]["metadata"].update(name="x" * 1025), "lattice.metadata.name"),
        (lambda m: m["lattice"]["transport_graph"]["nodes"][2].update(id=0), "lattice.transport_graph"),
        (lambda m: m["lattice"]["transport_graph"]["links"][0].update(target=7), "lattice.transport_graph"),
        (lambda m: m["assets"].update(result={"size": "big"}), "assets.result.size"),
        (lambda m: m["metadata"].update(start_time="9999-12-31T23:59:59-14:00"), "metadata.start_time"),
        (
            lambda m: m["lattice"]["transport_graph"]["nodes"][1]["metadata"].update(
                end_time="0001-01-01T00:00:00+14:00"
            ),
            "nodes.1.metadata.end_time",
        ),
        (
            lambda m: m["lattice"]["transport_graph"]["nodes"][0]["metadata"].update(executor="x" * 1025),
            "nodes.0.metadata.executor",
        ),
        (
            lambda m: m["lattice"]["transport_graph"]["nodes"][0]["metadata"].update(executor_data="secret"),
            "nodes.0.metadata.executor_data",
        ),
    ],
)
def test_what_is_no_manifest_is_refused_with_its_place(
    session: Session, user: User, change: Callable[[Any], Any], place: str
) -> None:
    manifest = make_manifest()
    change(manifest)

    with pytest.raises(errors.InvalidArgument, match=place) as refused:
        covalent.save_dispatch(session, user, manifest)

    assert len(str(refused.value).splitlines()) == 1
    assert "secret" not in str(refused.value)
    with pytest.raises(errors.InvalidArgument):
        covalent.save_dispatch(session, user, "{")


def test_a_refusal_saves_nothing_and_leaves_the_transaction_usable(session: Session, user: User) -> None:
    cyclic, unstorable = make_manifest(), make_manifest()
    cyclic["lattice"]["transport_graph"]["links"].append(link(2, 1, "back"))
    unstorable["lattice"]["transport_graph"]["nodes"][0]["metadata"]["executor_data"] = {"x": "\0"}

    with pytest.raises(errors.DependencyCycle):
        covalent.save_dispatch(session, user, cyclic)
    with pytest.raises(errors.InvalidText):
        covalent.save_dispatch(session, user, unstorable)

    session.commit()
    assert session.scalar(sa.select(sa.func.count()).select_from(Workflow)) == 0
    assert session.scalar(sa.select(sa.func.count()).select_from(Job)) == 0


def test_the_id_of_another_run_is_refused(session: Session, user: User) -> None:
    other = make_user(session)
    manifest = make_manifest()
    covalent.save_dispatch(session, other, manifest)
    serial = make_run(session, user)

    with pytest.raises(errors.Refused, match="in use"):
        covalent.save_dispatch(session, user, manifest)
    with pytest.raises(errors.Refused, match="no dispatch"):
        covalent.save_dispatch(session, user, make_manifest(dispatch_id=str(serial.id_)))
    assert covalent.list_dispatches(session, user)["total_count"] == 0


def test_a_dispatch_without_an_id_is_given_one(session: Session, user: User) -> None:
    manifest = with_status(make_manifest(), "NEW_OBJECT", dispatch_id="", root_dispatch_id="")

    run = covalent.save_dispatch(session, user, manifest)

    stored = covalent.get_manifest(session, user, run.id_)["metadata"]
    assert stored["dispatch_id"] == stored["root_dispatch_id"] == str(run.id_)


def test_two_who_save_a_dispatch_for_the_first_time_at_once_both_succeed(
    session: Session, user: User, session_factory: orm.sessionmaker[Any]
) -> None:
    manifest, owner_id = make_manifest(), user.id_
    started, problems = threading.Barrier(4), []

    def save() -> None:
        try:
            with session_factory() as own, own.begin():
                started.wait(30)
                covalent.save_dispatch(own, owner_id, manifest)
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=save) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert problems == []
    assert covalent.list_dispatches(session, user)["total_count"] == 1
    assert progress(session, (owner_id, uuid.UUID(manifest["metadata"]["dispatch_id"]))).total == 3


def test_a_dispatch_and_its_sublattice_that_end_at_once_do_not_deadlock(
    session: Session, session_factory: orm.sessionmaker[Any]
) -> None:
    Resource.initialise_default_resources(session)
    owner_id = make_user(session).id_
    inner = make_manifest("inner", "RUNNING")
    sub_id = inner["metadata"]["dispatch_id"]
    outer = make_manifest("outer", "RUNNING", start_time=at(0))
    outer["lattice"]["transport_graph"]["nodes"][2]["metadata"]["sub_dispatch_id"] = sub_id
    for manifest in (outer, inner):
        covalent.save_dispatch(session, owner_id, manifest)
    session.commit()
    problems: list[Exception] = []

    def save_outer() -> None:
        try:
            with session_factory() as own, own.begin():
                covalent.save_dispatch(own, owner_id, with_status(outer, "COMPLETED"))
        except Exception as error:
            problems.append(error)

    with session_factory() as own, own.begin():
        own.execute(sa.select(Workflow.id_).where(Workflow.id_ == uuid.UUID(sub_id)).with_for_update())
        thread = threading.Thread(target=save_outer)
        thread.start()
        wait_for_a_lock(session_factory)
        covalent.save_dispatch(own, owner_id, with_status(inner, "COMPLETED"))
    thread.join(60)

    assert problems == []
    assert covalent.overview(session, owner_id)["total_jobs_completed"] == 1


def test_a_deleted_dispatch_stays_deleted(session: Session, user: User) -> None:
    manifest = make_manifest()
    run = covalent.save_dispatch(session, user, manifest)
    covalent.delete_dispatches(session, user, [run.id_])

    covalent.save_dispatch(session, user, with_status(manifest, "RUNNING"))

    session.refresh(run)
    assert run.status == "deleted"


def test_a_tenant_saves_and_lists_within_the_tenants_own_scope(session: Session, engine: sa.Engine) -> None:
    prepare_roles(engine)
    ada, eve = make_user(session).id_, make_user(session).id_
    manifest, theirs = (
        make_manifest(status="RUNNING"),
        covalent.save_dispatch(session, eve, make_manifest()).id_,
    )
    session.commit()

    with tenant_scope(engine, ada) as own:
        covalent.save_dispatch(own, ada, manifest)
        covalent.save_dispatch(own, ada, with_status(manifest, "COMPLETED", end_time=at(1)))
        assert covalent.list_dispatches(own, ada)["items"][0]["status"] == "COMPLETED"
        assert covalent.overview(own, eve)["total_jobs"] == 0
        with pytest.raises(errors.Refused, match="in use"):
            covalent.save_dispatch(own, ada, make_manifest(dispatch_id=str(theirs)))
        assert covalent.delete_dispatches(own, ada, [theirs])["failure_items"] == [str(theirs)]
        assert len(covalent.delete_all(own, ada)["success_items"]) == 1


# -- sublattices


def test_a_sublattice_refers_to_the_job_of_its_parent_electron(session: Session, user: User) -> None:
    outer, inner = make_manifest("outer"), make_manifest("inner")
    run = covalent.save_dispatch(session, user, outer)

    sub = covalent.save_dispatch(session, user, inner, parent=(run.id_, 2))
    session.commit()

    job = session.scalars(
        sa.select(Job).where(Job.job_name == ":sublattice:fit", Job.workflow_id == run.id_)
    ).one()
    assert sub.engine_specific["parent_job_id"] == str(job.id_)
    nodes = covalent.get_graph(session, user, run.id_)["graph"]["nodes"]
    assert [node["sublattice_dispatch_id"] for node in nodes] == [None, None, str(sub.id_)]
    assert covalent.get_manifest(session, user, sub.id_)["metadata"]["root_dispatch_id"] == str(run.id_)
    assert [item["lattice_name"] for item in covalent.list_dispatches(session, user)["items"]] == ["outer"]
    # Neither the parent's nor its own manifest, saved again, takes it away.
    covalent.save_dispatch(session, user, outer)
    covalent.save_dispatch(session, user, inner)
    assert covalent.get_graph(session, user, run.id_)["graph"]["nodes"][2]["sublattice_dispatch_id"] == str(
        sub.id_
    )
    assert covalent.list_dispatches(session, user)["total_count"] == 1


@pytest.mark.parametrize("order", [("outer", "inner", "innermost"), ("innermost", "inner", "outer")])
def test_exported_manifests_find_their_parents_in_either_order(
    session: Session, user: User, order: tuple[str, ...]
) -> None:
    manifests = {name: make_manifest(name) for name in ("outer", "inner", "innermost")}
    root = manifests["outer"]["metadata"]["dispatch_id"]
    for name, sub in (("outer", "inner"), ("inner", "innermost")):
        sub_id = manifests[sub]["metadata"]["dispatch_id"]
        manifests[name]["lattice"]["transport_graph"]["nodes"][2]["metadata"]["sub_dispatch_id"] = sub_id
        manifests[sub]["metadata"]["root_dispatch_id"] = root

    for name in order:
        covalent.save_dispatch(session, user, manifests[name])
    session.commit()

    runs = {run.name: run for run in session.scalars(sa.select(Workflow))}
    for name, parent in (("inner", "outer"), ("innermost", "inner")):
        job = session.get(Job, runs[name].engine_specific["parent_job_id"])
        assert (job.workflow_id, job.job_name) == (runs[parent].id_, ":sublattice:fit")
    found = covalent.get_sublattices(session, user, root, sort_by="LATTICE_NAME", sort_direction="asc")
    assert [item["lattice_name"] for item in found["sub_lattices"]] == ["inner", "innermost"]
    assert covalent.list_dispatches(session, user)["total_count"] == 1


def test_sublattices_that_were_saved_alone_move_with_the_one_that_dispatched_them(
    session: Session, user: User
) -> None:
    manifest = make_manifest("inner")
    inner = covalent.save_dispatch(session, user, manifest)
    covalent.save_dispatch(session, user, make_manifest("innermost"), parent=(inner.id_, 2))
    outer = covalent.save_dispatch(session, user, make_manifest("outer"))

    covalent.save_dispatch(session, user, manifest, parent=(outer.id_, 2))

    found = covalent.get_sublattices(session, user, outer.id_)["sub_lattices"]
    assert {item["lattice_name"] for item in found} == {"inner", "innermost"}
    with pytest.raises(errors.InvalidArgument, match="its own sublattices"):
        covalent.save_dispatch(
            session, user, make_manifest(dispatch_id=str(outer.id_)), parent=(inner.id_, 2)
        )
    for parent in ((outer.id_, 9), (uuid.uuid4(), 0)):
        with pytest.raises(errors.NotFound):
            covalent.save_dispatch(session, user, make_manifest(), parent=parent)


def test_sublattices_are_sorted(session: Session, user: User) -> None:
    outer = covalent.save_dispatch(session, user, make_manifest("outer"))
    small = make_manifest("b", "COMPLETED", start_time=at(0), end_time=at(1))
    small["lattice"]["transport_graph"] = {"nodes": [electron(0, "x")], "links": []}
    for manifest in (
        small,
        make_manifest("c", "COMPLETED", start_time=at(0), end_time=at(9)),
        make_manifest("a"),
    ):
        covalent.save_dispatch(session, user, manifest, parent=(outer.id_, 2))

    def names(**how: str) -> str:
        found = covalent.get_sublattices(session, user, outer.id_, **how)["sub_lattices"]
        return "".join(item["lattice_name"] for item in found)

    assert names() == "cba"
    assert names(sort_direction="ASC") == "bca"
    assert names(sort_by="total_electrons", sort_direction="ASC") == "bca"
    assert names(sort_by="lattice_name") == "cba"
    with pytest.raises(errors.InvalidArgument, match="lattice_name"):
        names(sort_by="status")
    with pytest.raises(errors.WorkflowNotFound):
        covalent.get_sublattices(session, user, uuid.uuid4())


# -- the list


def test_a_page_of_the_list_has_what_the_ui_shows(session: Session, user: User) -> None:
    manifest = make_manifest(status="COMPLETED", start_time=at(0), end_time=at(2.5))
    covalent.save_dispatch(session, user, manifest)
    covalent.save_dispatch(session, make_user(session), make_manifest())
    make_run(session, user)

    found = covalent.list_dispatches(session, user)

    (item,) = found["items"]
    assert found["total_count"] == 1
    assert datetime.fromisoformat(item.pop("updated_at")).tzinfo
    assert item == {
        "dispatch_id": manifest["metadata"]["dispatch_id"],
        "lattice_name": "fit",
        "runtime": 2500,
        "total_electrons": 3,
        "total_electrons_completed": 1,
        "started_at": "2026-01-01T12:00:00+00:00",
        "ended_at": "2026-01-01T12:00:02.500000+00:00",
        "status": "COMPLETED",
    }
    json.dumps(found)


def test_the_list_is_sorted_with_what_has_no_value_last(session: Session, user: User) -> None:
    for name, status, start, end in (
        ("b", "COMPLETED", at(0), at(1)),
        ("a", "RUNNING", at(-1), None),
        ("d", "NEW_OBJECT", None, None),
        ("c", "CANCELLED", at(5), at(9)),
    ):
        covalent.save_dispatch(session, user, make_manifest(name, status, start_time=start, end_time=end))

    def names(**how: Any) -> str:
        return "".join(
            item["lattice_name"] for item in covalent.list_dispatches(session, user, **how)["items"]
        )

    assert names() == "acbd"  # the longest first; one that runs, until now
    assert names(sort_by="RunTime", sort_direction="asc") == "bcad"
    assert names(sort_by="status", sort_direction="ASC") == "dabc"
    assert names(sort_by="status") == "cbad"
    assert names(sort_by="started_at", sort_direction="ASC") == "abcd"
    assert names(sort_by="ended_at", sort_direction="ASC")[:2] == "bc"
    assert names(sort_by="ended_at")[:2] == "cb"
    assert names(sort_by="lattice_name") == "dcba"


@pytest.mark.parametrize("sort", ["runtime", "status", "started_at", "lattice_name", "ended_at"])
@pytest.mark.parametrize("direction", ["ASC", "DESC"])
def test_pages_of_equal_dispatches_repeat_nothing_and_leave_nothing_out(
    session: Session, user: User, sort: str, direction: str
) -> None:
    saved = []
    for number in range(7):
        manifest = make_manifest(status="COMPLETED", start_time=at(0), end_time=at(1))
        run = covalent.save_dispatch(session, user, manifest)
        saved.append(str(run.id_))
        if number % 2:  # An update moves the row within its table.
            run.labels = {"number": str(number)}
            session.flush()

    pages = [
        covalent.list_dispatches(
            session, user, count=2, offset=offset, sort_by=sort, sort_direction=direction
        )
        for offset in range(0, 8, 2)
    ]

    seen = [item["dispatch_id"] for page in pages for item in page["items"]]
    assert seen == (saved if direction == "ASC" else saved[::-1])
    assert {page["total_count"] for page in pages} == {7}
    beyond = covalent.list_dispatches(session, user, offset=100)
    assert (beyond["items"], beyond["total_count"]) == ([], 7)


def test_the_list_is_searched_by_the_letter(session: Session, user: User) -> None:
    for name in ("100%_done", "1000 done", "Other"):
        covalent.save_dispatch(session, user, make_manifest(name))
    id_ = covalent.list_dispatches(session, user, search="other")["items"][0]["dispatch_id"]

    def names(search: str) -> list[str]:
        found = covalent.list_dispatches(
            session, user, search=search, sort_by="lattice_name", sort_direction="ASC"
        )
        assert found["total_count"] == len(found["items"])
        return [item["lattice_name"] for item in found["items"]]

    assert names("%") == names("%_DONE") == ["100%_done"]
    assert names("DONE") == ["100%_done", "1000 done"]
    assert names(id_[4:20].upper()) == ["Other"]
    assert names("'") == []


def test_every_status_is_in_the_list_and_in_one_group(session: Session, user: User) -> None:
    statuses = list(STATUSES)
    for status in statuses:
        covalent.save_dispatch(session, user, make_manifest(status=status))

    def found(filter_: str) -> set[str]:
        items = covalent.list_dispatches(session, user, count=99, status_filter=filter_)["items"]
        return {item["status"] for item in items}

    assert found("ALL") == set(statuses)
    assert found("NEW_OBJECT") == {"NEW_OBJECT", "PENDING_REUSE", "PENDING_REPLACEMENT"}
    assert found("RUNNING") == {"RUNNING", "STARTING", "DISPATCHING"}
    postprocessing = {"POSTPROCESSING", "POSTPROCESSING_FAILED", "PENDING_POSTPROCESSING"}
    assert found("COMPLETED") == {"COMPLETED"} | postprocessing
    for status in (*postprocessing, "FAILED", "CANCELLED", "STARTING"):
        assert found(status) == {status}
    shown = covalent.overview(session, user)
    assert shown["total_jobs"] == len(statuses)
    assert {name: count for name, count in shown.items() if name.startswith("total_jobs_")} == {
        "total_jobs_new_object": 3,
        "total_jobs_running": 3,
        "total_jobs_completed": 4,
        "total_jobs_failed": 1,
        "total_jobs_cancelled": 1,
    }
    ordered = covalent.list_dispatches(session, user, count=99, sort_by="status", sort_direction="ASC")[
        "items"
    ]
    ui = [
        item["status"]
        for item in ordered
        if not item["status"].startswith(("STARTING", "PENDING_RE", "DISP"))
    ]
    assert ui == [
        *("NEW_OBJECT", "RUNNING", "COMPLETED", "POSTPROCESSING", "POSTPROCESSING_FAILED"),
        *("PENDING_POSTPROCESSING", "FAILED", "CANCELLED"),
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"count": 0},
        {"count": 100},
        {"count": True},
        {"offset": -1},
        {"offset": 2**63},
        {"sort_by": "name"},
        {"sort_by": None},
        {"sort_direction": "down"},
        {"status_filter": "completed"},
        {"status_filter": "DONE"},
        {"search": "\0"},
        {"search": 5},
    ],
)
def test_a_wrong_parameter_is_refused(session: Session, user: User, wrong: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidArgument):
        covalent.list_dispatches(session, user, **wrong)
    assert session.scalar(sa.select(1)) == 1


def test_a_page_takes_three_statements_whatever_its_size(session: Session, user: User) -> None:
    for _ in range(12):
        covalent.save_dispatch(session, user, make_manifest())
    session.commit()
    owner_id, statements = user.id_, []
    sa.event.listen(session.connection(), "before_cursor_execute", lambda *args: statements.append(args[2]))

    for count in (1, 12):
        statements.clear()
        assert len(covalent.list_dispatches(session, owner_id, count=count)["items"]) == count
        assert len(statements) == 3
        assert not [text for text in statements if "specification" in text]


def test_an_overview_is_one_statement_of_the_owners_own_dispatches(session: Session, user: User) -> None:
    assert covalent.overview(session, user) == {
        "total_jobs": 0,
        "total_jobs_new_object": 0,
        "total_jobs_running": 0,
        "total_jobs_completed": 0,
        "total_jobs_failed": 0,
        "total_jobs_cancelled": 0,
        "latest_running_task_status": None,
        "total_dispatcher_duration": 0,
    }
    first = make_manifest(status="RUNNING", start_time=at(0))
    run = covalent.save_dispatch(session, user, first)
    covalent.save_dispatch(session, user, make_manifest(status="FAILED", start_time=at(0), end_time=at(1.5)))
    covalent.save_dispatch(session, user, make_manifest(), parent=(run.id_, 2))
    gone = covalent.save_dispatch(
        session, user, make_manifest(status="COMPLETED", start_time=at(0), end_time=at(5))
    )
    covalent.delete_dispatches(session, user, [gone.id_])
    make_run(session, user, status="finished")
    assert covalent.overview(session, user)["latest_running_task_status"] == "FAILED"
    covalent.save_dispatch(session, user, with_status(first, "COMPLETED", end_time=at(2)))
    owner_id, statements = user.id_, []
    sa.event.listen(session.connection(), "before_cursor_execute", lambda *args: statements.append(args[2]))

    found = covalent.overview(session, owner_id)

    assert len(statements) == 1
    assert (found["total_jobs"], found["total_jobs_completed"], found["total_jobs_failed"]) == (2, 1, 1)
    assert (found["latest_running_task_status"], found["total_dispatcher_duration"]) == ("COMPLETED", 3500)


# -- deleting


def test_many_are_deleted_with_those_that_could_not_be(session: Session, user: User) -> None:
    first, second = (covalent.save_dispatch(session, user, make_manifest()).id_ for _ in range(2))
    running = covalent.save_dispatch(session, user, make_manifest(status="RUNNING")).id_
    foreign = covalent.save_dispatch(session, make_user(session), make_manifest()).id_
    serial, unknown = make_run(session, user).id_, uuid.uuid4()

    found = covalent.delete_dispatches(
        session, user, [str(first), unknown, first, running, foreign, serial, unknown, second]
    )

    assert found == {
        "success_items": [str(first), str(second)],
        "failure_items": [str(id_) for id_ in (unknown, first, running, foreign, serial, unknown)],
        "message": "Some of the dispatches could not be deleted",
    }
    left = sa.select(Workflow.id_).where(Workflow.status != "deleted")
    assert set(session.scalars(left)) == {running, foreign, serial}
    assert covalent.delete_dispatches(session, user, [first]) == {
        "success_items": [],
        "failure_items": [str(first)],
        "message": "No dispatches were deleted",
    }
    nothing = {"success_items": [], "failure_items": [], "message": "No dispatches were deleted"}
    assert covalent.delete_dispatches(session, user, []) == nothing
    assert covalent.delete_dispatches(session, user, None) == nothing
    third = covalent.save_dispatch(session, user, make_manifest()).id_
    with pytest.raises(errors.InvalidArgument):
        covalent.delete_dispatches(session, user, [third, "x"])
    assert covalent.delete_dispatches(session, user, [third])["message"] == (
        "Dispatch(es) have been deleted successfully!"
    )
    with pytest.raises(errors.WorkflowNotFound):
        covalent.get_dispatch(session, user, third)


def test_all_that_a_filter_finds_are_deleted_sublattices_among_them(session: Session, user: User) -> None:
    run = covalent.save_dispatch(session, user, make_manifest("outer%"))
    sub = covalent.save_dispatch(session, user, make_manifest("inner%"), parent=(run.id_, 2))
    other = covalent.save_dispatch(session, user, make_manifest("other", "FAILED"))
    foreign = covalent.save_dispatch(session, make_user(session), make_manifest("outer%"))

    with pytest.raises(errors.InvalidArgument):
        covalent.delete_all(session, user, status_filter="failed")
    found = covalent.delete_all(session, user, search_string="%")
    assert set(found["success_items"]) == {str(run.id_), str(sub.id_)}
    assert (found["failure_items"], found["message"]) == ([], "Dispatch(es) have been deleted successfully!")
    assert covalent.delete_all(session, user, status_filter="COMPLETED")["success_items"] == []
    assert covalent.delete_all(session, user, status_filter="FAILED")["success_items"] == [str(other.id_)]
    assert covalent.delete_all(session, user)["message"] == "No dispatches were deleted"
    session.refresh(foreign)
    assert foreign.status == "created"


# -- one dispatch


def test_the_detail_of_a_dispatch_has_its_directory_and_docstring(session: Session, user: User) -> None:
    run = covalent.save_dispatch(session, user, make_manifest(status="RUNNING", start_time=at(0)))

    found = covalent.get_dispatch(session, user, str(run.id_))
    assert found["description"] is None
    assert found["directory"] == run.workspace_path
    assert found["runtime"] > 0
    assert (found["total_electrons"], found["total_electrons_completed"]) == (3, 1)
    covalent.save_asset(session, user, run.id_, "doc", b"Fits.")
    assert covalent.get_dispatch(session, user, run.id_)["description"] == "Fits."


def test_a_graph_has_nodes_and_links(session: Session, user: User) -> None:
    run = covalent.save_dispatch(session, user, make_manifest())

    found = covalent.get_graph(session, user, run.id_)

    assert found["dispatch_id"] == str(run.id_)
    assert found["graph"]["nodes"][1] == {
        "id": 1,
        "name": ":parameter:1",
        "node_id": 1,
        "started_at": "2026-01-01T12:00:00+00:00",
        "completed_at": "2026-01-01T12:00:00+00:00",
        "status": "COMPLETED",
        "type": "parameter",
        "executor_label": "dask",
        "sublattice_dispatch_id": None,
    }
    assert [node["type"] for node in found["graph"]["nodes"]] == ["function", "parameter", "sublattice"]
    assert [tuple(link.values()) for link in found["graph"]["links"]] == [
        ("!waiting_edge", None, 2, 0, None),
        ("x", "kwarg", 2, 0, None),
        ("a", "arg", 0, 1, 0),
        ("b", "arg", 0, 1, 1),
    ]


@pytest.mark.parametrize("type_", ["arg of two words", "1", " ", "arg 1 x", "a\nb"])
def test_a_parameter_of_any_type_leaves_the_graph_readable(session: Session, user: User, type_: str) -> None:
    manifest = make_manifest()
    manifest["lattice"]["transport_graph"]["links"] = [link(0, 2, "x", type_), link(1, 2, "y", type_, 3)]
    run = covalent.save_dispatch(session, user, manifest)

    first, second = covalent.get_graph(session, user, run.id_)["graph"]["links"]

    assert first["arg_index"] is None
    assert (second["parameter_type"], second["arg_index"]) == (type_, 3)


def test_the_detail_of_an_electron(session: Session, user: User) -> None:
    manifest = make_manifest()
    manifest["lattice"]["transport_graph"]["nodes"][0]["metadata"].update(
        status="FAILED", start_time=at(0), end_time=at(1.5)
    )
    run = covalent.save_dispatch(session, user, manifest)

    assert covalent.get_electron(session, user, run.id_, 0) == {
        "id": 0,
        "node_id": 0,
        "parent_lattice_id": None,
        "type": "function",
        "storage_path": run.workspace_path,
        "name": "add",
        "status": "FAILED",
        "started_at": "2026-01-01T12:00:00+00:00",
        "ended_at": "2026-01-01T12:00:01.500000+00:00",
        "runtime": 1500,
        "description": "",
    }
    with pytest.raises(errors.NotFound, match="electron 9"):
        covalent.get_electron(session, user, run.id_, 9)


def test_contents_of_assets_are_results(session: Session, user: User) -> None:
    run = covalent.save_dispatch(session, user, make_manifest())

    covalent.save_asset(session, user, run.id_, "result", b"\x80\x04")
    covalent.save_asset(session, user, run.id_, "stdout", b"hello", node_id=0)

    assert covalent.get_asset(session, user, run.id_, "result").data == b"\x80\x04"
    assert covalent.get_asset(session, user, run.id_, "stdout", node_id=0).data == b"hello"
    with pytest.raises(errors.InvalidArgument):
        covalent.save_asset(session, user, run.id_, "doc", "Text.")  # type: ignore[arg-type]
    for key, node_id in (("stdout", None), ("stdout", 1), ("result", 7)):
        with pytest.raises(errors.NotFound):
            covalent.get_asset(session, user, run.id_, key, node_id=node_id)


READS: list[Callable[..., Any]] = [
    covalent.get_dispatch,
    covalent.get_graph,
    covalent.get_manifest,
    covalent.get_sublattices,
    lambda session, owner, id_: covalent.get_electron(session, owner, id_, 0),
    lambda session, owner, id_: covalent.get_asset(session, owner, id_, "result"),
    lambda session, owner, id_: covalent.save_asset(session, owner, id_, "result", b""),
]


@pytest.mark.parametrize("read", READS)
def test_an_unknown_or_foreign_dispatch_is_not_found(session: Session, user: User, read: Any) -> None:
    foreign = covalent.save_dispatch(session, make_user(session), make_manifest())
    gone = covalent.save_dispatch(session, user, make_manifest())
    covalent.delete_dispatches(session, user, [gone.id_])

    for id_ in (uuid.uuid4(), foreign.id_, gone.id_, make_run(session, user).id_):
        with pytest.raises(errors.WorkflowNotFound, match=str(id_)):
            read(session, user, id_)
    with pytest.raises(errors.InvalidArgument):
        read(session, user, "x")
