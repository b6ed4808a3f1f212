"""Run numbers: counted per owner and name, never twice, whatever happens at once."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from platform_db import database, errors, sessions
from platform_db.models import User, Workflow, split_run_number
from tests.factories import make_run, make_user
from tests.processes import in_processes


def new_run(owner_id: object, name: str, **values: object) -> Workflow:
    return Workflow(name=name, owner_id=owner_id, type_="serial", specification={}, **values)


def test_numbers_count_per_owner_and_name(session: Session) -> None:
    one, other = make_user(session), make_user(session)
    assert [make_run(session, one).run_number for _ in range(3)] == ["1", "2", "3"]
    assert make_run(session, one, name="other").run_number == "1"
    assert make_run(session, other).run_number == "1"


def test_one_flush_numbers_many_runs_in_order(session: Session) -> None:
    owner = make_user(session)
    runs = [new_run(owner.id_, name) for name in ("a", "b", "a", "a", "b")]
    session.add_all(runs)
    session.flush()
    assert [run.get_full_workflow_name() for run in runs] == ["a.1", "b.1", "a.2", "a.3", "b.2"]


def test_a_new_users_first_run_may_come_in_the_same_flush(session: Session) -> None:
    owner = User(email="new@example.org")
    run = Workflow(name="first", owner=owner, type_="serial", specification={})
    session.add(run)
    session.commit()
    assert run.run_number == "1"
    assert str(owner.id_) in run.workspace_path


def test_restarts_count_below_their_run_without_a_limit(session: Session) -> None:
    owner, another = make_user(session), make_user(session)
    for _ in range(2):
        make_run(session, owner)
        make_run(session, another)
    restarts = [make_run(session, owner, restart=True, run_number="2") for _ in range(11)]
    assert [run.run_number for run in restarts] == [f"2.{n}" for n in range(1, 12)]
    assert make_run(session, owner, restart=True, run_number="2.3").run_number == "2.12"
    assert make_run(session, owner, restart=True, run_number="1").run_number == "1.1"
    assert make_run(session, owner, restart=True).run_number == "2.13"
    assert make_run(session, owner).run_number == "3"
    assert [run.run_number for run in restarts[0].get_all_restarts()] == [
        "2",
        *(f"2.{n}" for n in range(1, 14)),
    ]


@pytest.mark.parametrize("number", [None, "1", "7"])
def test_a_restart_of_what_never_ran_is_refused(session: Session, number: str | None) -> None:
    owner = make_user(session)
    session.add(new_run(owner.id_, "never", restart=True, run_number=number))
    with pytest.raises(errors.RunNumberError, match="of 'never' to restart"):
        session.flush()


def test_a_run_from_elsewhere_brings_its_number(session: Session) -> None:
    owner = make_user(session)
    assert make_run(session, owner, run_number="7.2").run_number == "7.2"
    assert make_run(session, owner).run_number == "8"
    assert make_run(session, owner, restart=True, run_number="7").run_number == "7.3"


def test_whatever_gives_a_number_moves_the_counters(session: Session) -> None:
    owner = make_user(session)
    values = {"owner_id": owner.id_, "name": "moved", "type_": "serial", "workspace_path": "/w"}
    session.execute(
        sa.insert(Workflow),
        [
            {**values, "run_number_major": 4, "run_number_minor": 0},
            {**values, "run_number_major": 2, "run_number_minor": 3},
        ],
    )
    assert make_run(session, owner, name="moved").run_number == "5"
    assert make_run(session, owner, name="moved", restart=True, run_number="2").run_number == "2.4"

    renamed = make_run(session, owner, name="former")
    renamed.name = "latter"
    session.commit()
    assert make_run(session, owner, name="latter").run_number == "2"

    session.execute(sa.update(Workflow).where(Workflow.id_ == renamed.id_).values(run_number_major=7))
    session.commit()
    assert make_run(session, owner, name="latter").run_number == "8"


def test_a_run_keeps_its_number(session: Session) -> None:
    owner = make_user(session)
    run = make_run(session, owner)
    restart = make_run(session, owner, restart=True)
    assert run.assign_run_number() == run.assign_run_number("1") == (1, 0)
    for numbered in (run, restart):
        with pytest.raises(errors.RunNumberError, match="this run is 1"):
            numbered.assign_run_number("9")


def test_a_run_has_no_number_before_it_is_flushed(session: Session) -> None:
    restart = new_run(make_user(session).id_, "early", restart=True, run_number="2")
    with pytest.raises(errors.RunNumberError, match="before it is flushed"):
        restart.get_full_workflow_name()


def test_a_number_can_be_taken_before_the_flush(session: Session) -> None:
    owner = make_user(session)
    run = new_run(owner.id_, "early")
    with session.no_autoflush:
        session.add(run)
        assert run.assign_run_number() == (1, 0)
    session.commit()
    assert run.run_number == "1"
    assert make_run(session, owner, name="early").run_number == "2"


def test_runs_that_no_flush_writes_are_numbered_too(session: Session) -> None:
    owner = make_user(session)
    values = {"owner_id": owner.id_, "name": "bulk", "type_": "serial", "workspace_path": "/w"}
    session.execute(sa.insert(Workflow), [values] * 3)
    session.execute(
        sa.text(
            "INSERT INTO platform.workflow (id_, owner_id, name, type_, workspace_path, restart)"
            " VALUES (gen_random_uuid(), :owner_id, 'bulk', 'serial', '/w', true)"
        ),
        {"owner_id": owner.id_},
    )
    runs = session.scalars(sa.select(Workflow).where(Workflow.name == "bulk"))
    assert sorted(run.run_number for run in runs) == ["1", "2", "3", "3.1"]


def test_split_run_number() -> None:
    assert split_run_number("2.10") == (2, 10)
    assert split_run_number("2") == (2, 0)
    for wrong in ("", "0", "2.", ".1", "2.1.1", "-1", "2.x", "٢", "01"):
        with pytest.raises(errors.RunNumberError):
            split_run_number(wrong)


def create_fifty(uri: str, owner_id: object, number: int) -> None:
    factory = sessionmaker(database.create_engine(uri))
    for _ in range(50):
        with factory() as session, session.begin():
            session.add(new_run(owner_id, "same"))


def create_in_opposite_orders(uri: str, owner_id: object, number: int) -> None:
    factory = sessionmaker(database.create_engine(uri))

    def two_runs(session: Session) -> None:
        for name in ("a", "b") if number % 2 else ("b", "a"):
            session.add(new_run(owner_id, name))
            session.flush()

    for _ in range(10):
        sessions.run_transaction(two_runs, factory=factory, attempts=1)


def create_for_both(uri: str, owner_ids: list[object], number: int) -> None:
    factory = sessionmaker(database.create_engine(uri))

    def two_runs(session: Session) -> None:
        ordered = owner_ids if number % 2 else owner_ids[::-1]
        session.add_all([new_run(owner_id, "same") for owner_id in ordered])

    for _ in range(20):
        sessions.run_transaction(two_runs, factory=factory, attempts=1)


def test_one_flush_may_take_its_owners_in_any_order(session: Session, database_uri: str) -> None:
    owners = [make_user(session).id_ for _ in range(2)]
    session.commit()
    in_processes(8, create_for_both, database_uri, owners)
    counts = session.execute(
        sa.select(sa.func.max(Workflow.run_number_major)).group_by(Workflow.owner_id)
    ).scalars()
    assert list(counts) == [160, 160]


def test_sixteen_processes_get_eight_hundred_numbers(session: Session, database_uri: str) -> None:
    owner = make_user(session)
    in_processes(16, create_fifty, database_uri, owner.id_)
    numbers = session.scalars(sa.select(Workflow.run_number_major).order_by(Workflow.run_number_major)).all()
    assert numbers == list(range(1, 801))


def test_opposite_orders_in_one_transaction_end_well(session: Session, database_uri: str) -> None:
    owner = make_user(session)
    in_processes(16, create_in_opposite_orders, database_uri, owner.id_)
    for name in ("a", "b"):
        numbers = session.scalars(
            sa.select(Workflow.run_number_major)
            .where(Workflow.name == name)
            .order_by(Workflow.run_number_major)
        ).all()
        assert numbers == list(range(1, 161))
