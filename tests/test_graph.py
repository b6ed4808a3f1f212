"""The graph of a run: edges within it, never a cycle, and what it looks like as text, DOT and JSON."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import threading
import time
import uuid
from itertools import pairwise

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.models import Job, JobDependency, Workflow
from platform_db.workflows import Dependency, Edge, add_dependencies, graph
from tests.command_line import run as run_command
from tests.factories import make_run, make_user
from tests.locks import wait_for_a_lock


@pytest.fixture
def run(session: Session) -> Workflow:
    return make_run(session, make_user(session))


def make_jobs(session: Session, run: Workflow, *names: str) -> list[Job]:
    jobs = []
    for name in names:
        jobs.append(Job(workflow_id=run.id_, owner_id=run.owner_id, job_name=name))
        session.add(jobs[-1])
        session.flush()
    session.commit()
    return jobs


def test_a_graph_has_jobs_with_states_and_edges(session: Session, run: Workflow) -> None:
    load, fit, plot = make_jobs(session, run, "load", "fit", "plot")
    fit.status = "running"
    edges = [
        Dependency(load, fit, "data", "arg"),
        Dependency(load.id_, str(plot.id_), "data", "kwarg"),
        Dependency(fit, plot, "model"),
        Dependency(fit, plot, "errors"),
    ]
    assert add_dependencies(session, run, edges) == 4
    found = graph(session, run.id_)
    assert [(node.name, node.status) for node in found.nodes] == [
        ("load", "created"),
        ("fit", "running"),
        ("plot", "created"),
    ]
    assert Edge(load.id_, fit.id_, "data", "arg") in found.edges
    assert len(found.edges) == 4
    assert found.as_rows()[2] == {"job": "plot", "status": "created", "after": "load, fit"}


def test_parents_of_one_name_are_counted(session: Session, run: Workflow) -> None:
    *maps, load, reduce = make_jobs(session, run, "map", "map", "map", "load", "reduce")
    add_dependencies(session, run, [Dependency(parent, reduce) for parent in (*maps, load)])
    after = graph(session, run).as_rows()[-1]["after"]
    assert sorted(after.split(", ")) == ["load", "map (3)"]


def test_adding_an_edge_again_changes_its_kind_at_most(session: Session, run: Workflow) -> None:
    one, two = make_jobs(session, run, "one", "two")
    edge = Dependency(one, two, "x", "arg")
    assert add_dependencies(session, run, [edge, edge]) == 1
    assert add_dependencies(session, run, [edge]) == 0
    assert add_dependencies(session, run, [edge._replace(kind="kwarg")]) == 1
    assert add_dependencies(session, run, []) == 0
    assert [edge.kind for edge in graph(session, run).edges] == ["kwarg"]


def test_a_cycle_is_refused_and_the_transaction_goes_on(session: Session, run: Workflow) -> None:
    a, b, c, d = make_jobs(session, run, *"abcd")
    add_dependencies(session, run, [Dependency(a, b), Dependency(b, c)])
    with pytest.raises(
        errors.DependencyCycle, match=f"run {run.id_} would form a cycle through job"
    ) as refused:
        add_dependencies(session, run, [Dependency(c, a), Dependency(c, d)])
    assert any(str(job.id_) in str(refused.value) for job in (a, b, c)), "the job is on the cycle"
    with pytest.raises(errors.DependencyCycle):
        add_dependencies(session, run, [Dependency(d, d)])
    with pytest.raises(errors.DependencyCycle):
        add_dependencies(session, run, [Dependency(c, d), Dependency(d, b)])
    assert add_dependencies(session, run, [Dependency(a, d)]) == 1
    session.commit()
    assert len(graph(session, run).edges) == 3


def test_the_database_refuses_a_cycle_from_plain_sql(session: Session, run: Workflow) -> None:
    a, b, c = make_jobs(session, run, *"abc")
    add_dependencies(session, run, [Dependency(a, b), Dependency(b, c)])
    session.commit()
    turned = sa.text("UPDATE platform.job_dependency SET parent_id = :c, child_id = :a WHERE parent_id = :a")
    with pytest.raises(errors.DependencyCycle):
        session.execute(turned, {"a": b.id_, "c": b.id_})


def test_an_edge_joins_jobs_of_one_run(session: Session, run: Workflow) -> None:
    (own,), (other,) = (
        make_jobs(session, run, "own"),
        make_jobs(session, make_run(session, run.owner), "other"),
    )
    (foreign,) = make_jobs(session, make_run(session, make_user(session)), "foreign")
    for stranger in (other.id_, foreign.id_, uuid.uuid4()):
        with pytest.raises(errors.NotFound, match=f"no job {stranger} in run {run.id_}"):
            add_dependencies(session, run, [Dependency(own, stranger)])
    session.add(
        JobDependency(owner_id=run.owner_id, workflow_id=run.id_, parent_id=own.id_, child_id=other.id_)
    )
    with pytest.raises(errors.Refused, match="is none of run"):
        session.flush()


def test_what_cannot_be_an_edge_is_refused_in_one_line(session: Session, run: Workflow) -> None:
    one, two = make_jobs(session, run, "one", "two")
    for name, error in (
        ("x" * 1025, errors.InvalidArgument),
        ("\0", errors.InvalidText),
        ("\ud800", errors.InvalidText),
    ):
        with pytest.raises(error):
            add_dependencies(session, run, [Dependency(one, two, name)])
    with pytest.raises(errors.WorkflowNotFound):
        add_dependencies(session, uuid.uuid4(), [Dependency(one, two)])
    assert add_dependencies(session, run, [Dependency(one, two, "x" * 1024)]) == 1


def test_two_halves_of_a_cycle_at_once_do_not_both_get_in(
    session: Session, session_factory: orm.sessionmaker[Session], run: Workflow
) -> None:
    a, b = make_jobs(session, run, "a", "b")
    a_id, b_id, run_id = a.id_, b.id_, run.id_
    session.commit()
    refused = []

    def add_other_half() -> None:
        try:
            with session_factory() as second, second.begin():
                add_dependencies(second, run_id, [Dependency(b_id, a_id)])
        except errors.DependencyCycle as error:
            refused.append(error)

    with session_factory() as first, first.begin():
        # As plain SQL, so that the database alone holds it.
        first.execute(
            sa.text("""
                INSERT INTO platform.job_dependency (owner_id, workflow_id, parent_id, child_id)
                SELECT owner_id, workflow_id, :a, :b FROM platform.job WHERE id_ = :a
                """),
            {"a": a_id, "b": b_id},
        )
        other = threading.Thread(target=add_other_half)
        other.start()
        wait_for_a_lock(session_factory)
    other.join()
    assert len(refused) == 1
    assert [(edge.parent, edge.child) for edge in graph(session, run).edges] == [(a_id, b_id)]


def test_random_edges_form_a_cycle_exactly_where_a_sort_finds_one(session: Session, run: Workflow) -> None:
    chance = random.Random(7)
    jobs = [job.id_ for job in make_jobs(session, run, *map(str, range(12)))]
    stored: set[tuple[uuid.UUID, uuid.UUID]] = set()
    outcomes = set()
    for _ in range(60):
        new = {tuple(chance.sample(jobs, 2)) for _ in range(chance.randint(1, 3))}
        cyclic = not is_acyclic(jobs, stored | new)  # type: ignore[arg-type]
        outcomes.add(cyclic)
        try:
            add_dependencies(session, run, [Dependency(*edge) for edge in new])
        except errors.DependencyCycle as error:
            assert cyclic
            named = uuid.UUID(str(error).rpartition(" ")[2])
            assert reaches(named, named, stored | new)  # type: ignore[arg-type]
        else:
            assert not cyclic
            stored |= new  # type: ignore[arg-type]
    assert outcomes == {True, False}


def is_acyclic(jobs: list[uuid.UUID], edges: set[tuple[uuid.UUID, uuid.UUID]]) -> bool:
    return not any(reaches(job, job, edges) for job in jobs)


def reaches(start: uuid.UUID, end: uuid.UUID, edges: set[tuple[uuid.UUID, uuid.UUID]]) -> bool:
    seen: set[uuid.UUID] = set()
    waiting = [child for parent, child in edges if parent == start]
    while waiting:
        job = waiting.pop()
        if job not in seen:
            seen.add(job)
            waiting += [child for parent, child in edges if parent == job]
    return end in seen


@pytest.mark.parametrize("shape", ["chain", "diamonds"])
def test_a_large_graph_is_checked_in_a_time_that_grows_with_its_edges(
    session: Session, run: Workflow, shape: str
) -> None:
    count = 6000
    jobs = list(
        session.execute(
            sa.text("""
                INSERT INTO platform.job (id_, owner_id, workflow_id)
                SELECT gen_random_uuid(), :owner, :run FROM generate_series(1, :count) RETURNING id_
                """),
            {"owner": run.owner_id, "run": run.id_, "count": count},
        ).scalars()
    )
    if shape == "chain":
        edges = [Dependency(*pair) for pair in pairwise(jobs)]
    else:  # Each layer of two leads to both of the next: 2^3000 paths.
        edges = [
            Dependency(jobs[layer + parent], jobs[layer + 2 + child])
            for layer in range(0, count - 2, 2)
            for parent in (0, 1)
            for child in (0, 1)
        ]
    begun = time.perf_counter()
    assert add_dependencies(session, run, edges) == len(edges)
    with pytest.raises(errors.DependencyCycle):
        add_dependencies(session, run, [Dependency(jobs[-1], jobs[0])])
    assert time.perf_counter() - begun < 30


def test_edges_go_with_their_jobs_and_their_run(session: Session, run: Workflow) -> None:
    a, b, c = make_jobs(session, run, *"abc")
    add_dependencies(session, run, [Dependency(a, b), Dependency(b, c), Dependency(a, c)])
    session.delete(b)
    session.commit()
    assert [(edge.parent, edge.child) for edge in graph(session, run).edges] == [(a.id_, c.id_)]
    session.delete(run)
    session.commit()
    assert session.scalar(sa.select(sa.func.count()).select_from(JobDependency)) == 0


HOSTILE = ['a"b', "back\\", "line\nbreak", "\\N", "&lt;x>", "<b>", "}; graph {", "\x1b[31m", "ü", "\u202e"]


def test_names_of_any_kind_leave_the_drawing_one_digraph(session: Session, run: Workflow) -> None:
    jobs = make_jobs(session, run, *HOSTILE)
    add_dependencies(session, run, [Dependency(a, b, a.job_name) for a, b in pairwise(jobs)])
    dot = graph(session, run).as_dot()
    assert len(dot.splitlines()) == 3 + len(jobs) + len(jobs) - 1
    assert "\x1b" not in dot
    assert r'[label="a\"b\ncreated" ' in dot
    assert r'[label="back\\\ncreated" ' in dot
    assert r'[label="line\\nbreak\ncreated" ' in dot
    assert r'[label="\\N\ncreated" ' in dot
    assert '[label="&amp;lt;x>\\ncreated" ' in dot
    if shutil.which("dot"):
        drawn = subprocess.run(["dot", "-Tplain"], input=dot, capture_output=True, text=True, check=True)
        assert sum(line.startswith("node ") for line in drawn.stdout.splitlines()) == len(jobs)


@pytest.mark.parametrize("shown", ["text", "dot", "json"])
def test_the_command_shows_a_graph(session: Session, run: Workflow, database_uri: str, shown: str) -> None:
    a, b = make_jobs(session, run, "load", 'a "b"\x1b')
    add_dependencies(session, run, [Dependency(a, b, "x", "arg")])
    session.commit()
    result = run_command(database_uri, "workflow", "graph", str(run.id_), "--format", shown)
    assert result.exit_code == 0, result.output
    if shown == "text":
        head, first, second = result.stdout.splitlines()
        assert head.split() == ["JOB", "STATUS", "AFTER"]
        assert first.split() == ["load", "created"]
        assert second.split() == ["a", '"b"\\x1b', "created", "load"]
    elif shown == "dot":
        assert result.stdout == graph(session, run).as_dot() + "\n"
    else:
        assert json.loads(result.stdout) == graph(session, run).as_dict()


def test_a_run_without_jobs_has_an_empty_graph(session: Session, run: Workflow, database_uri: str) -> None:
    assert graph(session, run).as_dict() == {"run": str(run.id_), "nodes": [], "edges": []}
    assert run_command(database_uri, "workflow", "graph", str(run.id_)).stdout == "none\n"
    for stranger in (uuid.uuid4(), (run.owner_id, uuid.uuid4())):
        with pytest.raises(errors.WorkflowNotFound):
            graph(session, stranger)
