"""Creating runs without a unit of work: any number in one statement, and each once under its key."""

from __future__ import annotations

import itertools
import json
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import Session

from platform_db import database, errors
from platform_db.database.session import SessionFactory
from platform_db.identifiers import new_id
from platform_db.lifecycle import transition
from platform_db.models import IdempotencyKey, User, Workflow
from platform_db.queue import requeue
from platform_db.retention import choose_rules, prune
from platform_db.tenancy import tenant_scope
from platform_db.testing.statements import assert_num_statements
from platform_db.workflows import CreatedWorkflow, cancel, create_workflow, create_workflows
from tests.factories import make_run, make_user, rule_of
from tests.processes import in_processes

NOT_COMPARED = {"id_", "workspace_path", "run_number_major", "created", "updated"}

EVERY_OPTION: dict[str, Any] = {
    "status": "queued",
    "priority": 7,
    "labels": {"team": "a"},
    "start_after": datetime(2030, 1, 1, tzinfo=timezone.utc),
    "input_parameters": {"n": 1},
    "operational_options": {"cache": "off"},
    "engine_specific": {"x": [1, None]},
    "complexity": [[8, 1024]],
    "workspace_path": "/data/./runs//one/",
    "git_ref": "main",
    "git_repo": "https://git.example.org/x",
    "git_provider": "gitlab",
    "launcher_url": "https://example.org/launch",
}


@pytest.fixture
def owner(session: Session) -> User:
    return make_user(session)


def columns(run: Workflow) -> dict[str, Any]:
    names = (column.key for column in sa.inspect(Workflow).column_attrs)
    return {name: getattr(run, name) for name in names if name not in NOT_COMPARED}


def count_runs(session: Session) -> int:
    return session.scalar(sa.select(sa.func.count()).select_from(Workflow)) or 0


def create(session: Session, owner: User, key: str | None = None, **options: Any) -> CreatedWorkflow:
    return create_workflow(
        session, owner, "analysis", {"steps": ["fit"]}, type_="serial", idempotency_key=key, **options
    )


def end(session: Session, created: CreatedWorkflow) -> None:
    """End a run, as in life."""
    for status in ("queued", "running", "failed"):
        session.execute(sa.update(Workflow).where(Workflow.id_ == created.id_).values(status=status))
    session.commit()


# -- the same as by the ORM


@pytest.mark.parametrize("options", [{}, EVERY_OPTION], ids=["defaults", "every option"])
def test_a_run_is_stored_as_its_constructor_would(
    session: Session, owner: User, options: dict[str, Any]
) -> None:
    with assert_num_statements(1):
        created = create_workflow(session, owner, "analysis", {"steps": []}, type_="serial", **options)
    by_orm = make_run(session, owner, specification={"steps": []}, **options)

    run = session.get_one(Workflow, (owner.id_, created.id_))
    assert columns(run) == columns(by_orm)
    assert (created.owner_id, created.run_number, created.is_new) == (owner.id_, run.run_number, True)
    assert run.workspace_path == by_orm.workspace_path.replace(str(by_orm.id_), str(run.id_))


REFUSED: list[dict[str, Any]] = [
    {"id_": "no-id"},
    {"owner_id": "no-id"},
    {"owner_id": uuid.UUID(int=1)},
    {"name": "a\0b"},
    {"name": "half \ud800"},
    {"name": "n" * 1025},
    {"name": ""},
    {"specification": {"text": "a\0b"}},
    {"labels": {"team": "\ud800"}},
    {"complexity": float("nan")},
    {"status": "no-status"},
    {"workspace_path": "/"},
    {"workspace_path": "/" + "p" * 2048},
    {"run_number": "2.x"},
    {"restart": True},
    {"restart": True, "run_number": "7"},
]


def test_what_the_constructor_refuses_is_refused_alike(session: Session, owner: User) -> None:
    asked = {"owner_id": owner.id_, "name": "never", "type_": "serial", "specification": {}}

    def refusal(act: Callable[[], Any]) -> type[BaseException]:
        with pytest.raises(Exception) as refused:
            act()
        session.rollback()
        return type(refused.value)

    def by_orm(values: dict[str, Any]) -> None:
        session.add(Workflow(**values))
        session.flush()

    for wrong in REFUSED:
        values = {**asked, **wrong}
        given: dict[str, Any] = {"owner" if name == "owner_id" else name: values[name] for name in values}
        keyed = {**given, "idempotency_key": "one"}
        refusals = {
            "by the ORM": refusal(lambda values=values: by_orm(values)),
            "alone": refusal(lambda given=given: create_workflow(session, **given)),
            "with a key": refusal(lambda keyed=keyed: create_workflow(session, **keyed)),
            "of many": refusal(lambda given=given, keyed=keyed: create_workflows(session, [given, keyed])),
        }
        assert len(set(refusals.values())) == 1, (wrong, refusals)
    assert count_runs(session) == 0


NO_VALUES: list[tuple[dict[str, Any], str]] = [
    ({"name": None}, "name is text, not None"),
    ({"type_": ["serial"]}, r"type_ is text, not \['serial'\]"),
    ({"git_ref": 3}, "git_ref is text, not 3"),
    ({"run_number": 2.1}, "run_number is text, not 2.1"),
    ({"idempotency_key": 7}, "idempotency_key is text, not 7"),
    ({"idempotency_key": b"k"}, "idempotency_key is text, not b'k'"),
    ({"priority": "high"}, "priority must be a number from -2147483648 to 2147483647"),
    ({"priority": 1.5}, "priority must be a number"),
    ({"priority": 2**31}, "priority must be a number"),
    ({"labels": ["a"]}, r"labels are a mapping of values by their names, not \['a'\]"),
    ({"start_after": datetime(2030, 1, 1)}, "start_after is a time with its time zone, not "),  # noqa: DTZ001
    ({"start_after": "2030-01-01"}, "start_after is a time with its time zone, not "),
    ({"restart": "yes"}, "restart is True or False, not 'yes'"),
    ({"specification": {1, 2}}, "cannot be stored as JSON: Object of type set"),
    ({"no_such": 1, "nor_such": 2}, "a run to create has no no_such, nor_such; choose from complexity, "),
]


@pytest.mark.parametrize(("wrong", "message"), NO_VALUES)
def test_what_is_no_value_for_a_run_is_refused_in_one_line(
    session: Session, owner: User, wrong: dict[str, Any], message: str
) -> None:
    asked: dict[str, Any] = {"owner": owner, "name": "never", "type_": "serial"}
    for act in (
        lambda: create_workflow(session, **{**asked, **wrong}),
        lambda: create_workflows(session, [asked, {**asked, **wrong}]),
    ):
        with pytest.raises(errors.InvalidArgument, match=message):
            act()
    assert count_runs(session) == 0


def test_one_of_many_says_what_it_lacks(session: Session, owner: User) -> None:
    with pytest.raises(errors.InvalidArgument, match=r"a run to create needs name, type_$"):
        create_workflows(session, [{"owner": owner}])
    with pytest.raises(errors.InvalidArgument, match="is a mapping of options"):
        create_workflows(session, ["analysis"])  # type: ignore[list-item]


def test_an_owner_who_is_no_user_is_not_found(session: Session, owner: User) -> None:
    asked: dict[str, Any] = {"name": "never", "type_": "serial"}
    for act in (
        lambda: create_workflow(session, new_id(), **asked),
        lambda: create_workflow(session, new_id(), **asked, idempotency_key="k"),
        lambda: create_workflows(session, [{**asked, "owner": owner}, {**asked, "owner": new_id()}]),
        lambda: (session.add(Workflow(owner_id=new_id(), **asked)), session.flush()),
    ):
        with pytest.raises(errors.UserNotFound, match="the owner is no user"):
            act()
        session.rollback()


def test_an_id_is_given_once(session: Session, owner: User) -> None:
    asked: dict[str, Any] = {"owner": owner.id_, "name": "analysis", "type_": "serial", "id_": new_id()}
    for act in (
        lambda: create_workflows(session, [asked, asked]),
        lambda: create_workflows(session, [{**asked, "idempotency_key": key} for key in ("a", "b")]),
        lambda: [create_workflow(session, **asked, idempotency_key=key) for key in ("a", "b")],
    ):
        with pytest.raises(errors.WorkflowExists, match="has this id already"):
            act()
        session.rollback()


def test_a_new_user_of_the_session_may_own_it(session: Session) -> None:
    owner = User(email="new@example.org")
    session.add(owner)
    assert create(session, owner).run_number == "1"


def test_restarts_are_numbered_and_inactivate_rules_that_the_session_holds(
    session: Session, owner: User
) -> None:
    first = make_run(session, owner, status="failed")
    rule = rule_of(first, datetime.now(timezone.utc) + timedelta(days=1))
    session.add(rule)
    session.commit()
    assert rule.status == "active"
    path = first.workspace_path
    assert create(session, owner, restart=True, run_number="1", workspace_path=path).run_number == "1.1"
    assert rule.status == "inactive"
    assert create(session, owner, restart=True).run_number == "1.2"
    assert create(session, owner, run_number="4.2").run_number == "4.2"
    assert create(session, owner).run_number == "5"


# -- many in one statement


def test_many_are_created_in_one_statement_and_come_in_the_order_given(session: Session) -> None:
    owners = [make_user(session) for _ in range(3)]
    asked = [
        {"owner": owner, "name": name, "type_": "serial", "specification": {"n": n}, "priority": n or None}
        for n, (name, owner) in enumerate(itertools.product(("a", "b", "a"), owners))
    ]
    with assert_num_statements(1):
        created = create_workflows(session, asked)
    assert [one.run_number for one in created] == ["1"] * 6 + ["2"] * 3
    for one, wanted in zip(created, asked, strict=True):
        run = session.get_one(Workflow, (one.owner_id, one.id_))
        found = (run.owner, run.name, run.run_number, run.specification, run.priority)
        assert found == (
            wanted["owner"],
            wanted["name"],
            one.run_number,
            wanted["specification"],
            wanted["priority"],
        )
    assert create_workflows(session, []) == []


def test_runs_with_and_without_keys_are_created_together(session: Session, owner: User) -> None:
    known = create(session, owner, "known")
    session.commit()
    asked = {"owner": owner, "name": "analysis", "type_": "serial", "specification": {"steps": ["fit"]}}
    later = {"idempotency_key": "later", "start_after": datetime(2030, 1, 1, tzinfo=timezone.utc)}
    keys = [{"idempotency_key": key} if key else {} for key in ("", "new", "known", "new", "")]
    created = create_workflows(session, [{**asked, **given} for given in (*keys, later)])
    assert [one.run_number for one in created] == ["2", "3", "1", "3", "4", "5"]
    assert [one.is_new for one in created] == [True, True, False, False, True, True]
    assert created[2].id_ == known.id_
    assert created[3].id_ == created[1].id_


def test_one_conflict_among_many_creates_none_and_leaves_the_transaction_usable(
    session: Session, owner: User
) -> None:
    create(session, owner, "known")
    asked = {"owner": owner, "name": "analysis", "type_": "serial"}
    with pytest.raises(errors.IdempotencyConflict):
        create_workflows(
            session, [asked, {**asked, "idempotency_key": "new"}, {**asked, "idempotency_key": "known"}]
        )
    assert count_runs(session) == 1
    assert create(session, owner, "new").is_new


def many_for_many(uri: str, owners: list[str], number: int) -> None:
    """Create runs for all owners, in an order of this process's own, keyed and unkeyed."""
    engine = database.create_engine(uri, poolclass=sa.NullPool)
    turned = owners[number:] + owners[:number]
    for round_ in range(10):
        key = None if round_ % 2 else f"{number}-{round_}"
        with orm.Session(engine) as session, session.begin():
            create_workflows(
                session,
                [
                    {"owner": owner, "name": "a", "type_": "serial", "idempotency_key": key}
                    for owner in turned
                ],
            )


def test_creators_for_the_same_owners_in_other_orders_do_not_deadlock(
    session: Session, database_uri: str
) -> None:
    owners = [str(make_user(session).id_) for _ in range(4)]
    in_processes(4, many_for_many, database_uri, owners)
    numbers = session.scalars(sa.select(Workflow.run_number_major).where(Workflow.owner_id == owners[0]))
    assert sorted(numbers) == list(range(1, 41))


# -- once


def test_the_same_key_and_content_gives_the_first_run(session: Session, owner: User) -> None:
    first = create(session, owner, "order-7", labels={"a": "1", "b": "2"}, input_parameters={1: 2, "x": 3})
    session.commit()
    again = create(session, owner, "order-7", labels={"b": "2", "a": "1"}, input_parameters={"x": 3, "1": 2})
    assert again == first._replace(is_new=False)
    # Another owner's key is another one.
    assert create(session, make_user(session), "order-7").is_new
    assert count_runs(session) == 2


@pytest.mark.parametrize(
    "other",
    [
        {"type_": "cwl"},
        {"name": "other"},
        {"specification": {"steps": ["fit", "plot"]}},
        {"labels": {"team": "a"}},
        {"status": "queued"},
        {"workspace_path": "/data/one"},
        {"restart": True},
    ],
    ids=str,
)
def test_other_content_under_a_key_is_a_conflict(
    session: Session, owner: User, other: dict[str, Any]
) -> None:
    first = create(session, owner, "order-7")
    asked = {"name": "analysis", "specification": {"steps": ["fit"]}, "type_": "serial", **other}
    with pytest.raises(errors.Conflict) as refused:
        create_workflow(session, owner, idempotency_key="order-7", **asked)
    assert refused.value.http_status == 409
    assert str(refused.value) == (
        f"idempotency key 'order-7' was given before, with other content, for workflow {first.id_}"
    )
    assert count_runs(session) == 1


def test_a_duplicate_can_be_refused(session: Session, owner: User) -> None:
    create(session, owner, "order-7", on_duplicate="raise")
    with pytest.raises(errors.IdempotencyConflict, match="with the same content, for workflow"):
        create(session, owner, "order-7", on_duplicate="raise")
    with pytest.raises(errors.InvalidArgument, match="on_duplicate is one of return, raise, restart_if_end"):
        create(session, owner, "order-7", on_duplicate="replace")


@pytest.mark.parametrize("key", ["", "k" * 256, "ü" * 128])
def test_a_key_has_its_bounds(session: Session, owner: User, key: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=r"idempotency key in bytes must be .* 1 to 255"):
        create(session, owner, key)
    with pytest.raises(errors.InvalidText):
        create(session, owner, "a\0b")


def test_a_run_that_has_ended_is_restarted_and_the_key_follows(session: Session, owner: User) -> None:
    first = create(session, owner, "nightly", on_duplicate="restart_if_ended")
    assert create(session, owner, "nightly", on_duplicate="restart_if_ended").id_ == first.id_
    end(session, first)

    kept = session.scalars(sa.select(IdempotencyKey)).one()
    second = create(session, owner, "nightly", on_duplicate="restart_if_ended")
    assert (second.run_number, second.is_new) == ("1.1", True)
    assert kept.workflow_id == second.id_
    assert create(session, owner, "nightly").id_ == second.id_
    end(session, second)
    assert create(session, owner, "nightly", on_duplicate="restart_if_ended").run_number == "1.2"

    runs = [session.get_one(Workflow, (owner.id_, one.id_)) for one in (first, second)]
    assert runs[0].workspace_path == runs[1].workspace_path
    assert (runs[1].restart, runs[1].specification) == (True, {"steps": ["fit"]})


def test_a_restart_that_is_alive_is_not_restarted_beside(session: Session, owner: User) -> None:
    first = create(session, owner, "nightly", status="queued", on_duplicate="restart_if_ended")
    transition(session, first.id_, "running", model=Workflow)
    queued = requeue(session, first.id_, reason="no GPU")
    assert queued is not None
    again = create(session, owner, "nightly", status="queued", on_duplicate="restart_if_ended")
    assert again == (queued.id_, owner.id_, "1.1", False)
    assert create(session, owner, "nightly", status="queued").id_ == first.id_

    cancel(session, queued)
    last = create(session, owner, "nightly", status="queued", on_duplicate="restart_if_ended")
    assert (last.run_number, last.is_new) == ("1.2", True)


def test_what_may_be_restarted_has_no_id_of_the_callers(session: Session, owner: User) -> None:
    with pytest.raises(errors.InvalidArgument, match="give no id with restart_if_ended"):
        create(session, owner, "nightly", id_=new_id(), on_duplicate="restart_if_ended")


def test_when_a_run_may_start_is_not_what_is_asked_for(session: Session, owner: User) -> None:
    moment = datetime(2030, 1, 1, tzinfo=timezone.utc)
    first = create(session, owner, "nightly", start_after=moment)
    assert create(session, owner, "nightly", start_after=moment + timedelta(hours=1)).id_ == first.id_
    assert session.get_one(Workflow, (owner.id_, first.id_)).start_after == moment


def test_a_run_that_was_deleted_is_followed_by_a_new_one_with_files_of_its_own(
    session: Session, owner: User
) -> None:
    first = create(session, owner, "nightly", on_duplicate="restart_if_ended")
    transition(session, first.id_, "deleted", model=Workflow)
    second = create(session, owner, "nightly", on_duplicate="restart_if_ended")
    assert (second.run_number, second.is_new) == ("2", True)
    assert create(session, owner, "nightly", on_duplicate="restart_if_ended").id_ == second.id_
    runs = [session.get_one(Workflow, (owner.id_, one.id_)) for one in (first, second)]
    assert runs[0].workspace_path != runs[1].workspace_path
    assert not runs[1].restart


def test_a_digest_is_of_what_has_a_value_so_that_new_columns_keep_it(session: Session, owner: User) -> None:
    create(session, owner, "nightly")
    content = {
        "git_ref": "",
        "labels": {},
        "name": "analysis",
        "owner_id": str(owner.id_),
        "restart": False,
        "specification": {"steps": ["fit"]},
        "status": "created",
        "type_": "serial",
    }
    kept = session.scalars(sa.select(IdempotencyKey)).one()
    assert kept.digest == sha256(json.dumps(content).encode()).digest()


def test_many_that_have_ended_are_restarted_together(session: Session, owner: User) -> None:
    policy = {"owner": owner, "name": "a", "type_": "serial", "on_duplicate": "restart_if_ended"}
    one = {**policy, "idempotency_key": "one"}
    two = {**policy, "idempotency_key": "two", "workspace_path": "/data/two"}
    for created in create_workflows(session, [one, two]):
        end(session, created)
    again = create_workflows(session, [two, one, two])
    assert [created.run_number for created in again] == ["2.1", "1.1", "2.1"]
    assert [created.is_new for created in again].count(True) == 2
    assert session.get_one(Workflow, (owner.id_, again[0].id_)).workspace_path == "/data/two"


def test_keys_expire_with_their_age_and_with_their_run(
    session: Session, owner: User, session_factory: SessionFactory
) -> None:
    create(session, owner, "order-7")
    gone = create(session, owner, "order-8")
    session.commit()
    session.execute(sa.delete(Workflow).where(Workflow.id_ == gone.id_))
    session.commit()
    assert create(session, owner, "order-8").is_new
    session.commit()

    (rule,) = choose_rules(["idempotency_key"])
    assert rule.age == timedelta(days=30)
    assert [result.rows for result in prune(session_factory, [rule])] == [0]
    assert [result.rows for result in prune(session_factory, [replace(rule, age=timedelta(0))])] == [2]
    assert create(session, owner, "order-7").is_new


def test_a_tenant_creates_its_own_runs_under_its_own_keys(
    session: Session, owner: User, session_factory: SessionFactory, tenant_roles: None
) -> None:
    first = create(session, owner, "order-7")
    other = make_user(session)
    owner_id, other_id = owner.id_, other.id_
    session.commit()
    asked = ("analysis", {"steps": ["fit"]})
    with tenant_scope(session_factory, owner_id) as own:
        again = create_workflow(own, owner_id, *asked, type_="serial", idempotency_key="order-7")
        assert again == first._replace(is_new=False)
        assert create_workflow(own, owner_id, *asked, type_="serial").run_number == "2"
    for key in (None, "order-8"):
        refused = pytest.raises(sa.exc.ProgrammingError, match="row-level security")
        with refused, tenant_scope(session_factory, owner_id) as own:
            create_workflow(own, other_id, *asked, type_="serial", idempotency_key=key)


# -- once, whatever happens at once


def start_together(session: Session) -> None:
    """Wait until every process of the race does."""
    session.execute(sa.text("SELECT pg_advisory_xact_lock_shared(1313)"))
    session.commit()


def create_once(uri: str, owner: str, policy: str, reports: Path, different: bool, number: int) -> None:
    """Create under one key, and report the run's id, or that there was a conflict."""
    engine = database.create_engine(uri, poolclass=sa.NullPool)
    content = number if different else 0
    with orm.Session(engine) as session:
        start_together(session)
        try:
            created = create_workflow(
                session, owner, "a", content, type_="serial", idempotency_key="one", on_duplicate=policy
            )
            session.commit()
            report = f"{created.id_} {created.is_new}"
        except errors.Conflict:
            report = "conflict"
    (reports / str(number)).write_text(report)


WAITING = sa.text("""
    SELECT count(*) FROM pg_locks JOIN pg_database AS database ON database.oid = pg_locks.database
    WHERE NOT granted AND datname = current_database()
    """)


def race(
    engine: sa.Engine,
    uri: str,
    owner: User,
    policy: str,
    reports: Path,
    processes: int,
    different: bool = False,
) -> list[str]:
    """Let so many processes create under one key at once, and return what they report."""

    def start_when_all_wait() -> None:
        give_up_at = time.monotonic() + 100
        while holder.scalar(WAITING) != processes and time.monotonic() < give_up_at:
            time.sleep(0.01)
        holder.rollback()

    with engine.connect() as holder:
        holder.execute(sa.text("SELECT pg_advisory_xact_lock(1313)"))
        starting = threading.Thread(target=start_when_all_wait)
        starting.start()
        in_processes(processes, create_once, uri, str(owner.id_), policy, reports, different)
        starting.join()
    return [report.read_text() for report in reports.iterdir()]


RACERS = [6, pytest.param(32, marks=pytest.mark.soak)]


@pytest.mark.parametrize("processes", RACERS)
def test_processes_that_create_under_one_key_get_one_run(
    engine: sa.Engine, session: Session, owner: User, database_uri: str, tmp_path: Path, processes: int
) -> None:
    reports = race(engine, database_uri, owner, "return", tmp_path, processes)
    run = session.scalars(sa.select(Workflow)).one()
    assert sorted(reports) == sorted([f"{run.id_} True"] + [f"{run.id_} False"] * (processes - 1))


@pytest.mark.parametrize("processes", RACERS)
def test_processes_that_create_other_content_under_one_key_conflict(
    engine: sa.Engine, session: Session, owner: User, database_uri: str, tmp_path: Path, processes: int
) -> None:
    reports = race(engine, database_uri, owner, "return", tmp_path, processes, different=True)
    run = session.scalars(sa.select(Workflow)).one()
    assert sorted(reports) == sorted([f"{run.id_} True"] + ["conflict"] * (processes - 1))


@pytest.mark.parametrize("processes", RACERS)
def test_processes_that_restart_one_run_make_one_restart(
    engine: sa.Engine, session: Session, owner: User, database_uri: str, tmp_path: Path, processes: int
) -> None:
    first = create_workflow(session, owner, "a", 0, type_="serial", idempotency_key="one")
    end(session, first)
    reports = race(engine, database_uri, owner, "restart_if_ended", tmp_path, processes)
    restart = session.scalars(sa.select(Workflow).where(Workflow.restart)).one()
    assert sorted(reports) == sorted([f"{restart.id_} True"] + [f"{restart.id_} False"] * (processes - 1))


def test_two_transactions_with_the_same_keys_in_opposite_orders_do_not_deadlock(
    session_factory: SessionFactory, session: Session, owner: User
) -> None:
    first = create(session, owner, "one")
    owner_id, found = owner.id_, []

    def other() -> None:
        with session_factory() as another, another.begin():
            found.append(create(another, owner_id, "two"))
            found.append(create(another, owner_id, "one"))

    thread = threading.Thread(target=other)
    thread.start()
    while not session.scalar(WAITING):
        thread.join(0.01)
    second = create(session, owner, "two")
    session.commit()
    thread.join()
    assert [one.id_ for one in found] == [second.id_, first.id_]
