"""Provenance: calls are recorded, found again by what they were, explained, and traced."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session, sessionmaker

from platform_db import errors
from platform_db.models import CallExecution, CallJob, User, Value
from platform_db.provenance import (
    Call,
    CallStore,
    Direction,
    Reason,
    Result,
    Task,
    calls,
    describe,
    explain_miss,
    find_entity,
    lineage,
    list_executions,
)
from platform_db.retention import choose_rules, prune
from tests.command_line import run
from tests.factories import make_run, make_user

MakeStore = Callable[..., CallStore]


@pytest.fixture
def owner(session: Session) -> User:
    user = make_user(session)
    session.refresh(user)
    session.expunge(user)
    session.rollback()
    return user


@pytest.fixture
def make_store(engine: sa.Engine, owner: User) -> Iterator[MakeStore]:
    """Give a function that makes stores, each as a program of its own would."""
    made: list[CallStore] = []

    def make(owner: Any = owner.id_) -> CallStore:
        made.append(CallStore(sa.create_engine(engine.url), owner))
        return made[-1]

    yield make
    for store in made:
        store.close()


@pytest.fixture
def store(make_store: MakeStore) -> CallStore:
    return make_store()


def make_call(
    store: CallStore,
    task: Task,
    arguments: Any,
    result: Any = None,
    *,
    execution: str | None = None,
    parent: Call | None = None,
) -> Result:
    """Call a task as a program does: from the cache, where there is a result."""
    call = store.begin_call(
        task, arguments, execution=execution or store.begin_execution(["fit.py"]), parent=parent
    )
    found = store.find_cached(call)
    return store.end_call(call, result if found is None else found)


def begin(store: CallStore, task: Task, arguments: Any) -> Call:
    return store.begin_call(task, arguments, execution=store.begin_execution())


@pytest.mark.parametrize(
    "value", [None, 0, 1.5, "ü\0", [1, {"b": 2, "a": [True]}], b"", b"\0\xff", {"x": "\ud800"}]
)
def test_a_value_comes_back(store: CallStore, make_store: MakeStore, value: Any) -> None:
    hash_ = store.record_value(value)
    assert store.get_value(hash_) == value
    store.flush()

    assert make_store().get_value(hash_) == value


def test_equal_values_are_one_and_unequal_ones_are_not(store: CallStore) -> None:
    assert store.record_value({"a": 1, "b": 2}) == store.record_value({"b": 2, "a": 1})
    assert len({store.record_value(value) for value in (1, "1", b"1", 1.0, True, None, [1])}) == 7
    with pytest.raises(errors.InvalidArgument):
        store.record_value(object())


def test_a_result_is_found_by_the_task_and_its_arguments(store: CallStore, make_store: MakeStore) -> None:
    fit = store.record_task("fit", "code", namespace="lab")
    made = make_call(store, fit, {"events": 3, "raw": b"\0"}, {"mass": 125})
    store.flush()

    later = make_store()
    fit = later.record_task("fit", "code", namespace="lab")
    found = later.find_cached(begin(later, fit, {"raw": b"\0", "events": 3}))
    assert found == Result({"mass": 125}, made.value_hash, made.call_hash, is_cached=True)
    assert later.find_cached(begin(later, fit, {"raw": b"\0", "events": 4})) is None
    assert later.find_cached(begin(later, later.record_task("fit", "other"), {"events": 3})) is None


def test_a_version_stands_for_the_code(store: CallStore) -> None:
    make_call(store, store.record_task("fit", "code", version="1"), [], "done")
    assert store.find_cached(begin(store, store.record_task("fit", "mended", version="1"), [])) is not None
    assert store.find_cached(begin(store, store.record_task("fit", "code", version="2"), [])) is None


def test_a_busy_execution_beats_when_a_call_ends(
    store: CallStore, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "HEARTBEAT", timedelta(0))
    make_call(store, store.record_task("fit"), [1], "done")
    store.flush()

    beaten = session.scalars(sa.select(CallExecution.updated_time)).one()
    assert beaten >= session.scalars(sa.select(CallJob.end_time)).one()


def test_another_owner_finds_nothing(store: CallStore, make_store: MakeStore, session: Session) -> None:
    fit = store.record_task("fit")
    made = make_call(store, fit, [1], "secret")
    store.flush()

    theirs = make_store(make_user(session).id_)
    assert theirs.find_cached(begin(theirs, theirs.record_task("fit"), [1])) is None
    with pytest.raises(errors.NotFound):
        theirs.get_value(made.value_hash)


def run_pipeline(store: CallStore, count_code: str = "v1") -> tuple[Result, Result, Result]:
    """Call ``main``, which calls ``load`` and, with its result, ``count``."""
    main, load = store.record_task("main", "m"), store.record_task("load", "l")
    count = store.record_task("count", count_code)
    execution = store.begin_execution(["pipeline.py", "--fast"])
    outer = store.begin_call(main, {"path": "/data"}, execution=execution)
    found = store.find_cached(outer)
    if found is not None:
        return store.end_call(outer, found), found, found
    data = make_call(store, load, ["/data"], [1, 2, 3], execution=execution, parent=outer)
    number = make_call(store, count, {"rows": data, "by": "id"}, 3, execution=execution, parent=outer)
    return store.end_call(outer, number), data, number


def test_new_code_of_a_task_below_makes_a_call_run_again(store: CallStore, make_store: MakeStore) -> None:
    first, _, number = run_pipeline(store)
    assert (first.value, first.is_cached) == (3, False)
    again, *_ = run_pipeline(store)
    assert again.is_cached
    store.flush()

    changed = make_store()
    third, data, number = run_pipeline(changed, "v2")
    assert (third.is_cached, data.is_cached, number.is_cached) == (False, True, False)


def test_a_failed_call_is_made_again(store: CallStore, session: Session, owner: User) -> None:
    fit = store.record_task("fit")
    call = begin(store, fit, [1])
    store.fail_call(call, "no convergence")
    assert store.find_cached(begin(store, fit, [1])) is None
    store.flush()

    (failed, running) = sorted(execution.status for execution in list_executions(session, owner).rows)
    assert (failed, running) == ("failed", "running")


def test_results_within_an_argument_are_its_sources(
    store: CallStore, session: Session, owner: User, make_store: MakeStore
) -> None:
    load, add = store.record_task("load"), store.record_task("add")
    parts = [make_call(store, load, [number], number) for number in range(2)]
    made = make_call(store, add, {"parts": parts}, 1)
    store.flush()

    (step, *sources) = lineage(session, owner, made.call_hash)
    assert set(step.arguments[0].sources) == {part.call_hash for part in parts}
    assert {source.task_name for source in sources} == {"load"}
    again = make_store()
    load, add = again.record_task("load"), again.record_task("add")
    parts = [make_call(again, load, [number]) for number in range(2)]
    assert make_call(again, add, {"parts": parts}).is_cached


def test_what_another_store_of_the_process_has_just_recorded_is_found(engine: sa.Engine, owner: User) -> None:
    with CallStore(engine, owner.id_) as store, CallStore(engine, owner.id_) as other:
        made = make_call(store, store.record_task("fit"), [1], "done")
        found = other.find_cached(begin(other, other.record_task("fit"), [1]))
    assert found is not None
    assert found.call_hash == made.call_hash


def test_a_call_is_not_found_by_less_than_its_tasks_where_one_was_pruned_meanwhile(
    store: CallStore, session: Session, make_store: MakeStore
) -> None:
    inner, outer = store.record_task("inner", "v1"), store.record_task("outer")
    make_call(store, inner, [], 1)
    execution = store.begin_execution()
    parent = store.begin_call(outer, [], execution=execution)
    child = store.begin_call(inner, [], execution=execution, parent=parent)
    found = store.find_cached(child)
    store.flush()
    session.execute(sa.text("DELETE FROM platform.call_subtree_task"))
    session.commit()
    assert found is not None
    store.end_call(child, found)
    store.end_call(parent, 1)
    store.flush()

    later = make_store()
    later.record_task("inner", "v2")
    assert later.find_cached(begin(later, later.record_task("outer"), [])) is None


def test_an_execution_of_another_store_is_refused(store: CallStore) -> None:
    with pytest.raises(errors.NotFound, match="this store began no execution"):
        store.begin_call(store.record_task("fit"), [], execution="other")
    with pytest.raises(errors.NotFound):
        store.record_heartbeat("other")


# Why a call ran


def test_a_miss_is_explained(store: CallStore) -> None:
    fit = store.record_task("fit", "code", version="1")
    assert store.explain_miss(begin(store, fit, {"events": 3})) == (Reason.new_task, None, None, (), ())
    made = make_call(store, fit, {"events": 3, "seed": 1}, "done")
    assert store.explain_miss(begin(store, fit, {"events": 3, "seed": 1})) is None

    miss = store.explain_miss(begin(store, fit, {"events": 4, "seed": 1}))
    assert miss is not None
    assert (miss.reason, miss.call_hash) == (Reason.new_arguments, made.call_hash)
    three, four = store.record_value(3), store.record_value(4)
    assert miss.arguments == (("events", three, four),)
    newer = store.record_task("fit", "code", version="2")
    miss = store.explain_miss(begin(store, newer, {"events": 3, "seed": 1}))
    assert miss is not None
    assert (miss.reason, miss.task_hash) == (Reason.new_version, fit.hash)
    mended = store.record_task("fit", "mended")
    for arguments, reason in (
        ({"events": 3, "seed": 1}, Reason.new_code),
        ({"events": 3}, Reason.new_code_and_arguments),
    ):
        miss = store.explain_miss(begin(store, mended, arguments))
        assert miss is not None
        assert miss.reason is reason


def test_a_miss_by_new_code_below_names_the_task(store: CallStore, make_store: MakeStore) -> None:
    run_pipeline(store)
    store.flush()
    later = make_store()
    main = later.record_task("main", "m")
    later.record_task("load", "l")
    later.record_task("count", "v2")

    miss = later.explain_miss(begin(later, main, {"path": "/data"}))
    assert miss is not None
    assert (miss.reason, miss.tasks) == (Reason.new_code_below, ("count",))


def test_a_miss_by_a_pruned_result_is_told(store: CallStore, session: Session, owner: User) -> None:
    fit = store.record_task("fit")
    make_call(store, fit, [1], "done")
    store.close()
    rules = choose_rules(["call_execution", "call_node"], older_than=timedelta(0))
    list(prune(sessionmaker(session.get_bind()), rules))
    again = begin(store, store.record_task("fit"), [1])

    miss = store.explain_miss(again)
    assert miss is not None
    assert miss.reason is Reason.pruned
    store.end_call(again, "done")
    store.flush()
    assert explain_miss(session, owner, again.id_).reason is Reason.pruned


def test_a_job_says_why_it_ran(store: CallStore, session: Session, owner: User) -> None:
    fit = store.record_task("fit")
    make_call(store, fit, [1], "one")
    call = begin(store, fit, [2])
    with pytest.raises(errors.NotFound):
        explain_miss(session, owner, "none")
    store.flush()
    with pytest.raises(errors.Refused, match="not ended"):
        explain_miss(session, owner, call.id_)
    store.end_call(call, "two")
    again = begin(store, fit, [2])
    found = store.find_cached(again)
    assert found is not None
    store.end_call(again, found)
    store.flush()

    miss = explain_miss(session, owner, call.id_)
    assert (miss.reason, [argument.name for argument in miss.arguments]) == (Reason.new_arguments, ["0"])
    with pytest.raises(errors.Refused, match="from the cache"):
        explain_miss(session, owner, again.id_)


# Lineage


def test_a_result_is_traced_to_what_it_came_from(store: CallStore, session: Session, owner: User) -> None:
    _, data, number = run_pipeline(store)
    store.flush()

    steps = lineage(session, owner, number.call_hash)
    assert [(step.depth, step.task_name) for step in steps] == [(0, "count"), (1, "load")]
    assert [argument.name for argument in steps[0].arguments] == ["by", "rows"]
    assert steps[0].arguments[1] == ("rows", data.value_hash, "json", (data.call_hash,))
    assert {step.task_name for step in lineage(session, owner, number.value_hash)} == {
        "main",
        "count",
        "load",
    }
    assert len(lineage(session, owner, number.call_hash, depth=0)) == 1
    assert len(lineage(session, owner, number.value_hash, limit=2)) == 2


def test_a_value_is_traced_to_what_came_of_it(store: CallStore, session: Session, owner: User) -> None:
    _, data, number = run_pipeline(store)
    store.flush()

    down = Direction.down
    steps = lineage(session, owner, store.record_value("/data"), direction=down)
    assert [(step.depth, step.task_name) for step in steps if step.task_name != "main"] == [
        (0, "load"),
        (1, "count"),
    ]
    assert [step.call_hash for step in lineage(session, owner, data.value_hash, direction=down)] == [
        number.call_hash
    ]
    with pytest.raises(errors.NotFound):
        lineage(session, owner, "none")
    with pytest.raises(errors.NotFound):
        lineage(session, make_user(session), data.value_hash)


# Reading


def test_executions_are_listed_page_by_page(store: CallStore, session: Session, owner: User) -> None:
    workflow = make_run(session, session.get_one(User, owner.id_))
    fit = store.record_task("fit", namespace="lab")
    for number in range(5):
        execution = store.begin_execution(["fit.py", str(number)], workflow=workflow.id_)
        make_call(store, fit, [number], number, execution=execution)
        store.record_heartbeat(execution)
    store.flush()

    page = list_executions(session, owner, limit=3)
    rest = list_executions(session, owner, limit=3, cursor=page.cursor)
    assert [row.arguments[1] for row in (*page.rows, *rest.rows)] == ["4", "3", "2", "1", "0"]
    assert rest.cursor is None
    last = page.rows[0]
    assert (last.task_name, last.status, last.workflow_id) == ("lab.fit", "finished", workflow.id_)
    with pytest.raises(errors.InvalidIdentifier):
        list_executions(session, owner, cursor="x")


def test_whatever_has_an_id_is_described(store: CallStore, session: Session, owner: User) -> None:
    _, data, number = run_pipeline(store)
    store.flush()
    (execution,) = list_executions(session, owner).rows
    facts = describe(session, owner, execution.id)
    assert (facts["kind"], facts["jobs"]) == ("execution", {"finished": 3})
    job = describe(session, owner, facts["first_job"])
    assert (job["task"], job["status"], job["children"]) == ("main", "finished", 2)
    call = describe(session, owner, job["call"][:12])
    assert call["calls"] == [data.call_hash, number.call_hash]
    assert describe(session, owner, call["result"])["json"] == 3
    assert describe(session, owner, call["task_hash"])["code"] == "m"
    with pytest.raises(errors.NotFound):
        find_entity(session, owner, "%")
    with pytest.raises(errors.AmbiguousIdentifier):
        find_entity(session, owner, "")


SECRETS = [
    "run.py",
    "--db=postgresql://ada:hunter2@host/db",
    "--db=postgresql://ada@host/db?password=hunter2&sslpassword=hunter2&port=1",
    "--api-token",
    "hunter2",
    "--password=hunter2",
    "SECRET_KEY=hunter2",
    "--tokens",
    "--fast",
]
SHOWN = [
    "run.py",
    "--db=postgresql://ada:...@host/db",
    "--db=postgresql://ada@host/db?password=...&sslpassword=...&port=1",
    "--api-token",
    "...",
    "--password=...",
    "SECRET_KEY=...",
    "--tokens",
    "--fast",
]


@pytest.mark.parametrize("stored", [json.dumps(SECRETS), " ".join(SECRETS), None])
def test_no_secret_of_a_command_line_is_shown(
    store: CallStore, session: Session, owner: User, stored: str | None
) -> None:
    make_call(store, store.record_task("fit"), [], 1, execution=store.begin_execution(SECRETS))
    store.flush()
    if stored is None:
        assert (
            "hunter2" not in session.execute(sa.text("SELECT args FROM platform.call_execution")).scalar_one()
        )
    else:  # As another program wrote it.
        session.execute(sa.text("UPDATE platform.call_execution SET args = :stored"), {"stored": stored})

    (execution,) = list_executions(session, owner).rows
    assert " ".join(execution.arguments) == " ".join(SHOWN)
    assert describe(session, owner, execution.id)["arguments"] == execution.arguments


@pytest.mark.parametrize(("content", "size"), [(b"", 5), (b"{[", 2), (b"\xff", 1), (b"[" * 9999, 9999)])
def test_a_value_of_another_programs_json_is_described(
    session: Session, owner: User, content: bytes, size: int
) -> None:
    row = {"value_hash": "v", "type_": "json", "format_": "application/json", "value": content, "size": size}
    session.add(Value(owner_id=owner.id_, **row))
    facts = describe(session, owner, "v")
    assert (facts["json"], facts["size"]) == (None, size)


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_an_id_that_no_row_can_have_is_refused(
    store: CallStore, session: Session, owner: User, text: str
) -> None:
    for look in (find_entity, describe, lineage, explain_miss):
        with pytest.raises(errors.InvalidText):
            look(session, owner, text)
        session.rollback()
    with pytest.raises(errors.InvalidText):
        store.get_value(text)


def test_a_value_that_very_many_calls_took_is_traced_within_the_limit(
    store: CallStore, session: Session, owner: User
) -> None:
    fit, first = store.record_task("fit"), store.record_task("first")
    made = make_call(store, first, [], 1)
    for number in range(20):
        make_call(store, fit, [made, number], number)
    store.flush()
    rows: list[int] = []
    event.listen(session.get_bind(), "after_cursor_execute", lambda *given: rows.append(given[1].rowcount))
    assert len(lineage(session, owner, made.call_hash, direction=Direction.down, limit=5)) == 5
    assert max(rows) <= 10


def test_provenance_on_the_command_line(store: CallStore, database_uri: str, owner: User) -> None:
    _, data, number = run_pipeline(store)
    fit = store.record_task("fit")
    make_call(store, fit, [1], "one")
    second = begin(store, fit, [2])
    store.end_call(second, "two")
    store.flush()

    def ask(*arguments: str) -> str:
        return run(database_uri, "provenance", arguments[0], owner.email, *arguments[1:]).output

    listed = json.loads(ask("log", "--json"))
    assert [row["task_name"] for row in listed] == ["fit", "fit", "main"]
    assert listed[2]["arguments"] == ["pipeline.py", "--fast"]
    assert "pipeline.py" in ask("log")
    assert "task       count" in ask("show", number.call_hash[:10]).replace("task_hash", "")
    assert ask("explain", second.id_).startswith("new_arguments: ")
    assert ask("explain", second.id_[:-1]).startswith("new_arguments: ")
    assert json.loads(ask("explain", second.id_, "--json"))["reason"] == "new_arguments"
    traced = ask("lineage", number.call_hash)
    assert traced.splitlines()[2].startswith(f"  load {data.call_hash[:8]}")
    assert json.loads(ask("lineage", data.value_hash, "--down", "--json"))[0]["task_name"] == "count"
    hostile = begin(store, fit, {"a\n\x1b[31m": 1})
    store.end_call(hostile, "three")
    store.flush()
    assert "argument a\\n\\x1b[31m: none then" in ask("explain", hostile.id_)
    missing = run(database_uri, "provenance", "show", owner.email, "none")
    assert missing.exit_code == errors.NotFound.exit_code
