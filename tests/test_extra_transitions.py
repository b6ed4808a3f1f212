"""Extra transitions: what a platform allows beyond the states, by whom, and what tells that it happened."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from platform_db import errors, states
from platform_db.audit import list_audit
from platform_db.database.session import PlatformSession
from platform_db.lifecycle import history, override_guard, transition, transition_many
from platform_db.lifecycle.extra_transitions import (
    allow_transition,
    forbid_transition,
    list_extra_transitions,
)
from platform_db.models import NOBODY, ExtraTransition, Job, RunStatus, Workflow, WorkspaceRetentionRule
from platform_db.tenancy.privileges import Role
from tests.command_line import one_line, run
from tests.factories import make_guarded, make_run, make_user
from tests.locks import wait_for_a_lock
from tests.tenants import login_engine, prepare_roles

STOPPED_RUNS = ("workflow", "stopped", "running")

WHY = "runs go on as before"


def allow(session: orm.Session, *named: str, reason: str = WHY) -> None:
    allow_transition(session, *(named or STOPPED_RUNS), reason=reason)
    session.commit()


def marks(session: orm.Session) -> list[tuple[str, str, bool, bool | None]]:
    """Return what the history says of each change of a status, in its order."""
    query = "SELECT from_status, to_status, overridden, extra FROM platform.status_change ORDER BY number"
    return [tuple(row) for row in session.execute(sa.text(query))]


def by_transition(session: orm.Session, row: Any, status: states.Status) -> None:
    transition(session, row, status)


def by_many(session: orm.Session, row: Any, status: states.Status) -> None:
    (result,) = transition_many(session, [row], status)
    if result.refusal:
        raise result.refusal
    assert result.changed is True


def by_attribute(session: orm.Session, row: Any, status: states.Status) -> None:
    row.status = status
    session.flush()


def by_bulk(session: orm.Session, row: Any, status: states.Status) -> None:
    session.execute(sa.update(type(row)).where(type(row).id_ == row.id_).values(status=status))


WAYS = (by_transition, by_many, by_attribute, by_bulk)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("entity", [name for name in states.MACHINES if name != "user_token"])
def test_every_way_agrees_and_the_history_marks_it(
    session: PlatformSession, entity: str, way: Callable[..., None]
) -> None:
    machine = states.MACHINES[entity]
    stored, status = next(
        (a, b) for a in machine.statuses for b in machine.statuses if not machine.allows(a, b)
    )
    row = make_guarded(session, make_user(session), entity, stored)
    with pytest.raises(errors.InvalidTransition), session.begin_nested():
        way(session, row, status)
    session.refresh(row)
    allow(session, entity, stored, status)
    way(session, row, status)
    session.commit()
    assert (row.status, row.revision) == (status, 1)
    assert marks(session) == [(stored, status, False, True)]
    forbid_transition(session, entity, stored, status)
    other = make_guarded(session, make_user(session), entity, stored)
    with pytest.raises(errors.InvalidTransition):
        way(session, other, status)


def test_a_model_answers_from_the_states_alone(session: PlatformSession) -> None:
    allow(session)
    run = make_run(session, make_user(session), status="stopped")
    assert not run.can_transition_to(RunStatus.running)


def test_only_what_comes_through_one_is_marked(session: PlatformSession) -> None:
    run = make_run(session, make_user(session), status="running")
    allow(session)
    for status in ("stopped", "running", "failed"):
        transition(session, run, status)
    with override_guard(session, reason="the worker was lost"):
        transition(session, run, "stopped")
    transition(session, run, "running")
    run.version = 2
    session.commit()
    assert [mark[2:] for mark in marks(session)] == [
        (False, None),
        (False, True),
        (False, None),
        (True, None),
        (False, True),
        (False, None),
    ]
    assert [entry.extra for entry in history(session, run).rows] == [None, True, None, None, True, None]


def test_no_session_marks_a_legal_change(session: PlatformSession) -> None:
    run = make_run(session, make_user(session))
    session.execute(sa.text("SET LOCAL platform.extra = 'on'"))
    transition(session, run, "queued")
    assert marks(session) == [("created", "queued", False, None)]


def test_of_many_rows_each_goes_by_its_own_rule(session: PlatformSession) -> None:
    allow(session)
    allow(session, "workflow", "deleted", "running")
    owners = [make_user(session), make_user(session)]
    given = ("stopped", "pending", "created", "deleted", "running", "stopped")
    runs = [make_run(session, owners[n % 2], status=status) for n, status in enumerate(given)]
    expected = {runs[5].id_: 7}
    results = transition_many(session, runs, "running", expected_revision=expected, reason="again")
    session.commit()
    assert [result.changed for result in results] == [True, True, False, True, False, False]
    refusals = [None, None, errors.InvalidTransition, None, None, errors.Conflict]
    assert [result.refusal and type(result.refusal) for result in results] == refusals
    assert sorted(marks(session)) == [
        ("deleted", "running", False, True),
        ("pending", "running", False, None),
        ("stopped", "running", False, True),
    ]
    assert session.scalars(sa.text("SELECT DISTINCT reason FROM platform.status_change")).all() == ["again"]


def test_what_the_caller_expects_counts_as_for_every_transition(session: PlatformSession) -> None:
    allow(session)
    run = make_run(session, make_user(session), status="stopped")
    with pytest.raises(errors.Conflict):
        transition(session, run, "running", expected_revision=1)
    with pytest.raises(errors.Conflict):
        transition(session, run, "running", expected_status="failed")
    assert transition(session, run, "running", expected_status="stopped") is RunStatus.running


def test_a_legal_change_never_looks(engine: sa.Engine, session: PlatformSession) -> None:
    owner = make_user(session)
    runs = [make_run(session, owner) for _ in range(3)]
    with engine.begin() as other:
        other.execute(sa.text("LOCK TABLE platform.extra_transition IN ACCESS EXCLUSIVE MODE"))
        session.execute(sa.text("SET LOCAL lock_timeout = '1s'"))
        transition(session, runs[0], "queued")
        assert all(result.changed for result in transition_many(session, runs[1:], "queued"))
        runs[0].status = RunStatus.pending
        session.commit()


def test_a_life_that_begins_again_has_its_own_times(session: PlatformSession) -> None:
    allow(session, "workflow", "failed", "pending")
    allow(session, "job", "failed", "running")
    run = make_run(session, make_user(session), status="running")
    job = Job(workflow_id=run.id_, status="running")
    rule = WorkspaceRetentionRule(workflow_id=run.id_, workspace_files="*", retention_days=1)
    session.add_all([job, rule])
    session.commit()
    before = job.started_at
    transition(session, run, "failed")
    transition(session, job, "failed")
    session.commit()
    assert rule.status == "active"
    transition(session, run, "pending")
    transition(session, job, "running")
    assert (run.run_started_at, run.run_finished_at, rule.status) == (None, None, "inactive")
    assert before is not None and job.started_at is not None
    assert (job.started_at > before, job.finished_at) == (True, None)


# A trigger fires in the order of names: this one before or after the guard.
PAUSE = """
    CREATE FUNCTION public.pause() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NEW; END $$;
    CREATE TRIGGER {name} BEFORE UPDATE ON platform.workflow FOR EACH ROW EXECUTE FUNCTION public.pause();
"""


@pytest.mark.parametrize("way", [by_transition, by_many])
@pytest.mark.parametrize(("name", "outcome"), [("a_pause", "refused"), ("z_pause", "running")])
def test_one_that_is_forbidden_at_this_moment(
    engine: sa.Engine, session: PlatformSession, way: Callable[..., None], name: str, outcome: str
) -> None:
    factory = orm.sessionmaker(engine, class_=PlatformSession)
    allow(session)
    run = make_run(session, make_user(session), status="stopped")
    session.execute(sa.text(PAUSE.format(name=name)))
    session.commit()
    outcomes = []

    def write() -> None:
        try:
            with factory() as writer, writer.begin():
                stored = writer.get_one(Workflow, run.id_)
                way(writer, stored, RunStatus.running)
                outcomes.append(str(stored.status))
        except errors.InvalidTransition:
            outcomes.append("refused")

    session.execute(sa.text("SELECT pg_advisory_lock(1)"))
    session.commit()
    key = run.id_
    thread = threading.Thread(target=write)
    thread.start()
    wait_for_a_lock(factory)
    with factory() as operator, operator.begin():
        assert forbid_transition(operator, *STOPPED_RUNS)
    session.execute(sa.text("SELECT pg_advisory_unlock(1)"))
    session.commit()
    thread.join()
    assert outcomes == [outcome]
    assert session.get_one(Workflow, key).status == ("stopped" if outcome == "refused" else outcome)
    assert marks(session) == ([("stopped", "running", False, True)] if outcome == "running" else [])


def test_writers_race_with_an_operator_who_replaces_it(engine: sa.Engine, session: PlatformSession) -> None:
    factory = orm.sessionmaker(engine, class_=PlatformSession)
    owner = make_user(session)
    runs = [make_run(session, owner, status="stopped").id_ for _ in range(90)]
    done, changed = threading.Event(), []

    def write(mine: list[Any]) -> None:
        for run_id in mine:
            try:
                with factory() as writer, writer.begin():
                    (result,) = transition_many(writer, [run_id], "running", model=Workflow)
                    stored = transition(writer, run_id, "running", model=Workflow, on_conflict="report")
                    assert stored == "running" or not result.changed
            except errors.InvalidTransition:
                continue  # It was forbidden between the statement and its trigger.
            if stored == "running":
                changed.append(run_id)

    def replace() -> None:
        n = 0
        while not done.is_set():
            n += 1
            with factory() as operator, operator.begin():
                forbid_transition(operator, *STOPPED_RUNS)
                if n % 3:  # Mostly in one transaction.
                    allow_transition(operator, *STOPPED_RUNS, reason=f"reason {n}")

    writers = [threading.Thread(target=write, args=(runs[n::3],)) for n in range(3)]
    operator = threading.Thread(target=replace)
    for thread in (operator, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    operator.join()
    assert len(changed) > 0
    assert marks(session) == [("stopped", "running", False, True)] * len(changed)


def test_who_allowed_and_forbade_what_is_in_the_audit_log(session: PlatformSession) -> None:
    admin = make_user(session)
    session.commit()
    assert allow_transition(session, *STOPPED_RUNS, reason=WHY, actor=admin)
    assert not allow_transition(session, *STOPPED_RUNS, reason=WHY)
    assert allow_transition(session, *STOPPED_RUNS, reason="another")
    assert forbid_transition(session, *STOPPED_RUNS, actor=admin)
    assert not forbid_transition(session, *STOPPED_RUNS)
    session.execute(
        sa.text("INSERT INTO platform.extra_transition VALUES ('job', 'failed', 'queued', 'by hand')")
    )
    session.commit()
    rows = [row for row in reversed(list_audit(session).rows) if row.action.endswith("_transition")]
    assert [(row.action, row.details["reason"], row.actor_id) for row in rows if row.details] == [
        ("allow_transition", WHY, admin.id_),
        ("forbid_transition", WHY, None),
        ("allow_transition", "another", None),
        ("forbid_transition", "another", admin.id_),
        ("allow_transition", "by hand", None),
    ]
    assert {row.owner_id for row in rows} == {NOBODY}
    assert rows[0].details == {
        "entity": "workflow",
        "from_status": "stopped",
        "to_status": "running",
        "reason": WHY,
    }
    assert [row.reason for row in list_extra_transitions(session)] == ["by hand"]


WRONG = [
    (
        ("workflows", "stopped", "running"),
        "'workflows' takes no extra transition; choose from interactive_session",
    ),
    (
        ("user_token", "revoked", "active"),
        "'user_token' takes no extra transition; choose from interactive_session",
    ),
    (("workflow", "stoped", "running"), "workflow has no status 'stoped', only created, queued"),
    (("workflow", "stopped", "runing"), "workflow has no status 'runing', only created, queued"),
    (("workflow", "created", "queued"), "the states let a workflow go from created to queued anyway"),
    (("job", "failed", "failed"), "the states let a job go from failed to failed anyway"),
]


@pytest.mark.parametrize(("named", "message"), WRONG)
def test_what_is_wrong_is_told_in_one_line(database_uri: str, named: tuple[str, ...], message: str) -> None:
    for command in (("allow", *named, "--reason", "why"), ("forbid", *named)):
        result = run(database_uri, "guard", *command)
        assert result.exit_code == 2
        assert one_line(result.stderr).startswith(f"platform-db: {message}")


def test_the_command_line_allows_lists_and_forbids(database_uri: str, session: PlatformSession) -> None:
    stored = make_run(session, make_user(session, email="ada@example.org"), status="stopped")
    why = ("--reason", WHY)
    assert run(database_uri, "guard", "list").stdout == "none\n"
    assert run(database_uri, "guard", "allow", *STOPPED_RUNS, *why).stdout == "allowed\n"
    assert run(database_uri, "guard", "allow", *STOPPED_RUNS, *why).stdout.startswith("nothing to do")
    listed = run(database_uri, "guard", "list").stdout.splitlines()
    assert [line.split(maxsplit=3) for line in listed] == [
        ["ENTITY", "FROM", "TO", "REASON"],
        [*STOPPED_RUNS, WHY],
    ]
    facts = {"entity": "workflow", "from": "stopped", "to": "running", "reason": WHY}
    assert json.loads(run(database_uri, "guard", "list", "--json").stdout) == [facts]
    assert (
        f"\nextra transition: workflow from stopped to running ({WHY})\n"
        in run(database_uri, "db", "check").stdout
    )
    assert json.loads(run(database_uri, "db", "check", "--json").stdout)["extra_transitions"] == [facts]
    transition(session, stored, "running")
    session.commit()
    shown = run(database_uri, "workflow", "history", str(stored.id_))
    assert "stopped → running (extra)" in shown.stdout
    (entry,) = json.loads(run(database_uri, "workflow", "history", str(stored.id_), "--json").stdout)
    assert entry["extra"] is True
    assert run(database_uri, "guard", "forbid", *STOPPED_RUNS).stdout == "forbidden\n"
    assert run(database_uri, "guard", "forbid", *STOPPED_RUNS).stdout == "nothing to do: it was not allowed\n"
    (row,) = list_audit(session, action="forbid_transition").rows
    assert row.service == "platform-db"
    assert "extra" not in run(database_uri, "db", "check").stdout


def test_a_reason_says_something_and_no_token(database_uri: str, session: PlatformSession) -> None:
    with pytest.raises(errors.InvalidArgument, match="needs a reason"):
        allow_transition(session, *STOPPED_RUNS, reason=" ")
    with pytest.raises(errors.TokenInText):
        allow_transition(session, *STOPPED_RUNS, reason=f"pdb_a{'0' * 49}")
    assert run(database_uri, "guard", "allow", *STOPPED_RUNS).exit_code == 2


def test_only_the_tables_owner_allows_and_forbids(engine: sa.Engine, session: PlatformSession) -> None:
    prepare_roles(engine)
    allow(session)
    login = login_engine(engine, "extra_transition_service", Role.service)
    stored = make_run(session, make_user(session), status="stopped")
    with orm.Session(login) as service:
        for act in (
            lambda: allow_transition(service, "job", "failed", "queued", reason=WHY),
            lambda: forbid_transition(service, *STOPPED_RUNS),
        ):
            with pytest.raises(sa.exc.ProgrammingError, match="permission denied"), service.begin_nested():
                act()
        assert [row.reason for row in list_extra_transitions(service)] == [WHY]
        transition(service, stored.id_, "running", model=Workflow)
        service.commit()
    login.dispose()
    assert marks(session) == [("stopped", "running", False, True)]


def test_what_a_release_no_longer_has_can_be_taken_back(session: PlatformSession) -> None:
    session.add(ExtraTransition(entity="job", from_status="paused", to_status="running", reason="of old"))
    session.commit()
    assert forbid_transition(session, "job", "paused", "running")
    with pytest.raises(errors.UnknownStatus):
        forbid_transition(session, "job", "paused", "running")
