"""One contract for sessions: every public function takes a plain session or a registry of sessions."""

from __future__ import annotations

import ast
import inspect
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import event, orm

import platform_db
from platform_db.database.session import PlatformSession
from platform_db.lifecycle import history, transition
from platform_db.logs import append_log
from platform_db.models import LogSize, RunStatus, Workflow
from tests.factories import make_run, make_user

ROOT = Path(platform_db.__file__).parent

# Rooms whose functions services call with a session of theirs.
ROOMS = (
    "audit",
    "health",
    "jobs",
    "leases",
    "lifecycle",
    "logs",
    "query",
    "quota",
    "retention",
    "tokens",
    "users",
    "workflows",
)


def public_functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield the functions that rooms offer and whose first argument is a session."""
    for room in ROOMS:
        package = __import__(f"platform_db.{room}", fromlist=["x"])
        offered = set(getattr(package, "__all__", ())) or {
            name for name in vars(package) if not name.startswith("_")
        }
        paths = (
            [ROOT / f"{room}.py"] if (ROOT / f"{room}.py").exists() else sorted((ROOT / room).glob("*.py"))
        )
        for path in paths:
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.FunctionDef) and node.name in offered:
                    arguments = [*node.args.posonlyargs, *node.args.args]
                    if arguments and arguments[0].arg == "session":
                        yield f"{room}.{node.name}", node


def test_every_public_function_takes_a_registry_of_sessions() -> None:
    found = dict(public_functions())
    assert len(found) > 40
    lacking = [
        name
        for name, node in found.items()
        if "takes_session" not in {getattr(decorator, "id", "") for decorator in node.decorator_list}
    ]
    assert lacking == []


@pytest.fixture
def registry(engine: sa.Engine) -> Iterator[orm.scoped_session[PlatformSession]]:
    """Give a registry of sessions, as web frameworks use one."""
    registry = orm.scoped_session(orm.sessionmaker(engine, class_=PlatformSession))
    yield registry
    registry.remove()


def test_a_registry_serves_as_a_session(registry: orm.scoped_session[PlatformSession]) -> None:
    run = make_run(registry(), make_user(registry()))
    assert transition(registry, run, "queued") is RunStatus.queued
    assert transition(registry, run.id_, "pending", model=Workflow) is RunStatus.pending
    assert append_log(registry, run, "line\n") == 5
    registry.commit()
    assert [entry.to_status for entry in history(registry, run).rows] == ["queued", "pending"]
    assert (run.status, run.logs) == (RunStatus.pending, "line\n")
    assert registry.scalars(sa.select(LogSize.bytes_)).one() == 5


def test_what_a_rolled_back_session_appended_is_counted_by_no_other(
    registry: orm.scoped_session[PlatformSession], session: PlatformSession
) -> None:
    run_id = make_run(session, make_user(session)).id_
    append_log(registry, run_id, "lost\n", model=Workflow)
    registry.rollback()
    append_log(session, run_id, "kept on\n", model=Workflow)
    session.commit()
    registry.commit()
    assert session.scalars(sa.select(LogSize.bytes_)).one() == len("kept on\n")


def count_listeners() -> int:
    """Return how many listeners a new session has."""
    names = ("before_commit", "after_begin", "after_transaction_end", "before_flush", "do_orm_execute")
    return sum(len(list(getattr(orm.Session().dispatch, name))) for name in names)


def test_six_hundred_requests_take_no_longer_at_the_end(
    registry: orm.scoped_session[PlatformSession],
) -> None:
    run = make_run(registry(), make_user(registry()))
    key = run.owner_id, run.id_
    registry.remove()

    def serve() -> float:
        begun = time.process_time()
        append_log(registry, registry.get_one(Workflow, key), "a line\n")
        registry.commit()
        registry.remove()
        return time.process_time() - begun

    serve()
    listeners = count_listeners()
    took = [serve() for _ in range(600)]
    assert count_listeners() == listeners
    # The process's own time, and medians, since other work on the machine slows some of them down.
    first, last = (sorted(part)[50] for part in (took[:100], took[-100:]))
    assert last < 2 * first


def test_a_row_is_found_by_its_id_alone(session: PlatformSession) -> None:
    run = make_run(session, make_user(session))
    key = run.owner_id, run.id_
    session.expunge_all()
    found = session.get(Workflow, key[1])
    assert found is not None
    assert found is session.get(Workflow, str(key[1])) is session.get(Workflow, key)
    assert session.get(Workflow, key[0]) is None


def test_a_flush_names_the_owner_in_each_statement(session: PlatformSession) -> None:
    run = make_run(session, make_user(session))
    sent: list[str] = []
    event.listen(session.connection(), "before_cursor_execute", lambda *a: sent.append(a[2]))
    run.name = "renamed"
    session.flush()
    session.delete(run)
    session.flush()
    written = [statement for statement in sent if statement.startswith(("UPDATE", "DELETE"))]
    assert len(written) == 2
    assert all("workflow.owner_id = " in statement for statement in written)


def test_the_decorator_keeps_signature_and_docstring() -> None:
    assert next(iter(inspect.signature(transition).parameters)) == "session"
    assert "Set a row's status" in (transition.__doc__ or "")
