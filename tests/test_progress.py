"""Progress of a run: kept with each change of its jobs, whatever changes them, and by no waiting."""

from __future__ import annotations

import threading
import uuid

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import Session

from platform_db import errors, schema
from platform_db.health.deep_check import check_deeply
from platform_db.lifecycle import transition, transition_many
from platform_db.models import Job, User, Workflow, WorkflowProgress
from platform_db.tenancy import tenant_scope
from platform_db.users import delete_user
from platform_db.workflows import (
    Dependency,
    Progress,
    add_dependencies,
    overview,
    progress,
    progress_many,
    set_result,
)
from tests.factories import make_run, make_user
from tests.tenants import make_tenant, prepare_roles


def add_jobs(session: Session, run: Workflow, count: int, status: str = "created") -> list[Job]:
    jobs = [Job(workflow_id=run.id_, owner_id=run.owner_id, status=status) for _ in range(count)]
    session.add_all(jobs)
    session.commit()
    return jobs


@pytest.fixture
def run(session: Session) -> Workflow:
    return make_run(session, make_user(session))


def test_progress_follows_the_jobs(session: Session, run: Workflow) -> None:
    assert progress(session, run) == Progress()
    jobs = add_jobs(session, run, 5)
    assert progress(session, run) == Progress(total=5)
    transition_many(session, jobs[:3], "running")
    transition(session, jobs[0], "finished")
    transition(session, jobs[1], "failed")
    transition(session, jobs[4], "stopped")
    assert progress(session, run) == Progress(total=5, running=1, finished=1, failed=1, stopped=1)
    session.delete(jobs[0])
    assert progress(session, run) == Progress(total=4, running=1, failed=1, stopped=1)
    session.rollback()
    assert progress(session, run) == Progress(total=5), "what was rolled back never happened"


def test_progress_counts_what_any_statement_does(session: Session, run: Workflow) -> None:
    other = make_run(session, run.owner)
    add_jobs(session, run, 3)
    add_jobs(session, other, 2, "running")
    session.execute(sa.text("UPDATE platform.job SET status = 'running', backend_job_id = 'b'"))
    session.execute(
        sa.text("""
            INSERT INTO platform.job (id_, owner_id, workflow_id, status, finished_at)
            SELECT gen_random_uuid(), owner_id, id_, 'failed', now()
            FROM platform.workflow CROSS JOIN generate_series(1, 2)
            """)
    )
    session.execute(sa.text("DELETE FROM platform.job WHERE workflow_id = :id"), {"id": other.id_})
    assert progress_many(session, [other, run.id_, run, uuid.uuid4()]) == [
        Progress(),
        Progress(total=5, running=3, failed=2),
        Progress(total=5, running=3, failed=2),
        Progress(),
    ]
    session.commit()
    assert check_deeply(session) == []


def test_a_job_keeps_its_run(session: Session, run: Workflow) -> None:
    (job,) = add_jobs(session, run, 1)
    id_, other = job.id_, make_run(session, run.owner)
    job.workflow_id = other.id_
    with pytest.raises(errors.Refused, match=f"job {id_} keeps its run"):
        session.flush()


def test_writers_of_one_run_wait_for_no_other_and_lose_no_count(
    session: Session, session_factory: orm.sessionmaker[Session], run: Workflow
) -> None:
    """Each changes jobs of two runs, in opposite orders, before the other has committed."""
    other = make_run(session, run.owner)
    jobs = {each.id_: add_jobs(session, each, 4) for each in (run, other)}
    first, second = session_factory(), session_factory()
    for writer in (first, second):
        writer.execute(sa.text("SET LOCAL lock_timeout = '5s'"))
    for step in (0, 1):
        for number, (writer, order) in enumerate(((first, [run, other]), (second, [other, run]))):
            job = jobs[order[step].id_][number]
            transition(writer, (job.owner_id, job.id_), "running", model=Job)
    first.commit()
    second.commit()
    assert progress_many(session, [run, other]) == [Progress(total=4, running=2)] * 2
    parts = sa.select(sa.func.count()).select_from(WorkflowProgress)
    assert session.scalar(parts) == 4, "a part for each writer at once, in each run"
    session.commit()
    transition_many(session, [*jobs[run.id_][2:], *jobs[other.id_][2:]], "running")
    assert session.scalar(parts) == 4, "a part that is free is taken again"


def test_many_writers_at_once_are_all_counted(
    session: Session, session_factory: orm.sessionmaker[Session], run: Workflow
) -> None:
    jobs = [job.id_ for job in add_jobs(session, run, 40)]

    def work(mine: list[uuid.UUID]) -> None:
        for id_ in mine:
            for status in ("running", "finished"):
                with session_factory() as own, own.begin():
                    transition(own, id_, status, model=Job)

    threads = [threading.Thread(target=work, args=(jobs[number::4],)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    session.rollback()
    assert progress(session, run) == Progress(total=40, finished=40)
    parts = session.scalar(sa.select(sa.func.count()).select_from(WorkflowProgress))
    assert 1 <= (parts or 0) <= 8


def test_a_run_takes_its_progress_along(session: Session, run: Workflow) -> None:
    add_jobs(session, run, 3, "running")
    session.delete(run)
    session.commit()
    assert session.scalar(sa.select(sa.func.count()).select_from(WorkflowProgress)) == 0
    run = make_run(session, make_user(session))
    add_jobs(session, run, 3, "running")
    delete_user(session, session.get_one(User, run.owner_id), delete_work=True)
    session.commit()
    assert session.scalar(sa.select(sa.func.count()).select_from(WorkflowProgress)) == 0


def test_a_run_can_be_deleted_while_its_parts_are_gone_first(session: Session, run: Workflow) -> None:
    add_jobs(session, run, 1)
    session.execute(sa.delete(WorkflowProgress))
    session.execute(sa.delete(Workflow).where(Workflow.id_ == run.id_))
    session.commit()
    assert session.scalar(sa.select(sa.func.count()).select_from(WorkflowProgress)) == 0


def test_an_upgrade_counts_the_jobs_that_are_there(empty_database_uri: str) -> None:
    schema.upgrade(empty_database_uri, "0001")
    with schema.connect(empty_database_uri) as connection, connection.begin():
        connection.execute(
            sa.text("""
                WITH owner AS (
                    INSERT INTO platform.user_ (id_, email) VALUES (gen_random_uuid(), 'a@example.org')
                    RETURNING id_
                ),
                run AS (
                    INSERT INTO platform.workflow (id_, owner_id, name, type_, workspace_path)
                    SELECT gen_random_uuid(), id_, 'a', 'serial', '/a' FROM owner RETURNING owner_id, id_
                )
                INSERT INTO platform.job (id_, owner_id, workflow_id, status)
                SELECT gen_random_uuid(), owner_id, id_, status
                FROM run, unnest(CAST('{created,running,running}' AS platform.job_status[])) AS status
                """)
        )
    schema.upgrade(empty_database_uri)
    with schema.connect(empty_database_uri) as connection:
        counts = sa.text("SELECT total, running, finished FROM platform.workflow_progress")
        assert connection.execute(counts).all() == [(3, 2, 0)]


def test_a_tenant_has_results_graph_and_progress_of_its_own_and_writes_no_progress(
    engine: sa.Engine, session: Session
) -> None:
    prepare_roles(engine)
    ann, ben = make_tenant(session, "ann"), make_tenant(session, "ben")
    with tenant_scope(engine, ann.id_) as own:
        second = Job(workflow_id=ann.run, job_name="second")
        own.add(second)
        transition(own, ann.job, "running", model=Job)
        assert progress(own, ann.run) == Progress(total=2, running=1)
        assert add_dependencies(own, ann.run, [Dependency(ann.job, second)]) == 1
        set_result(own, ann.job, b"x" * 7, model=Job)
        set_result(own, ann.run, 1, model=Workflow)
        assert overview(own, ann.id_).total == 1
        assert progress(own, (ben.id_, ben.run)) == Progress()
        for model, id_ in ((Job, ben.job), (Workflow, ben.run)):
            with pytest.raises(errors.NotFound):
                set_result(own, (ben.id_, id_), 1, model=model)
        with pytest.raises(errors.NotFound):
            add_dependencies(own, ann.run, [Dependency(ann.job, ben.job)])
    usage = session.get_one(User, ann.id_).get_quota_usage()
    assert usage["database"]["usage"]["raw"] == 8
    for statement in (
        "UPDATE platform.workflow_progress SET total = 0",
        "DELETE FROM platform.workflow_progress",
    ):
        with (
            pytest.raises(sa.exc.ProgrammingError, match="permission denied for table workflow_progress"),
            tenant_scope(engine, ann.id_) as own,
        ):
            own.execute(sa.text(statement))
