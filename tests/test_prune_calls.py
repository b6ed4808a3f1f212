"""Pruning executions, calls and values: what is used stays, and each goes once nothing refers to it."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from platform_db import errors
from platform_db.models import (
    CallArgument,
    CallArgumentSource,
    CallExecution,
    CallJob,
    CallNode,
    EntityTag,
    Evaluation,
    Subvalue,
    Value,
)
from platform_db.retention import Pruned, choose_rules, prune, prune_values
from tests.calls import record_call
from tests.factories import make_user

Factory = sessionmaker[Session]


@pytest.fixture
def owner_id(session: Session) -> uuid.UUID:
    owner_id = make_user(session).id_
    session.commit()
    return owner_id


def prune_all(factory: Factory, *tables: str, **options: Any) -> dict[str, Pruned]:
    rules = choose_rules(tables or ("call_execution", "call_node", "value"))
    return {pruned.table: pruned for pruned in prune(factory, rules, **options)}


def names(session: Session, column: Any) -> set[str]:
    session.rollback()
    return set(session.scalars(sa.select(column)))


def age_values(session: Session) -> None:
    """Let two days go by since all values were seen, and since pruning looked at them."""
    session.execute(sa.update(Value).values(seen_at=Value.seen_at - timedelta(days=2)))
    session.execute(sa.text("UPDATE platform.prune_mark SET until = until - interval '2 days'"))
    session.commit()


def add_tag(session: Session, owner_id: uuid.UUID, type_: str, entity: str, **values: Any) -> None:
    tag = {"tag_hash": f"tag {entity}", "entity_type": type_, "entity_id": entity, "key": "key", "value": "x"}
    session.add(EntityTag(owner_id=owner_id, **{**tag, **values}))
    session.flush()


def test_an_old_execution_goes_with_jobs_and_tags_and_then_its_calls_and_values(
    session: Session, session_factory: Factory, owner_id: uuid.UUID
) -> None:
    record_call(session, owner_id, "leaf")
    record_call(session, owner_id, "root", children=("leaf",), minute=1)
    add_tag(session, owner_id, "Job", "job leaf")
    add_tag(session, owner_id, "Execution", "execution")
    add_tag(session, owner_id, "CallNode", "leaf")
    session.commit()
    pruned = prune_all(session_factory)
    assert (pruned["call_execution"].rows, pruned["call_execution"].with_them["call_job"]) == (1, 2)
    assert pruned["call_node"].rows == 2, "the inner call, too, which only the outer one referred to"
    assert names(session, CallNode.call_hash) == names(session, EntityTag.tag_hash) == set()
    assert names(session, Evaluation.eval_hash) == set()
    assert pruned["value"].rows == 0, "they have just lost what referred to them"
    age_values(session)
    assert prune_all(session_factory, "value")["value"].rows == 2
    assert names(session, Value.value_hash) == set()


def test_what_a_younger_execution_uses_stays(
    session: Session, session_factory: Factory, owner_id: uuid.UUID
) -> None:
    for name in ("source", "leaf", "root"):
        record_call(session, owner_id, name, children=("leaf",) if name == "root" else (), execution="old")
    of_root = {
        "owner_id": owner_id,
        "arg_hash": "argument",
        "call_hash": "root",
        "value_hash": "value source",
    }
    session.add(CallArgument(**of_root))
    session.flush()
    session.add(CallArgumentSource(owner_id=owner_id, arg_hash="argument", result_call_hash="source"))
    young = {"execution_id": "young", "task_hash": "task", "call_hash": "root"}
    now = sa.func.now()
    session.add(CallExecution(owner_id=owner_id, id="young", args="[]", job_id="new", updated_time=now))
    session.add(CallJob(owner_id=owner_id, id="new", start_time=now, end_time=now, cached=True, **young))
    session.commit()
    prune_all(session_factory)
    assert names(session, CallExecution.id) == {"young"}
    assert names(session, CallNode.call_hash) == {"root", "leaf", "source"}
    age_values(session)
    assert prune_all(session_factory, "value")["value"].rows == 0


def test_the_jobs_of_a_large_execution_go_in_batches(
    session: Session, session_factory: Factory, owner_id: uuid.UUID
) -> None:
    for number in range(7):
        record_call(session, owner_id, f"call {number}", minute=number)
    session.commit()
    rules = choose_rules(["call_execution"], batch=2)
    (pruned,) = prune(session_factory, rules)
    assert (pruned.rows, pruned.with_them["call_job"]) == (1, 7)
    assert names(session, CallJob.id) == set()


def record_chain(session: Session, owner_id: uuid.UUID, length: int, *, children: int = 1) -> None:
    """Write calls each of which made the one before, or several of those."""
    record_call(session, owner_id, "call 0")
    for number in range(1, length):
        below = tuple(f"call {child}" for child in range(max(0, number - children), number))
        record_call(session, owner_id, f"call {number}", children=below, minute=number)
    argument = {"arg_hash": "argument", "call_hash": f"call {length - 1}", "value_hash": "value call 0"}
    session.add(CallArgument(owner_id=owner_id, **argument))
    session.flush()
    source = {"arg_hash": "argument", "result_call_hash": "call 1"}
    session.add(CallArgumentSource(owner_id=owner_id, **source))
    session.commit()


@pytest.mark.parametrize("children", [1, 3])
def test_calls_that_only_such_calls_refer_to_go_in_the_same_transaction(
    session: Session, session_factory: Factory, owner_id: uuid.UUID, children: int
) -> None:
    record_chain(session, owner_id, 30, children=children)
    prune(session_factory, choose_rules(["call_execution"]))
    told: list[int] = []
    prune(session_factory, choose_rules(["call_node"], batch=10), progress=lambda _, rows: told.append(rows))

    assert told[-1] == 30
    assert len(told) <= 4
    assert names(session, CallNode.call_hash) == names(session, Evaluation.eval_hash) == set()


def test_what_another_holds_of_a_chain_stays_with_all_below_it(
    engine: sa.Engine, session: Session, session_factory: Factory, owner_id: uuid.UUID
) -> None:
    record_chain(session, owner_id, 6)
    prune(session_factory, choose_rules(["call_execution"]))
    with engine.begin() as other:
        held = sa.select(CallNode.call_hash).where(CallNode.call_hash == "call 3")
        other.execute(held.with_for_update(key_share=True))
        prune(session_factory, choose_rules(["call_node"]))
        assert names(session, CallNode.call_hash) == {"call 0", "call 1", "call 2", "call 3"}
    prune(session_factory, choose_rules(["call_node"]))
    assert names(session, CallNode.call_hash) == set()


def test_an_execution_that_is_locked_is_left(
    engine: sa.Engine, session: Session, session_factory: Factory, owner_id: uuid.UUID
) -> None:
    record_call(session, owner_id, "call")
    session.commit()
    with engine.begin() as other:
        other.execute(sa.select(CallExecution.id).with_for_update())
        assert prune_all(session_factory, "call_execution")["call_execution"].left == 1
    assert prune_all(session_factory, "call_execution")["call_execution"].rows == 1


@contextmanager
def recorded_value(session: Session, owner_id: uuid.UUID, name: str = "lone") -> Iterator[Value]:
    value = Value(owner_id=owner_id, value_hash=name, type_="str", format_="x", value=b"123", size=3)
    session.add(value)
    session.flush()
    yield value
    session.commit()
    age_values(session)


def test_a_value_is_kept_for_a_day_whatever_age_is_asked_for(
    session: Session, session_factory: Factory, owner_id: uuid.UUID
) -> None:
    session.add(Value(owner_id=owner_id, value_hash="new", type_="str", format_="x", value=b"", size=0))
    session.commit()
    (pruned,) = prune(session_factory, choose_rules(["value"], older_than=timedelta(0)))
    assert pruned.rows == 0


def test_a_tagged_value_and_a_context_stay(
    session: Session, session_factory: Factory, owner_id: uuid.UUID
) -> None:
    for name in ("tagged", "context", "lone"):
        with recorded_value(session, owner_id, name):
            pass
    add_tag(session, owner_id, "Value", "tagged")
    add_tag(session, owner_id, "CallNode", "call", key="redun.context", value="context")
    session.commit()
    assert prune_all(session_factory, "value", dry_run=True)["value"].rows == 1
    assert prune_all(session_factory, "value")["value"].rows == 1
    assert names(session, Value.value_hash) == {"tagged", "context"}


def test_a_value_that_lost_its_tag_is_looked_at_again(
    session: Session, session_factory: Factory, owner_id: uuid.UUID
) -> None:
    with recorded_value(session, owner_id, "tagged"):
        add_tag(session, owner_id, "Value", "tagged")
    assert prune_all(session_factory, "value")["value"].rows == 0
    session.execute(sa.update(EntityTag).values(is_current=False))
    session.commit()
    assert prune_all(session_factory, "value")["value"].rows == 0
    age_values(session)
    assert prune_all(session_factory, "value")["value"].rows == 1


def test_a_part_of_a_value_goes_a_day_after_the_whole(
    session: Session, session_factory: Factory, owner_id: uuid.UUID
) -> None:
    with recorded_value(session, owner_id, "part"):
        pass
    with recorded_value(session, owner_id, "whole"):
        session.add(Subvalue(owner_id=owner_id, parent_value_hash="whole", value_hash="part"))
    assert prune_all(session_factory, "value")["value"].rows == 1
    assert prune_all(session_factory, "value")["value"].rows == 0
    age_values(session)
    assert prune_all(session_factory, "value")["value"].rows == 1


def test_a_value_that_is_recorded_again_is_kept(
    session: Session, session_factory: Factory, owner_id: uuid.UUID
) -> None:
    with recorded_value(session, owner_id):
        pass
    session.execute(sa.select(sa.func.platform.keep_values(owner_id, ["lone", "other"])))
    session.commit()
    assert prune_all(session_factory, "value")["value"].rows == 0


def test_the_former_value_of_an_evaluation_is_looked_at_again(
    session: Session, session_factory: Factory, owner_id: uuid.UUID
) -> None:
    record_call(session, owner_id, "call")
    session.execute(sa.update(CallNode).values(value_hash="value call"))
    with recorded_value(session, owner_id):
        pass
    evaluation = session.get_one(Evaluation, (owner_id, "eval call"))
    evaluation.value_hash = "lone"
    session.commit()
    prune_all(session_factory, "value")
    evaluation.value_hash = "value call"
    session.commit()
    assert prune_all(session_factory, "value")["value"].rows == 0
    age_values(session)
    assert prune_all(session_factory, "value")["value"].rows == 1


def test_a_value_that_a_writer_holds_is_left_and_looked_at_again(
    engine: sa.Engine, session: Session, session_factory: Factory, owner_id: uuid.UUID
) -> None:
    with recorded_value(session, owner_id):
        pass
    with engine.begin() as writer:
        writer.execute(sa.select(Value.value_hash).with_for_update(key_share=True))
        assert prune_all(session_factory, "value")["value"].left == 1
    assert prune_all(session_factory, "value")["value"].rows == 1


def test_a_value_that_was_locked_when_it_lost_its_reference_is_looked_at_within_a_month(
    session: Session, session_factory: Factory, owner_id: uuid.UUID
) -> None:
    with recorded_value(session, owner_id):
        pass
    session.execute(sa.text("UPDATE platform.prune_mark SET until = now()"))
    session.commit()
    assert prune_all(session_factory, "value")["value"].rows == 1, "all were looked at never yet"
    with recorded_value(session, owner_id):
        pass
    mark = "UPDATE platform.prune_mark SET until = now() - interval '{}' WHERE name = 'all values'"
    session.execute(sa.text(mark.format("29 days")))
    session.execute(sa.text("UPDATE platform.prune_mark SET until = now() WHERE name = 'value'"))
    session.commit()
    assert prune_all(session_factory, "value")["value"].rows == 0
    session.execute(sa.text(mark.format("31 days")))
    session.commit()
    assert prune_all(session_factory, "value")["value"].rows == 1


def test_many_values_are_looked_at_page_by_page(
    session: Session, session_factory: Factory, owner_id: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune_values, "_SEEN", sa.text(str(prune_values._SEEN).replace("100000", "3")))
    monkeypatch.setattr(prune_values, "LOOK", 3)
    values = {"type_": "str", "format_": "x", "value": b"1", "size": 1, "owner_id": owner_id}
    session.add_all(Value(value_hash=f"value {number}", **values) for number in range(10))
    session.commit()
    age_values(session)
    assert prune_all(session_factory, "value")["value"].rows == 10


def test_the_files_of_values_without_a_row_go_a_day_later(
    session: Session, session_factory: Factory, owner_id: uuid.UUID, tmp_path: Path
) -> None:
    def put(*path: str, days: int = 2) -> Path:
        file = tmp_path.joinpath(*path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
        os.utime(file, (time.time() - days * 86_400 - 1,) * 2)
        return file

    record_call(session, owner_id, "call")
    session.commit()
    own, outside = str(owner_id), put("outside", "file")
    gone = [put(own, "ab", "cdef"), put(own, "ab", "cdef.part"), put(str(uuid.uuid4()), "va", "lue call")]
    kept = [outside, put(own, "va", "lue call"), put(own, "ab", "0123", days=0), put("ab", "cdef")]
    (tmp_path / own / "ou").symlink_to(outside.parent)
    (tmp_path / own / "ab" / "\udcff").touch()
    (pruned,) = prune(session_factory, choose_rules(["value"]), value_store=tmp_path)

    assert pruned.with_them["value file"] == len(gone)
    assert not any(file.exists() for file in gone)
    assert all(file.exists() for file in kept)
    with pytest.raises(errors.StorageMissing):
        prune(session_factory, choose_rules(["value"]), value_store=tmp_path / "nowhere")


@pytest.mark.parametrize("table", ["call_node", "value"])
def test_a_deadlock_does_not_end_a_pruning(
    session: Session, session_factory: Factory, owner_id: uuid.UUID, engine: sa.Engine, table: str
) -> None:
    record_chain(session, owner_id, 3)
    prune_all(session_factory, "call_execution")
    if table == "value":
        prune_all(session_factory, "call_node")
        age_values(session)
    failed: list[str] = []

    @sa.event.listens_for(engine, "before_cursor_execute", retval=True)
    def fail_once(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> tuple[str, Any]:
        if f"DELETE FROM platform.{table}" in statement and not failed:
            failed.append(statement)
            return "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40P01'; END $$", ()
        return statement, parameters

    try:
        assert prune_all(session_factory, table)[table].rows == 3
    finally:
        sa.event.remove(engine, "before_cursor_execute", fail_once)
    assert failed
