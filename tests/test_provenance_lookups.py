"""Looking up what is recorded: cached results by kind, and what comes next."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.models import User
from platform_db.provenance import Recorder, lookups, recorder
from tests.provenance_rows import NOW, make_owner, put_call, put_everything, put_value, recorders

MakeRecorder = Callable[..., Recorder]


@pytest.fixture
def owner(session: Session) -> User:
    return make_owner(session)


@pytest.fixture
def make_recorder(engine: sa.Engine, owner: User) -> Iterator[MakeRecorder]:
    with recorders(engine, owner) as make:
        yield make


def test_cached_results_are_found_by_kind(
    engine: sa.Engine, make_recorder: MakeRecorder, owner: User
) -> None:
    one = make_recorder()
    put_everything(one)
    one.flush()
    asked = {
        "task_hash": "task",
        "args_hash": "args argument",
        "eval_hash": "eval",
        "execution_id": "execution",
    }
    find = lookups.find_cached
    with engine.connect() as connection:
        for reading in (one.reading, connection):
            hit = find(reading, owner.id_, **asked)
            assert hit is not None
            assert (hit.kind, hit.call_hash, hit.value_hash, hit.value) == ("CSE", "parent", "argument", b"x")
            hit = find(reading, owner.id_, **{**asked, "execution_id": "another"})
            assert hit == lookups.Hit("SINGLE", None, "whole", "bytes", "text/plain", b"x", 1)
            shallow = {**asked, "kinds": ["ULTIMATE"]}
            assert find(reading, owner.id_, **shallow) is None
            hit = find(reading, owner.id_, **shallow, known_tasks={"task", "other"})
            assert hit is not None
            assert hit.kind == "ULTIMATE"
            assert find(reading, owner.id_, **{**asked, "kinds": ["SINGLE"], "eval_hash": "none"}) is None


def test_what_a_cached_result_asks_for_next_is_found_at_once(
    make_recorder: MakeRecorder, owner: User
) -> None:
    one = make_recorder()
    put_everything(one)
    put_call(one, "newest", "whole", children=["child", "parent"])
    one.flush()

    children = lookups.find_children(
        one.reading, owner.id_, task_hash="task", args_hash="args whole", at_most=10
    )
    assert [child.call_hash for child in children] == ["child", "parent"]
    found = lookups.find_evaluations(one.reading, owner.id_, ["none", "eval"], largest=1)
    assert [(row.eval_hash, row.value_hash, row.value) for row in found] == [("eval", "whole", b"x")]
    assert lookups.find_evaluations(one.reading, owner.id_, ["eval"], largest=0) == []


def test_the_evaluations_of_the_calls_that_the_latest_call_made_are_found_at_once(
    make_recorder: MakeRecorder, owner: User
) -> None:
    one = make_recorder()
    put_everything(one)
    # The result of "other" is what the task itself returned; "child" and "parent" made of theirs another one.
    put_call(one, "newest", "whole", children=["child", "parent", "other"])
    row = {"call_hash": "other", "task_name": "fit", "task_hash": "task", "args_hash": "args argument"}
    one.put("call_node", "other", {**row, "value_hash": "whole", "timestamp": NOW}, "record_call_node")
    one.flush()
    asked = {"task_hash": "task", "args_hash": "args whole"}

    found = lookups.find_child_evaluations(one.reading, owner.id_, **asked, at_most=10, largest=1)
    rows = {call: (row.eval_hash, row.value_hash, row.value) for call, row in found.items()}
    assert rows == dict.fromkeys(("child", "parent", "other"), ("eval", "whole", b"x"))
    assert {call: row.call_hash for call, row in found.items()} == {
        "child": None,
        "parent": None,
        "other": "other",
    }
    assert lookups.find_child_evaluations(one.reading, owner.id_, **asked, at_most=10, largest=0) == {}


def test_tables_have_statistics_after_the_first_load(
    engine: sa.Engine, make_recorder: MakeRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "ANALYZE_AFTER", 3)
    own = make_recorder()
    analyzed = sa.text("SELECT reltuples FROM pg_class WHERE oid = 'platform.value'::regclass")
    for rows, found in ((2, -1), (4, 6)):
        for number in range(rows):
            put_value(own, f"{rows} {number}")
        own.flush()
        with engine.connect() as connection:
            assert connection.execute(analyzed).scalar_one() == found
