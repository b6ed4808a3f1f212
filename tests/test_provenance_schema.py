"""What the tables of calls and values keep true by themselves, and what redun's names show of them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from platform_db import schema
from platform_db.leases import end_lost_calls, recover_all
from platform_db.models import (
    CallExecution,
    CallJob,
    EntityTag,
    TaskRecord,
    User,
    UserResource,
    Value,
)
from platform_db.models.resource import DATABASE_STORAGE
from platform_db.provenance.values import ERRORS
from platform_db.tenancy import tenant_scope
from platform_db.users import delete_user
from tests.calls import START, record_call
from tests.factories import make_run, make_user
from tests.tenants import prepare_roles

Find = Callable[..., tuple[Any, ...]]


@pytest.fixture
def owner_id(session: Session) -> uuid.UUID:
    owner_id = make_user(session).id_
    session.commit()
    return owner_id


@pytest.fixture
def find(session: Session, owner_id: uuid.UUID) -> Find:
    """Give what looks for a cached call of ``task``; it returns the kind, the call and the value's hash."""

    def find_cached(
        *kinds: str,
        execution: str = "execution",
        known: tuple[str, ...] = ("task",),
        context: str | None = None,
    ) -> tuple[Any, ...]:
        statement = sa.select(sa.text("kind, call_hash, value_hash")).select_from(
            sa.func.platform.find_cached(
                owner_id, "task", "args", "eval call", execution, context, list(kinds), list(known)
            )
        )
        return tuple(session.execute(statement).one())

    return find_cached


ALL = ("CSE", "ULTIMATE", "SINGLE")


def test_a_call_of_this_execution_is_found_before_others(
    session: Session, owner_id: uuid.UUID, find: Find
) -> None:
    record_call(session, owner_id, "call", execution="other", minute=2)
    record_call(session, owner_id, "mine")
    assert find(*ALL) == ("CSE", "mine", "value mine")
    assert find("ULTIMATE", "SINGLE") == ("ULTIMATE", "call", "value call"), "the latest"
    assert find("SINGLE") == ("SINGLE", None, "value call")
    assert find(*ALL, execution="new") == ("ULTIMATE", "call", "value call")


def test_a_call_whose_subtree_used_other_code_is_not_taken_whole(
    session: Session, owner_id: uuid.UUID, find: Find
) -> None:
    record_call(session, owner_id, "call", subtree=("task", "below"))
    assert find("ULTIMATE", "SINGLE")[0] == "SINGLE"
    assert find("ULTIMATE", known=("task", "below"))[0] == "ULTIMATE"
    assert find("ULTIMATE") == (None, None, None)


def test_a_call_of_another_context_is_not_taken(session: Session, owner_id: uuid.UUID, find: Find) -> None:
    record_call(session, owner_id, "call")
    session.add(
        EntityTag(
            owner_id=owner_id,
            tag_hash="tag",
            entity_type="CallNode",
            entity_id="call",
            key="redun.context",
            value="a",
        )
    )
    session.flush()
    assert find("CSE", "ULTIMATE", context="b") == (None, None, None)
    assert find("CSE", context="a")[0] == "CSE"
    assert find("ULTIMATE", context="a")[0] == "ULTIMATE"


def test_children_come_in_their_order_and_large_values_stay(session: Session, owner_id: uuid.UUID) -> None:
    for name in "ab":
        record_call(session, owner_id, name)
    record_call(session, owner_id, "parent", children=("b", "a", "b"), minute=1)
    children = sa.func.platform.find_children(owner_id, "task", "args", 2)
    found = session.execute(sa.select(sa.text("call_hash")).select_from(children)).scalars().all()
    assert found == ["b", "a"]
    for largest, expected in ((5, {b"12345"}), (4, set())):
        values = sa.func.platform.find_evaluations(owner_id, ["eval a", "eval b", "eval none"], largest)
        found = session.execute(sa.select(sa.text("value")).select_from(values)).scalars()
        assert {bytes(value) for value in found} == expected


def test_a_job_ends_with_a_call_once(session: Session, owner_id: uuid.UUID) -> None:
    record_call(session, owner_id, "call")
    record_call(session, owner_id, "other")
    job = session.get_one(CallJob, (owner_id, "job call"))
    end = sa.update(CallJob).where(CallJob.id == "job call")
    session.execute(end.values(end_time=START + timedelta(hours=1), call_hash="other", cached=True))
    session.refresh(job)
    assert (job.end_time, job.call_hash, job.cached) == (START, "call", False)


def test_the_jobs_own_end_replaces_that_of_a_lost_one(session: Session, owner_id: uuid.UUID) -> None:
    record_call(session, owner_id, "call")
    late = START + timedelta(hours=1)
    lost = CallJob(
        owner_id=owner_id,
        id="lost",
        start_time=START,
        end_time=START,
        task_hash="task",
        execution_id="execution",
    )
    session.add(lost)
    session.flush()
    lost.end_time, lost.call_hash = late, "call"
    session.flush()
    session.refresh(lost)
    assert (lost.end_time, lost.call_hash) == (late, "call")


def storage(session: Session, owner_id: uuid.UUID) -> int:
    session.expire_all()
    return next(
        total.quota_used
        for total in session.scalars(sa.select(UserResource).where(UserResource.owner_id == owner_id))
        if total.resource.name == DATABASE_STORAGE
    )


def test_stored_bytes_count_and_those_in_a_file_store_do_not(session: Session, owner_id: uuid.UUID) -> None:
    def add(name: str, value: bytes, size: int) -> Value:
        row = Value(owner_id=owner_id, value_hash=name, type_="", format_="", value=value, size=size)
        session.add(row)
        session.flush()
        return row

    here = add("here", b"123", 3)
    add("elsewhere", b"", 1000)
    assert storage(session, owner_id) == 3
    session.delete(here)
    session.flush()
    assert storage(session, owner_id) == 0
    with pytest.raises(sa.exc.IntegrityError, match="ck_value_size_of_value"):
        add("wrong", b"123", 4)


def test_values_that_a_downgrade_drops_no_longer_count(
    database_uri: str, session: Session, owner_id: uuid.UUID
) -> None:
    session.add(Value(owner_id=owner_id, value_hash="v", type_="", format_="", value=b"123", size=3))
    session.commit()
    assert storage(session, owner_id) == 3
    session.rollback()
    schema.downgrade(database_uri, "0010")
    assert storage(session, owner_id) == 0


def test_a_value_stays_while_something_refers_to_it(session: Session, owner_id: uuid.UUID) -> None:
    record_call(session, owner_id, "call")
    with pytest.raises(sa.exc.IntegrityError, match=r"fk_(evaluation|call_node)"):
        session.execute(sa.delete(Value))


def test_a_run_that_goes_leaves_its_execution(session: Session) -> None:
    run = make_run(session, make_user(session))
    record_call(session, run.owner_id, "call")
    execution = session.get_one(CallExecution, (run.owner_id, "execution"))
    execution.workflow_id = run.id_
    session.flush()
    session.delete(run)
    session.flush()
    session.refresh(execution)
    assert execution.workflow_id is None


def test_what_was_loaded_is_analyzed_once(session: Session, owner_id: uuid.UUID) -> None:
    record_call(session, owner_id, "call")
    session.commit()
    analyze = sa.select(sa.func.platform.analyze_calls())
    assert session.scalar(analyze) == 7, "those that have rows"
    session.commit()
    assert session.scalar(analyze) == 0


# -- redun's names


def test_each_tenant_sees_its_own_rows(engine: sa.Engine, session: Session, owner_id: uuid.UUID) -> None:
    prepare_roles(engine)
    other = make_user(session)
    record_call(session, owner_id, "call")
    record_call(session, other.id_, "call")
    session.commit()
    with tenant_scope(engine, owner_id) as own:
        assert own.execute(sa.text("SELECT call_hash FROM redun.call_node")).scalars().all() == ["call"]
        own.execute(sa.text("INSERT INTO redun.value VALUES ('new', 'str', 'x', 'abc')"))
        assert own.execute(sa.text("UPDATE redun.job SET cached = true WHERE id = 'no'")).rowcount == 0
    new = session.scalars(sa.select(Value).where(Value.value_hash == "new")).one()
    assert (new.owner_id, new.size) == (owner_id, 3)


def test_the_tables_owner_sees_the_tenant_of_the_transaction_or_nothing(
    session: Session, owner_id: uuid.UUID
) -> None:
    record_call(session, owner_id, "call")
    record_call(session, make_user(session).id_, "call")
    count = sa.text("SELECT count(*) FROM redun.job")
    assert session.execute(count).scalar_one() == 0
    session.execute(sa.text("SELECT set_config('platform.user_id', :id, true)"), {"id": str(owner_id)})
    assert session.execute(count).scalar_one() == 1


def test_redun_finds_the_version_that_the_views_are_of(session: Session) -> None:
    assert session.execute(sa.text("SELECT version FROM redun.redun_version")).scalar_one() == 3
    assert session.execute(sa.text("SELECT version_num FROM redun.alembic_version")).scalar_one()


def test_a_search_by_the_beginning_of_an_id_uses_the_key(session: Session, owner_id: uuid.UUID) -> None:
    session.execute(sa.text("SELECT set_config('platform.user_id', :id, true)"), {"id": str(owner_id)})
    session.execute(sa.text("SET LOCAL enable_seqscan = off"))
    explain = sa.text("EXPLAIN SELECT * FROM redun.job WHERE id LIKE 'abc%'")
    plan = "\n".join(session.execute(explain).scalars())
    assert "Index Cond" in plan
    assert "id >= 'abc'::text" in plan


def test_what_a_user_recorded_goes_with_the_user(session: Session, owner_id: uuid.UUID) -> None:
    record_call(session, owner_id, "child")
    record_call(session, owner_id, "call", children=("child",))
    delete_user(session, session.get_one(User, owner_id))
    assert session.scalars(sa.select(Value)).all() == []


# -- what is going on


def test_one_list_has_runs_calls_and_tasks(session: Session) -> None:
    run = make_run(session, make_user(session), "analysis", status="running")
    record_call(session, run.owner_id, "call", minute=1)
    execution = session.get_one(CallExecution, (run.owner_id, "execution"))
    execution.workflow_id = run.id_
    session.add(
        TaskRecord(
            owner_id=run.owner_id,
            cluster="c",
            msg_id="task 1",
            label="fit",
            submitted=START,
            started=START,
            completed=START,
            result_content={"status": "error", "evalue": "a NUL: \0"},
            size=0,
        )
    )
    session.flush()
    query = sa.text(
        "SELECT kind, name, status, parent FROM platform.activity WHERE owner_id = :owner ORDER BY at DESC"
    )
    assert session.execute(query, {"owner": run.owner_id}).all() == [
        ("run", "analysis", "running", None),
        ("call", "task", "finished", str(run.id_)),
        ("task", "fit", "failed", None),
    ]


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({"end_time": None, "call_hash": None}, "running"),
        ({"call_hash": None}, "lost"),
        ({"cached": True}, "cached"),
        ({}, "finished"),
    ],
)
def test_the_status_of_a_call_follows_from_its_job(
    session: Session, owner_id: uuid.UUID, values: dict[str, Any], status: str
) -> None:
    record_call(session, owner_id, "other")
    ended = {"end_time": START, "call_hash": "other"}
    job = {"id": "job", "start_time": START, "task_hash": "task", "execution_id": "execution"}
    session.add(CallJob(**{"owner_id": owner_id, **job, **ended, **values}))
    session.flush()
    query = sa.text("SELECT status FROM platform.activity WHERE owner_id = :owner AND id = 'job'")
    assert session.execute(query, {"owner": owner_id}).scalar_one() == status


@pytest.mark.parametrize("type_", ERRORS)
def test_a_call_that_ended_in_an_error_has_failed(session: Session, owner_id: uuid.UUID, type_: str) -> None:
    record_call(session, owner_id, "call")
    session.execute(sa.update(Value).values(type_=type_))
    query = sa.text("SELECT status FROM platform.activity WHERE owner_id = :owner")
    assert session.execute(query, {"owner": owner_id}).scalar_one() == "failed"


def test_a_page_of_the_list_is_read_from_three_indexes(session: Session, owner_id: uuid.UUID) -> None:
    explain = sa.text(
        "EXPLAIN (COSTS off)"
        " SELECT * FROM platform.activity WHERE owner_id = :owner ORDER BY at DESC LIMIT 50"
    )
    session.execute(sa.text("SET LOCAL enable_seqscan = off"))
    session.execute(sa.text("SET LOCAL enable_bitmapscan = off"))
    plan = "\n".join(session.execute(explain, {"owner": owner_id}).scalars())
    assert "Merge Append" in plan
    for index in (
        "workflow_owner_id_created",
        "call_job_owner_id_start_time",
        "task_record_owner_id_submitted",
    ):
        assert f"Scan Backward using ix_{index}" in plan


# -- what died


def run_call(session: Session, owner_id: uuid.UUID, heartbeat: timedelta | None) -> CallJob:
    """Write a job that runs, in an execution whose last heartbeat is so old."""
    record_call(session, owner_id, "call")
    execution = session.get_one(CallExecution, (owner_id, "execution"))
    execution.updated_time = None if heartbeat is None else datetime.now(timezone.utc) - heartbeat
    described = {"task_hash": "task", "execution_id": "execution"}
    job = CallJob(owner_id=owner_id, id="running", start_time=START, **described)
    session.add(job)
    session.commit()
    return job


def test_a_job_ends_with_the_heartbeat_of_its_execution(
    session: Session, session_factory: sessionmaker[Session], owner_id: uuid.UUID
) -> None:
    job = run_call(session, owner_id, timedelta(hours=1))
    assert recover_all(session_factory, timedelta(minutes=5)) == {"lost": 1}
    execution = session.get_one(CallExecution, (owner_id, "execution"))
    assert (job.end_time, job.call_hash) == (execution.updated_time, None)
    assert recover_all(session_factory, timedelta(minutes=5)) == {}


@pytest.mark.parametrize("heartbeat", [timedelta(minutes=1), None])
def test_a_job_goes_on_while_its_execution_beats_or_never_did(
    session: Session, owner_id: uuid.UUID, heartbeat: timedelta | None
) -> None:
    job = run_call(session, owner_id, heartbeat)
    assert end_lost_calls(session, timedelta(minutes=5)) == 0
    assert job.end_time is None


def test_a_busy_execution_that_starts_jobs_is_alive(session: Session, owner_id: uuid.UUID) -> None:
    job = run_call(session, owner_id, timedelta(hours=1))
    started = {"start_time": datetime.now(timezone.utc), "task_hash": "task", "execution_id": "execution"}
    session.add(CallJob(owner_id=owner_id, id="new", **started))
    session.flush()
    assert end_lost_calls(session, timedelta(minutes=5)) == 0
    assert job.end_time is None


def test_a_look_up_in_a_large_execution_needs_no_statistics(session: Session, owner_id: uuid.UUID) -> None:
    record_call(session, owner_id, "call")
    session.execute(sa.text("SELECT set_config('platform.user_id', :id, true)"), {"id": str(owner_id)})
    calls = """
        INSERT INTO platform.call_node (call_hash, task_name, task_hash, args_hash, value_hash, timestamp)
        SELECT 'call ' || n, 'task', 'task', 'args ' || n, 'value call', now()
        FROM generate_series(1, 20000) AS n
        """
    jobs = """
        INSERT INTO platform.call_job (id, start_time, end_time, task_hash, call_hash, execution_id)
        SELECT n, now() + n * interval '1s', now(), 'task', 'call ' || n, 'execution'
        FROM generate_series(1, 20000) AS n
        """
    for statement in (calls, jobs):
        session.execute(sa.text(statement))
    ask = sa.text(
        "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT * FROM platform.find_cached("
        ":owner, 'task', 'args 1', '', 'execution', NULL, '{CSE}', '{}')"
    )
    for _ in range(2):  # The first one plans.
        plan = session.execute(ask, {"owner": owner_id}).scalar_one()[0]["Plan"]
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 200
