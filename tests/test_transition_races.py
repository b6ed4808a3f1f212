"""Writers of every kind, each in a process of its own, race for one row: one of them changes it."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import Session

from platform_db import database, errors
from platform_db.lifecycle.transitions import set_actor, transition
from platform_db.models import RunStatus, StatusChange, Workflow
from tests.factories import make_run, make_user
from tests.processes import in_processes

ENDS = (RunStatus.finished, RunStatus.failed, RunStatus.stopped)  # none may follow another
ROUNDS = 5


def by_transition(session: Session, run_id: str, status: RunStatus) -> None:
    transition(session, run_id, status, model=Workflow)


def by_bulk_update(session: Session, run_id: str, status: RunStatus) -> None:
    session.execute(sa.update(Workflow).where(Workflow.id_ == run_id).values(status=status))


def by_attribute(session: Session, run_id: str, status: RunStatus) -> None:
    session.scalars(sa.select(Workflow).where(Workflow.id_ == run_id)).one().status = status


WAYS = (by_transition, by_bulk_update, by_attribute)
WRITERS = len(WAYS) * len(ENDS)


def write(uri: str, run_ids: list[str], reports: Path, number: int) -> None:
    """End each run in this writer's way with this writer's status, and report on which it was accepted."""
    engine = database.create_engine(uri, poolclass=sa.NullPool)
    way, status = WAYS[number % len(WAYS)], ENDS[number // len(WAYS)]
    for round_, run_id in enumerate(run_ids):
        try:
            with orm.Session(engine) as session, session.begin():
                set_actor(session, str(number))
                way(session, run_id, status)
        except errors.InvalidTransition:
            continue
        (reports / f"{round_}-{number}").write_text(status.value)


def release_when_all_wait(engine: sa.Engine, holders: list[sa.Connection]) -> None:
    """Let go of one row after another, each when every writer waits for it."""
    waiting = sa.text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as watcher:
        for holder in holders:
            give_up_at = time.monotonic() + 60
            while watcher.scalar(waiting) != WRITERS and time.monotonic() < give_up_at:
                time.sleep(0.01)
            holder.rollback()


def test_of_many_writers_exactly_one_ends_the_run(
    engine: sa.Engine, session: Session, database_uri: str, tmp_path: Path
) -> None:
    owner = make_user(session)
    runs = [make_run(session, owner, status="running") for _ in range(ROUNDS)]
    run_ids = [str(run.id_) for run in runs]
    holders = [engine.connect() for _ in runs]
    for holder, run_id in zip(holders, run_ids, strict=True):
        holder.execute(sa.text("SELECT FROM platform.workflow WHERE id_ = :id FOR UPDATE"), {"id": run_id})
    releasing = threading.Thread(target=release_when_all_wait, args=(engine, holders))
    releasing.start()

    in_processes(WRITERS, write, database_uri, run_ids, tmp_path)

    releasing.join()
    session.expire_all()
    for round_, run in enumerate(runs):
        accepted = {path.name.partition("-")[2]: path.read_text() for path in tmp_path.glob(f"{round_}-*")}
        (change,) = session.scalars(sa.select(StatusChange).where(StatusChange.entity_id == run.id_))
        assert (change.from_status, change.to_status) == ("running", run.status)
        assert change.actor in accepted
        # Whoever asked for the status that was stored already met no refusal, and changed nothing.
        assert set(accepted.values()) == {run.status.value}
        assert run.revision == 1
    for holder in holders:
        holder.close()
